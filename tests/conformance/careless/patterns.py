"""Look-alikes of layers that fusions are looking for."""

from __future__ import annotations

from careless.graph import Graph

HEAD = "(float[2, 3, 4] x) => (float[2, 3, 4] y)"
C = (
    "<float two = {2}, float eps = {0.01}, float one = {1}, "
    "float[4] g1 = {1, 2, 3, 4}, float[4] b1 = {1, 0, -1, 2}, float[3, 1] g2 = {1, 2, 3}>"
)


def norm(
    *,
    mean: str = "-1",
    variance: str = "-1",
    square: str = "Mul (d, d)",
    divisor: str = "",
    rest: str,
) -> str:
    """A normalization with its parts replaced."""
    root = divisor or "a = Add (v, eps) r = Sqrt (a)"
    return (
        f"g {HEAD} {C} {{ m = ReduceMean <axes = [{mean}]> (x) d = Sub (x, m) s = {square} "
        f"v = ReduceMean <axes = [{variance}]> (s) {root} {rest} }}"
    )


V = "(float[14] x) => (float[14] y)"

GRAPHS = (
    Graph(
        "layer_norm",
        "the real one",
        norm(rest="n = Div (d, r) h = Mul (n, g1) y = Add (h, b1)"),
    ),
    Graph(
        "layer_norm_by_pow",
        "the real one by Pow(d, 2); Pow(d, 3) is another",
        norm(square="Pow (d, two)", rest="n = Div (d, r) h = Mul (n, g1) y = Add (h, b1)"),
    ),
    Graph(
        "layer_norm_over_another_axis",
        "mean and variance along the rows",
        norm(mean="1", variance="1", rest="n = Div (d, r) h = Mul (n, g1) y = Add (h, b1)"),
    ),
    Graph(
        "layer_norm_over_two_axes",
        "mean over one axis, variance over another",
        norm(mean="-1", variance="-2", rest="n = Div (d, r) h = Mul (n, g1) y = Add (h, b1)"),
    ),
    Graph(
        "layer_norm_with_epsilon_outside_the_root",
        "sqrt(v) + eps is no sqrt(v + eps)",
        norm(
            divisor="q = Sqrt (v) r = Add (q, eps)",
            rest="n = Div (d, r) h = Mul (n, g1) y = Add (h, b1)",
        ),
    ),
    Graph(
        "layer_norm_with_a_vector_epsilon",
        "an epsilon for each row",
        norm(
            divisor="a = Add (v, g2) r = Sqrt (a)",
            rest="n = Div (d, r) h = Mul (n, g1) y = Add (h, b1)",
        ),
    ),
    Graph(
        "layer_norm_with_the_unbiased_variance",
        "sum / (n - 1) is no mean",
        f"g {HEAD} {C} {{ ax = Constant <value = int64[1] {{-1}}> () three = Constant "
        "<value_float = 3.0> () m = ReduceMean <axes = [-1]> (x) d = Sub (x, m) s = Mul (d, d) "
        "t = ReduceSum (s, ax) v = Div (t, three) a = Add (v, eps) r = Sqrt (a) n = Div (d, r) "
        "h = Mul (n, g1) y = Add (h, b1) }",
    ),
    Graph(
        "layer_norm_scaled_along_the_rows",
        "a scale that runs along another axis",
        norm(rest="n = Div (d, r) h = Mul (n, g2) y = Add (h, b1)"),
    ),
    Graph(
        "layer_norm_of_the_input_not_the_difference",
        "x / sqrt(var) without taking the mean away",
        norm(rest="n = Div (x, r) h = Mul (n, g1) y = Add (h, b1)"),
    ),
    Graph(
        "layer_norm_multiplied_by_the_root",
        "d * sqrt(v + eps), not divided",
        norm(rest="n = Mul (d, r) h = Mul (n, g1) y = Add (h, b1)"),
    ),
    Graph(
        "layer_norm_whose_variance_is_an_output",
        "an intermediate value is an output",
        "g (float[2, 3, 4] x) => (float[2, 3, 4] y, float[2, 3, 1] v) "
        f"{C} {{ m = ReduceMean <axes = [-1]> (x) d = Sub (x, m) s = Mul (d, d) "
        "v = ReduceMean <axes = [-1]> (s) a = Add (v, eps) r = Sqrt (a) n = Div (d, r) "
        "h = Mul (n, g1) y = Add (h, b1) }",
    ),
    Graph(
        "layer_norm_without_kept_dims",
        "keepdims=0 and a last axis as long as the one before: it broadcasts across",
        "g (float[4, 4] x) => (float[4, 4] y) <float eps = {0.01}> "
        "{ m = ReduceMean <axes = [-1], keepdims = 0> (x) d = Sub (x, m) s = Mul (d, d) "
        "v = ReduceMean <axes = [-1], keepdims = 0> (s) a = Add (v, eps) r = Sqrt (a) y = Div "
        "(d, r) }",
    ),
    Graph(
        "rms_norm",
        "the real one, by 1/sqrt and by a division",
        "g (float[2, 4] x) => (float[2, 4] y, float[2, 4] z) <float eps = {0.01}, "
        "float[4] w = {1, 2, 3, 4}> { s = Mul (x, x) v = ReduceMean <axes = [-1]> (s) "
        "a = Add (v, eps) r = Sqrt (a) i = Reciprocal (r) n = Mul (x, i) y = Mul (n, w) "
        "q = Div (x, r) z = Mul (q, w) }",
    ),
    Graph(
        "rms_norm_of_two_inputs",
        "the root of one value divides another",
        "g (float[2, 4] x, float[2, 4] z) => (float[2, 4] y) <float eps = {0.01}> "
        "{ s = Mul (x, z) t = Abs (s) v = ReduceMean <axes = [-1]> (t) a = Add (v, eps) "
        "r = Sqrt (a) y = Div (x, r) }",
    ),
    Graph(
        "l2_norm_look_alikes",
        "the sum of squares, with and without an epsilon, with a Clip, of the sum of values",
        "g (float[2, 4] x) => (float[2, 4] a, float[2, 4] b, float[2, 4] c) <float eps = {0.5}, "
        "int64[1] i = {-1}> { n = ReduceL2 <axes = [-1]> (x) a = Div (x, n) m = Add (n, eps) "
        "b = Div (x, m) t = ReduceL1 <axes = [0]> (x) c = Div (x, t) }",
    ),
    Graph(
        "gelu",
        "the real one, and the halves in another order",
        f"g {V} <float h = {{0.5}}, float o = {{1}}, float q = {{1.41421356}}> "
        "{ d = Div (x, q) e = Erf (d) s = Add (e, o) m = Mul (x, s) y = Mul (m, h) }",
        opset=20,
        ir_version=9,
        edges=True,
        finite_below=1e38,
    ),
    Graph(
        "gelu_with_another_root",
        "1.5 is no sqrt(2)",
        f"g {V} <float h = {{0.5}}, float o = {{1}}, float q = {{1.5}}> "
        "{ d = Div (x, q) e = Erf (d) s = Add (e, o) m = Mul (x, s) y = Mul (m, h) }",
        opset=20,
        ir_version=9,
    ),
    Graph(
        "gelu_with_a_subtraction",
        "1 - erf and erf - 1",
        f"g {V} <float h = {{0.5}}, float o = {{1}}, float q = {{1.41421356}}> "
        "{ d = Div (x, q) e = Erf (d) s = Sub (o, e) m = Mul (x, s) y = Mul (m, h) }",
        opset=20,
        ir_version=9,
    ),
    Graph(
        "gelu_of_two_inputs",
        "x * (1 + erf(z))",
        "g (float[4] x, float[4] z) => (float[4] y) <float h = {0.5}, float o = {1}, "
        "float q = {1.41421356}> { d = Div (z, q) e = Erf (d) s = Add (e, o) m = Mul (x, s) "
        "y = Mul (m, h) }",
        opset=20,
        ir_version=9,
    ),
    Graph(
        "gelu_with_a_vector_constant",
        "a half for each element",
        "g (float[2] x) => (float[2] y) <float[2] h = {0.5, 0.25}, float o = {1}, "
        "float q = {1.41421356}> { d = Div (x, q) e = Erf (d) s = Add (e, o) m = Mul (x, s) "
        "y = Mul (m, h) }",
        opset=20,
        ir_version=9,
    ),
    Graph(
        "gelu_by_tanh_and_with_another_cubic_term",
        "0.044715 and 0.1",
        "g (float[8] x) => (float[8] y, float[8] z) <float three = {3}, float k = {0.044715}, "
        "float l = {0.1}, float r = {0.79788456}, float o = {1}, float h = {0.5}> "
        "{ p = Pow (x, three) a = Mul (p, k) b = Add (x, a) c = Mul (b, r) t = Tanh (c) "
        "u = Add (t, o) v = Mul (x, u) y = Mul (v, h) aa = Mul (p, l) bb = Add (x, aa) "
        "cc = Mul (bb, r) tt = Tanh (cc) uu = Add (tt, o) vv = Mul (x, uu) z = Mul (vv, h) }",
        opset=20,
        ir_version=9,
    ),
    Graph(
        "hard_swish",
        "x * clip(x + 3, 0, 6) / 6",
        f"g {V} <float a = {{3}}, float l = {{0}}, float u = {{6}}> "
        "{ s = Add (x, a) c = Clip (s, l, u) m = Mul (x, c) y = Div (m, u) }",
        edges=True,
        finite_below=1e37,
    ),
    Graph(
        "hard_swish_with_other_constants",
        "clip to 5, plus 2, or divided by 5",
        "g (float[14] x) => (float[14] y, float[14] z, float[14] w) <float a = {3}, float b = {2}, "
        "float l = {0}, float u = {6}, float v = {5}> { s = Add (x, a) c = Clip (s, l, v) "
        "m = Mul (x, c) y = Div (m, u) ss = Add (x, b) cc = Clip (ss, l, u) mm = Mul (x, cc) "
        "z = Div (mm, u) ccc = Clip (s, l, u) mmm = Mul (x, ccc) w = Div (mmm, v) }",
    ),
    Graph(
        "hard_swish_by_hard_sigmoid",
        "alpha 1/6 and beta 0.5 are one, the defaults (0.2 and 0.5) another",
        "g (float[14] x) => (float[14] y, float[14] z) "
        "{ a = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x) y = Mul (x, a) b = HardSigmoid (x) "
        "z = Mul (x, b) }",
        edges=True,
    ),
    Graph(
        "hard_sigmoid_look_alikes",
        "clip(x / 6 + 0.5, 0, 1), and to 2",
        "g (float[14] x) => (float[14] y, float[14] z) <float s = {6}, float h = {0.5}, float l "
        "= {0}, "
        "float o = {1}, float t = {2}> { d = Div (x, s) a = Add (d, h) y = Clip (a, l, o) "
        "z = Clip (a, l, t) }",
        edges=True,
    ),
    Graph(
        "silu",
        "x * sigmoid(x), also the other way round",
        "g (float[14] x) => (float[14] y, float[14] z) "
        "{ s = Sigmoid (x) y = Mul (x, s) t = Sigmoid (y) z = Mul (t, y) }",
        edges=True,
    ),
    Graph(
        "sigmoid_times_another_value",
        "z * sigmoid(x), x * sigmoid(2x), x + sigmoid(x)",
        "g (float[8] x, float[8] z) => (float[8] a, float[8] b, float[8] c) <float two = {2}> "
        "{ s = Sigmoid (x) a = Mul (z, s) d = Mul (x, two) t = Sigmoid (d) b = Mul (x, t) "
        "u = Sigmoid (z) c = Add (z, u) }",
    ),
    Graph(
        "sigmoid_from_primitives",
        "1 / (1 + exp(-x)), 1 / (1 + exp(x)), and 2 / (1 + exp(-x))",
        "g (float[14] x) => (float[14] a, float[14] b, float[14] c) <float o = {1}, float t = {2}> "
        "{ n = Neg (x) e = Exp (n) s = Add (e, o) a = Div (o, s) f = Exp (x) q = Add (f, o) "
        "b = Div (o, q) c = Div (t, s) }",
        edges=True,
    ),
    Graph(
        "mish_and_not",
        "x * tanh(softplus(x)), and z * tanh(softplus(x))",
        "g (float[14] x, float[14] z) => (float[14] a, float[14] b) "
        "{ s = Softplus (x) t = Tanh (s) a = Mul (x, t) b = Mul (z, t) }",
        opset=18,
        edges=True,
    ),
    Graph(
        "softplus_and_softsign_from_primitives",
        "log(exp(x) + 1) overflows where Softplus does not; x / (1 + |x|) and z / (1 + |x|)",
        "g (float[14] x, float[14] z) => (float[14] a, float[14] b, float[14] c) <float o = {1}> "
        "{ e = Exp (x) s = Add (e, o) a = Log (s) u = Abs (x) v = Add (u, o) b = Div (x, v) "
        "c = Div (z, v) }",
    ),
    Graph(
        "softmax_from_primitives",
        "with and without the maximum, over another axis for the sum",
        "g (float[3, 3] x) => (float[3, 3] a, float[3, 3] b, float[3, 3] c) <int64[1] i = {-1}, "
        "int64[1] j = {0}> { m = ReduceMax <axes = [-1]> (x) d = Sub (x, m) e = Exp (d) "
        "s = ReduceSum (e, i) a = Div (e, s) f = Exp (x) t = ReduceSum (f, i) b = Div (f, t) "
        "u = ReduceSum (e, j) c = Div (e, u) }",
    ),
    Graph(
        "log_of_softmax_on_other_axes",
        "Log(Softmax) keeps the axis, and gives -inf where it vanishes",
        "g (float[3, 3] x) => (float[3, 3] a, float[3, 3] b) <float k = {50}> "
        "{ s = Softmax <axis = 0> (x) a = Log (s) q = Mul (x, k) t = Softmax (q) b = Log (t) }",
    ),
    Graph(
        "attention_look_alikes",
        "the scale before or behind the product, a mask that multiplies, a softmax on another axis",
        """g (float[1, 2, 3, 4] q, float[1, 2, 3, 4] k, float[1, 2, 3, 4] v, float[1, 1, 3, 3] mask)
        => (float[1, 2, 3, 4] a, float[1, 2, 3, 4] b, float[1, 2, 3, 4] c) <float s = {0.5}>
        { t = Transpose <perm = [0, 1, 3, 2]> (k) p = MatMul (q, t) h = Mul (p, s)
        i = Add (h, mask) w = Softmax (i) a = MatMul (w, v) j = Mul (h, mask) ww = Softmax (j)
        b = MatMul (ww, v) www = Softmax <axis = -2> (h) c = MatMul (www, v) }""",
        opset=23,
        ir_version=11,
    ),
    Graph(
        "attention_of_a_transpose_of_other_axes",
        "q k^T needs the last two axes swapped, not others of the same size",
        """g (float[1, 3, 3, 3] q, float[1, 3, 3, 3] k, float[1, 3, 3, 3] v)
        => (float[1, 3, 3, 3] a) <float s = {0.57735026}>
        { t = Transpose <perm = [0, 2, 1, 3]> (k) p = MatMul (q, t) h = Mul (p, s)
        w = Softmax (h) a = MatMul (w, v) }""",
        opset=23,
        ir_version=11,
    ),
    Graph(
        "instance_norm_as_group_norm",
        "GroupNormalization by a Reshape, and one whose scale is per channel",
        "g (float[1, 4, 2, 2] x) => (float[1, 4, 2, 2] y) <int64[3] s = {1, 2, -1}, "
        "int64[4] t = {1, 4, 2, 2}, float[2] o = {1, 2}, float[2] z = {0, 1}, "
        "float[4, 1, 1] w = {1, 2, 3, 4}> { r = Reshape (x, s) i = InstanceNormalization (r, o, z) "
        "q = Reshape (i, t) y = Mul (q, w) }",
        opset=21,
        ir_version=10,
    ),
    Graph(
        "prelu_from_primitives",
        "Relu(x) - a * Relu(-x), with a vector along the width, and plus instead of minus",
        "g (float[2, 3] x) => (float[2, 3] y, float[2, 3] z) <float[3] a = {0.1, 0.2, 0.3}> "
        "{ p = Relu (x) n = Neg (x) q = Relu (n) s = Mul (a, q) y = Sub (p, s) z = Add (p, s) }",
    ),
)
