"""Moving data about: Transpose, Slice, Pad, Concat, Split, Gather, pooling, reductions."""

from __future__ import annotations

from careless.graph import Graph

GRAPHS = (
    Graph(
        "transpose_without_perm",
        "the default perm reverses all axes",
        "g (float[2, 3, 4] x) => (float[4, 3, 2] a, float[2, 3, 4] b) "
        "{ a = Transpose (x) b = Transpose (a) }",
    ),
    Graph(
        "transposes_that_do_not_cancel",
        "(1, 2, 0) twice is no identity",
        "g (float[2, 3, 4] x) => (float[4, 2, 3] y) "
        "{ a = Transpose <perm = [1, 2, 0]> (x) y = Transpose <perm = [1, 2, 0]> (a) }",
    ),
    Graph(
        "transposes_composed_in_the_right_order",
        "p after q is not q after p",
        "g (float[2, 3, 4] x) => (float[2, 4, 3] y) "
        "{ a = Transpose <perm = [1, 0, 2]> (x) y = Transpose <perm = [1, 2, 0]> (a) }",
    ),
    Graph(
        "transpose_through_a_vector",
        "a bias of lower rank must be transposed too",
        "g (float[2, 3, 4] x) => (float[2, 3, 4] y) <float[2] c = {1, 2}> "
        "{ a = Transpose (x) b = Add (a, c) y = Transpose (b) }",
    ),
    Graph(
        "transpose_through_a_reduction",
        "the axes of the reduction move with the transpose; keepdims=0 loses an axis",
        "g (float[2, 3, 4] x) => (float[4, 2] a, float[3, 2, 1] b) "
        "{ t = Transpose <perm = [2, 0, 1]> (x) a = ReduceMean <axes = [2], keepdims = 0> (t) "
        "u = Transpose <perm = [1, 0, 2]> (x) b = ReduceMax <axes = [-1]> (u) }",
    ),
    Graph(
        "transpose_through_softmax_and_concat",
        "axis attributes move with the transpose",
        "g (float[2, 3] x, float[2, 3] z) => (float[2, 3] a, float[2, 6] b) "
        "{ t = Transpose (x) u = Transpose (z) s = Softmax <axis = 0> (t) a = Transpose (s) "
        "c = Concat <axis = 0> (t, u) b = Transpose (c) }",
    ),
    Graph(
        "transpose_through_pad",
        "the amounts move with the transpose",
        "g (float[2, 3] x) => (float[4, 3] y) <int64[4] p = {0, 1, 0, 1}> "
        "{ t = Transpose (x) q = Pad (t, p) y = Transpose (q) }",
    ),
    Graph(
        "transpose_of_ones",
        "an axis of size one may move freely, but a Reshape must say where to",
        "g (float[1, 3, 1, 4] x) => (float[3, 1, 4, 1] a, float[4, 3, 1, 1] b) "
        "{ a = Transpose <perm = [1, 0, 3, 2]> (x) b = Transpose <perm = [3, 1, 0, 2]> (x) }",
    ),
    Graph(
        "transpose_used_twice",
        "one use cancels, the other does not",
        "g (float[2, 3] x) => (float[2, 3] a, float[3, 2] b) "
        "{ t = Transpose (x) a = Transpose (t) b = Relu (t) }",
    ),
    Graph(
        "slice_with_negative_steps",
        "backwards, to before the first element",
        "g (float[6] x) => (float[6] a, float[3] b) <int64[1] s = {-1}, int64[1] e = {-9}, "
        "int64[1] z = {0}, int64[1] m = {-1}, int64[1] n = {-2}> "
        "{ a = Slice (x, s, e, z, m) b = Slice (x, s, e, z, n) }",
    ),
    Graph(
        "slice_that_takes_all",
        "0 to the largest integer takes all; to -1 it does not",
        "g (float[N, 3] x) => (float[N, 3] a, float[N, 2] b) <int64[1] s = {0}, "
        "int64[1] e = {9223372036854775807}, int64[1] f = {-1}, int64[1] z = {1}> "
        "{ a = Slice (x, s, e, z) b = Slice (x, s, f, z) }",
    ),
    Graph(
        "slice_chain_on_one_axis",
        "starts add up, ends are clamped, steps multiply",
        "g (float[9] x) => (float[2] y) <int64[1] s = {1}, int64[1] e = {8}, int64[1] z = {0}, "
        "int64[1] two = {2}, int64[1] f = {100}> "
        "{ a = Slice (x, s, e, z, two) y = Slice (a, s, f, z, two) }",
    ),
    Graph(
        "slice_chain_with_negative_starts",
        "-2 counts from the end of what is left",
        "g (float[N, 9] x) => (float[N, 1] y) <int64[1] s = {0}, int64[1] e = {5}, int64[1] z = "
        "{1}, "
        "int64[1] t = {-2}, int64[1] f = {-1}> "
        "{ a = Slice (x, s, e, z) y = Slice (a, t, f, z) }",
    ),
    Graph(
        "slice_of_a_dynamic_axis",
        "0 to 3 of N takes all only if N is at most 3",
        "g (float[N] x) => (float[A] y) <int64[1] s = {0}, int64[1] e = {2}> { y = Slice (x, s, "
        "e) }",
    ),
    Graph(
        "slices_that_are_no_split",
        "overlapping or leaving something out, or in another order",
        "g (float[2, 6] x) => (float[2, 12] y) <int64[1] a = {0}, int64[1] b = {3}, int64[1] c = "
        "{2}, "
        "int64[1] d = {6}, int64[1] e = {5}, int64[1] z = {1}> "
        "{ p = Slice (x, c, d, z) q = Slice (x, a, b, z) r = Slice (x, a, e, z) "
        "y = Concat <axis = 1> (p, q, r) }",
    ),
    Graph(
        "pad_with_negative_amounts",
        "negative pads crop",
        "g (float[1, 1, 4, 4] x) => (float[1, 1, 3, 3] a, float[1, 1, 5, 3] b) "
        "<int64[8] p = {0, 0, -1, 0, 0, 0, 0, -1}, int64[8] q = {0, 0, 1, -1, 0, 0, 0, 0}> "
        "{ a = Pad (x, p) b = Pad (x, q) }",
    ),
    Graph(
        "pad_of_nothing",
        "zeros everywhere: nothing; with axes: only those",
        "g (float[2, 3] x) => (float[2, 3] a, float[2, 5] b) <int64[4] p = {0, 0, 0, 0}, "
        "int64[2] q = {1, 1}, int64[1] z = {-1}> { a = Pad (x, p) b = Pad (x, q, , z) }",
        opset=18,
    ),
    Graph(
        "pad_of_other_modes",
        "reflect, edge and a constant that is not zero do not go into a convolution",
        """g (float[1, 1, 5] x) => (float[1, 1, 5] a, float[1, 1, 5] b, float[1, 1, 5] c)
        <int64[6] p = {0, 0, 1, 0, 0, 1}, float v = {2}, float[1, 1, 3] w = {1, -2, 3}>
        { s = Pad <mode = "reflect"> (x, p) a = Conv (s, w) t = Pad <mode = "edge"> (x, p)
        b = Conv (t, w) u = Pad (x, p, v) c = Conv (u, w) }""",
    ),
    Graph(
        "pad_of_channels_before_a_conv",
        "pads of batch or channels cannot become pads of a Conv",
        "g (float[1, 1, 5] x) => (float[1, 1, 3] y) <int64[6] p = {0, 1, 0, 0, 0, 0}, "
        "float[1, 2, 3] w = {1, -2, 3, 4, 5, 6}> { s = Pad (x, p) y = Conv (s, w) }",
    ),
    Graph(
        "negative_pad_before_a_conv",
        "Conv takes no negative pads; and none with auto_pad",
        """g (float[1, 1, 6] x) => (float[1, 1, 3] a, float[1, 1, 8] b) <int64[6] p = {0, 0, -1, 0,
        0, 0},
        int64[6] q = {0, 0, 1, 0, 0, 1}, float[1, 1, 3] w = {1, -2, 3}>
        { s = Pad (x, p) a = Conv (s, w) t = Pad (x, q) b = Conv <auto_pad = "SAME_UPPER"> (t, w)
        }""",
    ),
    Graph(
        "maxpool_after_a_zero_pad",
        "MaxPool pads with minus infinity, not with zero",
        "g (float[1, 1, 4, 4] x) => (float[1, 1, 3, 3] y) <int64[8] p = {0, 0, 1, 1, 0, 0, 1, 1}, "
        "float k = {-10}> { a = Abs (x) b = Mul (a, k) q = Pad (b, p) "
        "y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (q) }",
    ),
    Graph(
        "averagepool_after_a_zero_pad",
        "padded zeros count in the mean, a pool's own do so only with count_include_pad",
        "g (float[1, 1, 4, 4] x) => (float[1, 1, 5, 5] y, float[1, 1, 7, 7] z) "
        "<int64[8] p = {0, 0, 1, 1, 0, 0, 1, 1}> { q = Pad (x, p) "
        "y = AveragePool <kernel_shape = [2, 2]> (q) "
        "z = AveragePool <kernel_shape = [2, 2], pads = [1, 1, 1, 1]> (q) }",
    ),
    Graph(
        "averagepool_with_ceil_mode",
        "a last window that reaches over the edge",
        "g (float[1, 1, 5, 5] x) => (float[1, 1, 3, 3] y) <int64[8] p = {0, 0, 0, 0, 0, 0, 0, 0}> "
        "{ q = Pad (x, p) y = AveragePool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = "
        "1> (q) }",
    ),
    Graph(
        "concat_of_one",
        "Concat of one input is that input, Concat with an empty one too",
        "g (float[2, 3] x) => (float[2, 3] a, float[2, 3] b) <float[2, 0] e = {}> "
        "{ a = Concat <axis = 1> (x) b = Concat <axis = 1> (x, e) }",
    ),
    Graph(
        "concat_chain_on_two_axes",
        "only Concats of one axis are one",
        "g (float[2, 3] x) => (float[4, 6] y) "
        "{ a = Concat <axis = 1> (x, x) y = Concat <axis = -2> (a, a) }",
    ),
    Graph(
        "concat_of_split_in_another_order",
        "the parts, swapped",
        "g (float[2, 6] x) => (float[2, 6] y, float[2, 6] z) <int64[2] s = {2, 4}> "
        "{ a, b = Split <axis = 1> (x, s) y = Concat <axis = 1> (b, a) z = Concat <axis = 1> (a, "
        "b) }",
    ),
    Graph(
        "concat_of_split_on_another_axis",
        "the parts, on top of each other",
        "g (float[2, 6] x) => (float[4, 3] y) "
        "{ a, b = Split <axis = 1> (x) y = Concat <axis = 0> (a, b) }",
    ),
    Graph(
        "split_with_an_unused_output",
        "which output is which is a matter of place",
        "g (float[6] x) => (float[2] y) { a, b, c = Split (x) y = Relu (b) }",
    ),
    Graph(
        "gather_that_takes_all",
        "0, 1, 2 of 3 is all; 0, 2, 1 is not; and indices of rank 0 drop the axis",
        "g (float[3, 2] x) => (float[3, 2] a, float[3, 2] b, float[2] c) <int64[3] i = {0, 1, 2}, "
        "int64[3] j = {0, 2, 1}, int64 k = {0}> "
        "{ a = Gather (x, i) b = Gather (x, j) c = Gather (x, k) }",
    ),
    Graph(
        "scatter_that_overwrites_in_order",
        "the whole is overwritten, but in another order",
        "g (float[3] x, float[3] z) => (float[3] y, float[3] w) <int64[3, 1] i = {2, 1, 0}, "
        "int64[3, 1] j = {0, 1, 2}> { y = ScatterND (x, i, z) w = ScatterND (x, j, z) }",
    ),
    Graph(
        "scatter_that_adds",
        "a ScatterND that covers everything still adds",
        "g (float[3] x, float[3] z) => (float[3] y) <int64[3, 1] j = {0, 1, 2}> "
        '{ y = ScatterND <reduction = "add"> (x, j, z) }',
        opset=18,
    ),
    Graph(
        "global_average_pool_look_alikes",
        "a mean over channels too, over one axis only, or that drops axes",
        "g (float[1, 2, 3, 4] x) => (float[1, 1, 1, 1] a, float[1, 2, 3, 1] b, float[1, 2] c) "
        "{ a = ReduceMean <axes = [1, 2, 3]> (x) b = ReduceMean <axes = [3]> (x) "
        "c = ReduceMean <axes = [2, 3], keepdims = 0> (x) }",
    ),
    Graph(
        "reductions_in_a_chain",
        "the mean of means is the mean; the second axis counts without the first",
        "g (float[2, 3, 4] x) => (float[2] a, float[3] b) <int64[1] i = {1}> "
        "{ p = ReduceMean <axes = [1], keepdims = 0> (x) "
        "a = ReduceMean <axes = [1], keepdims = 0> (p) "
        "q = ReduceMax <axes = [0], keepdims = 0> (x) b = ReduceSum <keepdims = 0> (q, i) }",
    ),
    Graph(
        "reduce_over_no_axes",
        "no axes means all, unless noop_with_empty_axes",
        "g (float[2, 3] x) => (float[1, 1] a, float[2, 3] b, float[1, 1] c) <int64[0] e = {}> "
        "{ a = ReduceSum (x) b = ReduceSum <noop_with_empty_axes = 1> (x, e) c = ReduceSum (x, "
        "e) }",
    ),
    Graph(
        "reduce_over_an_axis_of_size_one",
        "a ReduceSum over one element is the element, ReduceL2 its absolute value",
        "g (float[2, 1] x) => (float[2, 1] a, float[2, 1] b, float[2] c) <int64[1] i = {1}> "
        "{ a = ReduceSum (x, i) b = ReduceL2 <axes = [1]> (x) c = ReduceMax <axes = [1], "
        "keepdims = 0> (x) }",
    ),
    Graph(
        "pixel_shuffle_look_alike",
        "DCR and CRD, and the order that is neither",
        "g (float[1, 8, 2, 3] x) => (float[1, 2, 4, 6] a, float[1, 2, 4, 6] b, float[1, 2, 4, 6] "
        "c) "
        "<int64[6] s = {1, 2, 2, 2, 2, 3}, int64[4] t = {1, 2, 4, 6}> "
        "{ r = Reshape (x, s) p = Transpose <perm = [0, 1, 4, 2, 5, 3]> (r) a = Reshape (p, t) "
        "q = Transpose <perm = [0, 3, 4, 1, 5, 2]> (r) b = Reshape (q, t) "
        "u = Transpose <perm = [0, 1, 4, 3, 5, 2]> (r) c = Reshape (u, t) }",
    ),
    Graph(
        "upsample_that_is_no_repetition",
        "scales of one do nothing only in every axis",
        "g (float[1, 1, 2, 2] x) => (float[1, 1, 2, 4] y, float[1, 1, 2, 2] z) "
        "<float[4] s = {1, 1, 1, 2}, float[4] t = {1, 1, 1, 1}> "
        "{ y = Resize (x, , s) z = Resize (x, , t) }",
    ),
)
