"""Operators that change with the opset: attributes that became inputs, other defaults."""

from __future__ import annotations

import numpy as np

from careless.graph import Graph

BN = "<float[2] s = {2, 3}, float[2] b = {1, -1}, float[2] m = {0.5, 3}, float[2] v = {1, 0.25}>"

GRAPHS = (
    Graph(
        "ir_3_has_weights_as_inputs",
        "IR version 3: an initializer must be an input, and stay one",
        "g (float[2] x, float[2] w = {1, 2}) => (float[2] y) { a = Mul (x, w) y = Add (a, w) }",
        opset=8,
        ir_version=3,
    ),
    Graph(
        "ir_3_with_constants",
        "IR version 3: a folded constant has no place among the initializers",
        "g (float[2] x) => (float[2] y) { c = Constant <value = float[2] {1, 2}> () d = Neg (c) "
        "a = Identity (x) y = Add (a, d) }",
        opset=8,
        ir_version=3,
    ),
    Graph(
        "ir_3_reshape_by_a_constant",
        "IR version 3: a shape that stays a node must not be folded again and again",
        "g (float[1, 2] x) => (float[2, 1] y) { s = Constant <value = int64[2] {2, -1}> () "
        "y = Reshape (x, s) }",
        opset=9,
        ir_version=3,
    ),
    Graph(
        "opset_6_broadcasts_by_attribute",
        "before opset 7 an Add says where it broadcasts",
        "g (float[2, 3] x, float[2] z) => (float[2, 3] y) "
        "{ i = Identity (x) y = Add <broadcast = 1, axis = 0> (i, z) }",
        opset=6,
        ir_version=3,
        unrunnable=True,
    ),
    Graph(
        "opset_6_relu_and_clip",
        "limits are attributes",
        "g (float[14] x) => (float[14] y) { r = Relu (x) c = Clip <min = -2.0, max = -1.0> (r) "
        "y = Clip <min = 0.0> (c) }",
        opset=6,
        ir_version=3,
        edges=True,
    ),
    Graph(
        "opset_6_dropout",
        "is_test says whether it draws",
        "g (float[8] x) => (float[8] y) { a = Neg (x) y = Dropout <is_test = 1, ratio = 0.5> (a) }",
        opset=6,
        ir_version=3,
        unrunnable=True,
    ),
    Graph(
        "opset_1_reshape",
        "the shape is an attribute",
        "g (float[2, 3] x) => (float[3, 2] y) { a = Reshape <shape = [6]> (x) "
        "y = Reshape <shape = [3, 2]> (a) }",
        opset=4,
        ir_version=3,
    ),
    Graph(
        "opset_7_batch_norm",
        "spatial=1 is the default and the only one that later opsets have",
        f"g (float[1, 2, 2, 2] x) => (float[1, 2, 2, 2] y) {BN} "
        "{ y = BatchNormalization <epsilon = 0.1> (x, s, b, m, v) }",
        opset=7,
        ir_version=4,
    ),
    Graph(
        "opset_9_batch_norm_behind_a_conv",
        "outputs beyond the first are for training",
        "g (float[1, 2, 2, 2] x) => (float[1, 2, 2, 2] y) "
        + BN.replace("<", "<float[2, 2, 1, 1] w = {1, 2, 3, 4}, ")
        + " { c = Conv (x, w) y = BatchNormalization (c, s, b, m, v) }",
        opset=9,
        ir_version=4,
    ),
    Graph(
        "opset_9_clip_of_clip",
        "limits are attributes, disjoint",
        "g (float[14] x) => (float[14] y, float[14] z) { a = Clip <min = 0.0, max = 1.0> (x) "
        "y = Clip <min = 2.0, max = 3.0> (a) z = Clip (x) }",
        opset=9,
        ir_version=4,
        edges=True,
    ),
    Graph(
        "opset_9_slices",
        "starts, ends and axes are attributes; no steps",
        "g (float[4, 6] x) => (float[2, 3] y) { a = Slice <axes = [1], starts = [1], ends = "
        "[-1]> (x) "
        "y = Slice <axes = [0, 1], starts = [0, -3], ends = [2, 100]> (a) }",
        opset=9,
        ir_version=4,
    ),
    Graph(
        "opset_10_dropout_with_a_mask",
        "the mask is of booleans, all true",
        "g (float[4] x) => (float[4] y, bool[4] m) { a = Neg (x) y, m = Dropout (a) }",
        opset=10,
        ir_version=5,
    ),
    Graph(
        "opset_7_dropout_with_a_mask",
        "the mask is of the input's type; nobody says what it holds",
        "g (float[4] x) => (float[4] y) { a = Neg (x) y, m = Dropout <ratio = 0.1> (a) }",
        opset=7,
        ir_version=4,
    ),
    Graph(
        "opset_11_softmax_flattens",
        "before opset 13 Softmax works on all axes from `axis` on, which is 1",
        "g (float[2, 3, 4] x) => (float[2, 3, 4] a, float[2, 3, 4] b) "
        "{ a = Softmax (x) b = LogSoftmax <axis = 0> (x) }",
        opset=11,
        ir_version=6,
    ),
    Graph(
        "opset_11_softmax_behind_a_transpose",
        "a flattening Softmax does not commute with a Transpose",
        "g (float[2, 3, 4] x) => (float[2, 3, 4] y) { t = Transpose <perm = [0, 2, 1]> (x) "
        "s = Softmax <axis = 1> (t) y = Transpose <perm = [0, 2, 1]> (s) }",
        opset=11,
        ir_version=6,
    ),
    Graph(
        "opset_11_softmax_from_primitives",
        "a Softmax made of primitives is over one axis",
        "g (float[2, 3, 4] x) => (float[2, 3, 4] y) { m = ReduceMax <axes = [1]> (x) d = Sub (x, "
        "m) "
        "e = Exp (d) s = ReduceSum <axes = [1]> (e) y = Div (e, s) }",
        opset=11,
        ir_version=6,
    ),
    Graph(
        "opset_11_squeeze_and_unsqueeze",
        "axes are attributes",
        "g (float[1, 3, 1] x) => (float[3, 1] a, float[1, 3, 1, 1] b) "
        "{ s = Squeeze <axes = [0]> (x) a = Identity (s) q = Squeeze (x) "
        "b = Unsqueeze <axes = [0, 2, 3]> (q) }",
        opset=11,
        ir_version=6,
    ),
    Graph(
        "opset_11_reduce_sum_and_split",
        "axes and split are attributes",
        "g (float[2, 6] x) => (float[2] a, float[2, 4] b) { a = ReduceSum <axes = [1], keepdims "
        "= 0> (x) "
        "p, q = Split <axis = 1, split = [4, 2]> (x) b = Neg (p) }",
        opset=11,
        ir_version=6,
    ),
    Graph(
        "opset_9_pad_before_a_conv",
        "Pad-2 has pads and value as attributes, and pads with zeros unless told otherwise",
        "g (float[1, 1, 4] x) => (float[1, 1, 4] a, float[1, 1, 4] b) <float[1, 1, 3] w = {1, "
        "-2, 3}> "
        "{ p = Pad <pads = [0, 0, 1, 0, 0, 1]> (x) a = Conv (p, w) "
        "q = Pad <pads = [0, 0, 1, 0, 0, 1], value = 2.0> (x) b = Conv (q, w) }",
        opset=9,
        ir_version=4,
    ),
    Graph(
        "opset_9_upsample",
        "an operator that is no more",
        "g (float[1, 1, 2, 2] x) => (float[1, 1, 4, 4] y) <float[4] s = {1, 1, 2, 2}> "
        "{ y = Upsample (x, s) }",
        opset=9,
        ir_version=4,
    ),
    Graph(
        "opset_8_has_no_where",
        "an operator of a later opset must not come in",
        "g (float[2, 3] x) => (float[2, 3] y) <float[3] w = {1, 1, 1}, float z = {0}> "
        "{ a = Mul (x, w) b = Add (a, z) c = Max (b, z) y = Min (c, w) }",
        opset=8,
        ir_version=4,
    ),
    Graph(
        "opset_8_min_and_max_are_floats",
        "a Clip of opset 6 has floats as limits",
        "g (double[4] x) => (double[4] y) <double l = {0.1}, double h = {0.9}> "
        "{ a = Max (x, l) y = Min (a, h) }",
        opset=8,
        ir_version=4,
    ),
    Graph(
        "opset_16_gelu_has_no_operator",
        "Gelu is of opset 20, LayerNormalization of 17",
        """g (float[2, 4] x) => (float[2, 4] y, float[2, 4] z) <float h = {0.5}, float o = {1},
        float q = {1.41421356}, float eps = {0.01}> { d = Div (x, q) e = Erf (d) s = Add (e, o)
        m = Mul (x, s) y = Mul (m, h) mm = ReduceMean <axes = [-1]> (x) dd = Sub (x, mm)
        ss = Mul (dd, dd) v = ReduceMean <axes = [-1]> (ss) a = Add (v, eps) r = Sqrt (a)
        z = Div (dd, r) }""",
        opset=13,
        ir_version=7,
    ),
    Graph(
        "opset_13_silu_and_hard_swish",
        "HardSwish is of opset 14, Mish of 18, Swish of 24",
        "g (float[8] x) => (float[8] a, float[8] b, float[8] c) <float t = {3}, float l = {0}, "
        "float u = {6}> { s = Sigmoid (x) a = Mul (x, s) p = Add (x, t) k = Clip (p, l, u) "
        "m = Mul (x, k) b = Div (m, u) q = Softplus (x) r = Tanh (q) c = Mul (x, r) }",
        opset=13,
        ir_version=7,
    ),
    Graph(
        "opset_18_reduce_mean_axes",
        "ReduceMean's axes are an input from opset 18 on; none means all",
        "g (float[2, 3] x) => (float[2, 1] a, float[1, 1] b, float[2, 3] c) <int64[1] i = {1}, "
        "int64[0] e = {}> { a = ReduceMean (x, i) b = ReduceMean (x) "
        "c = ReduceMean <noop_with_empty_axes = 1> (x, e) }",
        opset=18,
    ),
    Graph(
        "opset_18_split_into_a_number",
        "num_outputs leaves a smaller last one",
        "g (float[7] x) => (float[3] a, float[1] b) { a, m, b = Split <num_outputs = 3> (x) }",
        opset=18,
    ),
    Graph(
        "opset_17_layer_norm_has_axes_from_axis_on",
        "the scale has the shape of all axes from `axis` on",
        "g (float[2, 2, 2] x) => (float[2, 2, 2] y) <float[2, 2] s = {1, 2, 3, 4}, "
        "float[2, 2] b = {1, 0, 0, -1}, float k = {2}> "
        "{ n = LayerNormalization <axis = 1> (x, s, b) y = Mul (n, k) }",
    ),
    Graph(
        "opset_21_group_norm_changed_its_scale",
        "per group before opset 21, per channel from then on",
        "g (float[1, 4, 2] x) => (float[1, 4, 2] y) <float[4] s = {1, 2, 3, 4}, "
        "float[4] b = {0, 1, 0, 1}> { y = GroupNormalization <num_groups = 2> (x, s, b) }",
        opset=21,
        ir_version=10,
    ),
    Graph(
        "newest_opset",
        "operators that are newer than a tool know themselves are barriers",
        "g (float[2, 4] x) => (float[2, 4] y) <float[4] s = {1, 2, 3, 4}, float z = {0}> "
        "{ r = RMSNormalization (x, s) a = Add (r, z) y = Swish (a) }",
        opset=24,
        ir_version=12,
    ),
    Graph(
        "opset_8_expand_and_reshape",
        "a Reshape by an input; Expand is of opset 8",
        "g (float[2, 3] x, int64[2] s) => (float[A, B] y) <int64[2] t = {6, 1}> "
        "{ r = Reshape (x, t) y = Reshape (r, s) }",
        opset=8,
        ir_version=4,
        fixed={"s": np.array([3, 2], np.int64)},
    ),
)
