"""Shape arithmetic: Shape, Reshape, Expand, Squeeze, Flatten, Size, Range, Tile."""

from __future__ import annotations

import numpy as np

from careless.graph import Graph

GRAPHS = (
    Graph(
        "shape_with_start_and_end",
        "start and end, also negative, choose a part",
        "g (float[2, 3, 4] x) => (int64[2] a, int64[1] b, int64[0] c) "
        "{ a = Shape <start = 1> (x) b = Shape <start = -2, end = -1> (x) "
        "c = Shape <start = 2, end = 1> (x) }",
    ),
    Graph(
        "shape_with_start_of_a_dynamic_value",
        "the same where one dimension is not known",
        "g (float[N, 3, 4] x) => (float[K, L] y) <int64[1] m = {-1}> "
        "{ s = Shape <start = 1, end = 2> (x) t = Concat <axis = 0> (m, s) y = Reshape (x, t) }",
    ),
    Graph(
        "shape_out_of_range_is_clamped",
        "start and end beyond the rank are clamped",
        "g (float[2, 3] x) => (int64[2] a, int64[2] b) "
        "{ a = Shape <start = -9, end = 9> (x) b = Shape <end = 5> (x) }",
    ),
    Graph(
        "reshape_chain_where_zero_copies",
        "0 copies from the input of the second Reshape, not of the first",
        "g (float[2, 3, 4] x) => (float[6, 4] y) <int64[3] s = {6, 2, 2}, int64[2] t = {0, -1}> "
        "{ a = Reshape (x, s) y = Reshape (a, t) }",
    ),
    Graph(
        "reshape_chain_where_the_first_zero_copies",
        "the first shape has zeros too",
        "g (float[N, 3, 4] x) => (float[A, B] y) <int64[2] s = {0, -1}, int64[3] t = {0, 4, 3}, "
        "int64[2] u = {-1, 3}> { a = Reshape (x, s) b = Reshape (a, t) y = Reshape (b, u) }",
    ),
    Graph(
        "reshape_that_allows_zero",
        "with allowzero=1 a 0 is an empty dimension",
        "g (float[0, 3] x) => (float[3, 0] y) <int64[2] s = {3, 0}> "
        "{ y = Reshape <allowzero = 1> (x, s) }",
    ),
    Graph(
        "reshape_chain_of_which_one_allows_zero",
        "allowzero of one Reshape is not that of the next",
        "g (float[0, 3] x) => (float[0, 7] y) <int64[2] s = {0, 5}, int64[2] t = {0, 7}> "
        "{ a = Reshape <allowzero = 1> (x, s) y = Reshape (a, t) }",
    ),
    Graph(
        "reshape_to_its_own_shape",
        "to the declared shape: nothing; to the same size but another shape: something",
        "g (float[2, 3] x) => (float[2, 3] a, float[3, 2] b) <int64[2] s = {2, 3}, "
        "int64[2] t = {3, 2}> { a = Reshape (x, s) b = Reshape (x, t) }",
    ),
    Graph(
        "reshape_of_two_dynamic_dimensions",
        "one -1 cannot stand for two unknown dimensions",
        "g (float[N, M, 4] x) => (float[A, B, 2, 2] y) <int64[2] t = {2, 2}> "
        "{ s = Shape <end = 2> (x) u = Concat <axis = 0> (s, t) y = Reshape (x, u) }",
    ),
    Graph(
        "reshape_with_a_product_of_dimensions",
        "N*M as -1 is right unless something is 0",
        "g (float[N, M, 4] x) => (float[A, 4] y) <int64 i = {0}, int64 j = {1}, int64[1] z = {0}, "
        "int64[1] four = {4}> { s = Shape (x) n = Gather (s, i) m = Gather (s, j) p = Mul (n, m) "
        "q = Unsqueeze (p, z) t = Concat <axis = 0> (q, four) y = Reshape (x, t) }",
    ),
    Graph(
        "reshape_of_an_empty_dynamic_value",
        "-1 is ambiguous where the value may be empty",
        "g (float[N, 0] x) => (float[A, 0] y) { s = Shape (x) y = Reshape <allowzero = 1> (x, s) }",
    ),
    Graph(
        "halved_and_doubled_dimension",
        "N / 2 * 2 is not N",
        "g (float[N] x) => (int64 y) <int64 two = {2}, int64[1] z = {0}> "
        "{ s = Shape (x) n = Squeeze (s, z) h = Div (n, two) y = Mul (h, two) }",
    ),
    Graph(
        "dimensions_in_int32",
        "a product of dimensions as int32 wraps around",
        "g (int64[2] x) => (int32[1] y) <int64[1] i = {0}, int32[1] k = {65536}> "
        "{ e = Gather (x, i) c = Cast <to = 6> (e) p = Mul (c, k) y = Mul (p, k) }",
        fixed={"x": np.array([65537, 2], np.int64)},
    ),
    Graph(
        "constant_int32_overflow_in_shapes",
        "the same of constants",
        "g (float[1] x) => (float[1] y) <int32 c = {65536}> "
        "{ p = Mul (c, c) q = Cast <to = 1> (p) y = Add (x, q) }",
    ),
    Graph(
        "expand_that_broadcasts_only_sometimes",
        "Expand to (1, 3) of (N, 3) does nothing, to (2, 3) of (N, 3) it does if N is 1",
        "g (float[N, 3] x) => (float[A, 3] a, float[B, 3] b) <int64[2] s = {1, 3}, "
        "int64[2] t = {3, 1}> { a = Expand (x, s) b = Expand (x, t) }",
        fixed={"x": np.array([[1, 2, 3]], np.float32)},
    ),
    Graph(
        "expand_to_its_own_shape",
        "an Expand to Shape(x) of x does nothing, of another value it may",
        "g (float[N, 3] x, float[1, 3] z) => (float[A, 3] a, float[B, 3] b) "
        "{ s = Shape (x) a = Expand (x, s) b = Expand (z, s) }",
    ),
    Graph(
        "expand_to_a_smaller_rank",
        "Expand by a shape of lower rank or of ones keeps the value",
        "g (float[2, 3] x) => (float[2, 3] a, float[1, 2, 3] b) <int64[1] s = {1}, "
        "int64[3] t = {1, 1, 1}> { a = Expand (x, s) b = Expand (x, t) }",
    ),
    Graph(
        "squeeze_without_axes_of_dynamic_dimensions",
        "which dimensions go is known at run time only",
        "g (float[N, 1, 3] x) => (float[A, B] y) { y = Squeeze (x) }",
        fixed={"x": np.ones((2, 1, 3), np.float32)},
    ),
    Graph(
        "unsqueeze_of_squeeze",
        "the same axes undo each other, other axes do not",
        "g (float[1, 3, 1] x) => (float[1, 3, 1] a, float[3, 1, 1] b) <int64[2] s = {0, 2}, "
        "int64[2] t = {1, 2}> { q = Squeeze (x, s) a = Unsqueeze (q, s) b = Unsqueeze (q, t) }",
    ),
    Graph(
        "unsqueeze_with_negative_axes_in_a_chain",
        "negative axes count in the result's rank",
        "g (float[2, 3] x) => (float[2, 1, 3, 1] y) <int64[1] s = {-1}, int64[1] t = {-3}> "
        "{ a = Unsqueeze (x, s) y = Unsqueeze (a, t) }",
    ),
    Graph(
        "unsqueeze_with_axes_out_of_order",
        "axes need not be sorted",
        "g (float[2, 3] x) => (float[1, 2, 1, 3] y) <int64[2] s = {2, 0}> { y = Unsqueeze (x, s) }",
    ),
    Graph(
        "flatten_at_each_axis",
        "axis 0 makes one row, the rank makes one column, negative counts from the end",
        "g (float[2, 3, 4] x) => (float[1, 24] a, float[24, 1] b, float[6, 4] c) "
        "{ a = Flatten <axis = 0> (x) b = Flatten <axis = 3> (x) c = Flatten <axis = -1> (x) }",
    ),
    Graph(
        "flatten_of_an_empty_batch",
        "Flatten is no Reshape to (0, -1) where the batch is empty",
        "g (float[0, 3, 4] x) => (float[0, 12] y) { y = Flatten (x) }",
    ),
    Graph(
        "size_of_a_dynamic_value",
        "Size is the product of all dimensions",
        "g (float[N, 3] x) => (float[N, 3] y) { s = Size (x) c = CastLike (s, x) y = Div (x, c) }",
    ),
    Graph(
        "gather_of_a_shape_with_a_negative_index",
        "-1 is the last dimension",
        "g (float[N, 3, 4] x) => (int64 a, int64[2] b) <int64 i = {-1}, int64[2] j = {-2, 0}> "
        "{ s = Shape (x) a = Gather (s, i) b = Gather (s, j) }",
    ),
    Graph(
        "slice_of_a_shape_with_a_negative_step",
        "a shape read backwards",
        "g (float[N, 3, 4] x) => (int64[K] y) <int64[1] b = {-1}, int64[1] e = {-9}, int64[1] a "
        "= {0}, "
        "int64[1] st = {-1}> { s = Shape (x) y = Slice (s, b, e, a, st) }",
    ),
    Graph(
        "shape_of_a_value_that_changes_size",
        "the shape behind NonZero is known at run time only",
        "g (float[6] x) => (int64[2] y) { r = Relu (x) n = NonZero (r) y = Shape (n) }",
    ),
    Graph(
        "constantofshape_of_a_dynamic_shape",
        "the default value is one float zero; others have their own type",
        "g (float[N, 2] x) => (float[A, B] a, int64[C, D] b) "
        "{ s = Shape (x) a = ConstantOfShape (s) b = ConstantOfShape <value = int64[1] {7}> (s) }",
    ),
    Graph(
        "range_of_floats",
        "the number of elements is ceil((limit - start) / delta), with negative steps too",
        "g (float[1] x) => (float[A] a, int64[B] b) <float s = {0}, float l = {1}, float d = "
        "{0.3}, "
        "int64 p = {5}, int64 q = {0}, int64 r = {-2}> "
        "{ e = Range (s, l, d) a = Mul (e, x) b = Range (p, q, r) }",
    ),
    Graph(
        "tile_by_one_and_by_zero",
        "ones do nothing, a zero makes it empty",
        "g (float[2, 3] x) => (float[2, 3] a, float[2, 0] b) <int64[2] s = {1, 1}, int64[2] t = "
        "{1, 0}> "
        "{ a = Tile (x, s) b = Tile (x, t) }",
    ),
    Graph(
        "declared_dimension_that_comes_back",
        "two inputs that share a symbol have the same size; others need not",
        "g (float[N, 2] x, float[M, 2] z) => (float[A, 2] a, float[B, 2] b) <int64[1] i = {0}, "
        "int64[1] two = {2}> { s = Shape (z) n = Gather (s, i) t = Concat <axis = 0> (n, two) "
        "o = Expand (x, t) a = Add (o, z) b = Identity (x) }",
    ),
    Graph(
        "gather_of_gathered_rows_by_a_number",
        "one element of a constant list is a number, without an axis",
        "g (float[4, 3] x) => (float[3] y) <int64[3] rows = {3, 1, 0}, int64 row = {-2}> "
        "{ r = Gather <axis = 0> (x, rows) y = Gather <axis = 0> (r, row) }",
    ),
    Graph(
        "gather_of_an_operand_by_a_number",
        "the same of the number that is left of an index into a Concat",
        "g (float[2, 3] x, float[2, 3] z) => (float[3] y) <int64 row = {3}> "
        "{ c = Concat <axis = 0> (x, z) y = Gather <axis = 0> (c, row) }",
    ),
    Graph(
        "concat_with_nothing",
        "an empty operand says nothing about the other dimensions, which ONNX Runtime never checks",
        "g (float[N, 2] x) => (int64[2] y) <float[3, 0] nothing = {}> "
        "{ c = Concat <axis = 1> (x, nothing) y = Shape (c) }",
        fixed={"x": np.ones((5, 2), np.float32)},
    ),
    Graph(
        "view_that_is_none_once_the_way_there_is_short",
        "what a Reshape gives is known better once it comes straight from its source, and another "
        "run must find no more than the first",
        "g (float[N, 4] x) => (float[A, B] y) <int64[3] there = {6, -1, 8}, "
        "int64[2] back = {-1, 8}> "
        "{ s = Relu (x) t = Transpose <perm = [0, 1]> (s) c = Concat <axis = 1> (t, s) "
        "r = Reshape (c, there) y = Reshape (r, back) }",
        fixed={"x": np.arange(24, dtype=np.float32).reshape(6, 4)},
    ),
    Graph(
        "view_that_is_none_once_its_shape_is_constant",
        "where the shape of a Reshape becomes -1, its result is known better; another run must "
        "find no more than the first",
        "g (int64[1] n, float[4] x, float[4] z) => (float[A] y) "
        "{ o = ConstantOfShape (n) m = Exp (o) s = Shape (m) r = Reshape (x, s) y = Add (r, z) }",
        fixed={"n": np.array([4])},
    ),
)
