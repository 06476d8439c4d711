"""Clip, Relu, Min, Max, casts: ranges that meet, or do not."""

from __future__ import annotations

import numpy as np

from careless.graph import Graph

V = "(float[14] x) => (float[14] y)"

GRAPHS = (
    Graph(
        "clip_of_clip_disjoint",
        "max(lo, lo'), min(hi, hi') of disjoint ranges gives the wrong end",
        f"g {V} <float a = {{0}}, float b = {{1}}, float c = {{2}}, float d = {{3}}> "
        "{ s = Clip (x, a, b) y = Clip (s, c, d) }",
        edges=True,
    ),
    Graph(
        "max_with_zero_of_relu",
        "Relu keeps -0, Max with 0 may make 0 of it",
        "g (float[14] x) => (float[14] a, float[14] b) <float zero = {0.0}, float minus = {-0.0}> "
        "{ r = Relu (x) a = Max (r, zero) m = Max (x, minus) b = Max (m, zero) }",
        edges=True,
    ),
    Graph(
        "clip_of_clip_disjoint_below",
        "the other way round",
        f"g {V} <float a = {{2}}, float b = {{3}}, float c = {{-1}}, float d = {{1}}> "
        "{ s = Clip (x, a, b) y = Clip (s, c, d) }",
        edges=True,
    ),
    Graph(
        "clip_of_clip_overlapping",
        "what may be merged, with NaN",
        f"g {V} <float a = {{-1}}, float b = {{2}}, float c = {{0}}, float d = {{3}}> "
        "{ s = Clip (x, a, b) y = Clip (s, c, d) }",
        edges=True,
    ),
    Graph(
        "clip_with_min_above_max",
        "the specification: all values become max",
        f"g {V} <float a = {{3}}, float b = {{1}}> {{ y = Clip (x, a, b) }}",
        edges=True,
    ),
    Graph(
        "clip_with_min_above_max_from_min_of_max",
        "Min(Max(x, 3), 1) and Max(Min(x, 1), 3) are two things",
        "g (float[14] x) => (float[14] y, float[14] z) <float a = {3}, float b = {1}> "
        "{ s = Max (x, a) y = Min (s, b) t = Min (x, b) z = Max (t, a) }",
        edges=True,
    ),
    Graph(
        "clip_without_limits",
        "no limits at all: it is the input; only one: it is not",
        "g (float[14] x) => (float[14] y, float[14] z, float[14] w) <float a = {1}> "
        "{ y = Clip (x) z = Clip (x, , a) w = Clip (x, a) }",
        edges=True,
    ),
    Graph(
        "relu_then_clip_with_a_low_maximum",
        "Clip(Relu(x), -2, -1) is -1 throughout",
        f"g {V} <float a = {{-2}}, float b = {{-1}}> {{ s = Relu (x) y = Clip (s, a, b) }}",
        edges=True,
    ),
    Graph(
        "clip_then_relu",
        "Relu(Clip(x, -3, -1)) is 0 throughout",
        f"g {V} <float a = {{-3}}, float b = {{-1}}> {{ s = Clip (x, a, b) y = Relu (s) }}",
        edges=True,
    ),
    Graph(
        "relu6_by_min_and_max",
        "Min(Max(x, 0), 6) with NaN and -0",
        f"g {V} <float a = {{0}}, float b = {{6}}> {{ s = Max (x, a) y = Min (s, b) }}",
        edges=True,
    ),
    Graph(
        "max_with_a_vector",
        "a Clip takes scalars only",
        "g (float[3] x) => (float[3] y) <float[3] a = {0, 1, 2}, float[3] b = {1, 2, 3}> "
        "{ s = Max (x, a) y = Min (s, b) }",
    ),
    Graph(
        "max_with_a_constant_that_broadcasts",
        "[[0]] raises the rank, which Clip does not",
        "g (float[3] x) => (float[1, 3] y) <float[1, 1] a = {0}, float b = {6}> "
        "{ s = Max (x, a) y = Min (s, b) }",
    ),
    Graph(
        "clip_limits_from_inputs",
        "limits that are not known cannot be merged",
        "g (float[14] x, float lo) => (float[14] y) <float a = {0}, float b = {1}> "
        "{ s = Clip (x, a, b) y = Clip (s, lo) }",
    ),
    Graph(
        "clip_limits_with_defaults",
        "limits that a caller may override are not known",
        "g (float[14] x, float lo = {-1}, float hi = {1}) => (float[14] y) "
        "{ s = Clip (x, lo, hi) y = Clip (s, lo, hi) }",
        fixed={"lo": np.float32(-0.25), "hi": np.float32(0.25)},
    ),
    Graph(
        "clip_of_integers",
        "limits at the ends of the type, in a type without infinities",
        "g (int8[8] x) => (int8[8] y) <int8 a = {-128}, int8 b = {127}, int8 c = {-2}, int8 d = "
        "{3}> "
        "{ s = Clip (x, a, b) y = Clip (s, c, d) }",
    ),
    Graph(
        "relu_of_relu_and_leaky",
        "Relu is idempotent, LeakyRelu is not, and Relu of LeakyRelu is Relu for alpha >= 0 only",
        "g (float[14] x) => (float[14] a, float[14] b, float[14] c) "
        "{ r = Relu (x) a = Relu (r) l = LeakyRelu <alpha = 0.5> (x) "
        "b = LeakyRelu <alpha = 0.5> (l) m = LeakyRelu <alpha = -1.0> (x) c = Relu (m) }",
        edges=True,
    ),
    Graph(
        "cast_to_integer_and_back",
        "float -> int -> float truncates",
        "g (float[8] x) => (float[8] y) { a = Cast <to = 6> (x) y = Cast <to = 1> (a) }",
    ),
    Graph(
        "cast_to_narrower_and_back",
        "float -> float16 -> float rounds",
        f"g {V} {{ a = Cast <to = 10> (x) y = Cast <to = 1> (a) }}",
        edges=True,
    ),
    Graph(
        "cast_to_wider_and_back",
        "float -> double -> float loses nothing",
        f"g {V} {{ a = Cast <to = 11> (x) y = Cast <to = 1> (a) }}",
        edges=True,
    ),
    Graph(
        "cast_int64_through_float",
        "large integers do not fit a float",
        "g (int64[2] x) => (int64[2] y) { a = Cast <to = 1> (x) y = Cast <to = 7> (a) }",
        fixed={"x": np.array([2**53 + 1, 16777217], np.int64)},
    ),
    Graph(
        "cast_chain_through_bool",
        "any number becomes one",
        "g (float[8] x) => (float[8] y) { a = Cast <to = 9> (x) y = Cast <to = 1> (a) }",
    ),
    Graph(
        "cast_chain_int32_int8_int32",
        "the upper bits go",
        "g (int32[3] x) => (int32[3] y) { a = Cast <to = 3> (x) y = Cast <to = 6> (a) }",
        fixed={"x": np.array([300, -300, 5], np.int32)},
    ),
    Graph(
        "cast_chain_narrow_then_wide",
        "int64 -> int32 -> int64 is no Identity; int32 -> int64 -> int32 is",
        "g (int64[2] x, int32[2] z) => (int64[2] a, int32[2] b) "
        "{ p = Cast <to = 6> (x) a = Cast <to = 7> (p) q = Cast <to = 7> (z) b = Cast <to = 6> "
        "(q) }",
        fixed={"x": np.array([2**40 + 3, -7], np.int64)},
    ),
    Graph(
        "cast_chain_signed_through_unsigned",
        "int8 -> uint8 -> int32 is no int8 -> int32",
        "g (int8[4] x) => (int32[4] y) { a = Cast <to = 2> (x) y = Cast <to = 6> (a) }",
    ),
    Graph(
        "castlike_takes_its_type_from_a_value",
        "CastLike to the type of another input, which is then no longer used",
        "g (float[4] x, int32[1] z) => (int32[4] y, float[4] w) "
        "{ y = CastLike (x, z) w = CastLike (x, x) }",
    ),
    Graph(
        "cast_to_fp8_without_saturation",
        "saturate=0 overflows to NaN, the default to the largest number",
        "g (float[14] x) => (float[14] a, float[14] b) { p = Cast <to = 17, saturate = 0> (x) "
        "q = Cast <to = 17> (x) a = Cast <to = 1> (p) b = Cast <to = 1> (q) }",
        opset=21,
        ir_version=10,
        edges=True,
    ),
    Graph(
        "castlike_to_fp8_without_saturation",
        "a Cast made of a CastLike must keep saturate",
        "g (float[4] x) => (float[4] y) <float8e4m3fn[1] t = {0}, float k = {1000}> "
        "{ big = Mul (x, k) p = CastLike <saturate = 0> (big, t) y = Cast <to = 1> (p) }",
        opset=21,
        ir_version=10,
    ),
    Graph(
        "castlike_of_constants_to_fp8",
        "the same when all of it is constant",
        "g (float[3] x) => (float[3] y) <float8e4m3fn[1] t = {0}, float[3] c = {1.0, 1e6, -1e6}> "
        "{ p = CastLike <saturate = 0> (c, t) q = Cast <to = 1> (p) y = Add (x, q) }",
        opset=21,
        ir_version=10,
    ),
    Graph(
        "quantize_then_dequantize",
        "Q then DQ rounds and saturates: no pair to remove",
        f"g {V} <float s = {{0.1}}, int8 z = {{3}}> "
        "{ q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z) }",
    ),
    Graph(
        "double_quantization_with_other_scales",
        "Q-DQ-Q-DQ merges only where scales and zero points are the same",
        f"g {V} <float s = {{0.1}}, int8 z = {{3}}, float t = {{0.3}}, int8 w = {{0}}> "
        "{ q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) "
        "r = QuantizeLinear (d, t, w) y = DequantizeLinear (r, t, w) }",
    ),
    Graph(
        "dequantize_then_quantize",
        "DQ then Q is the input only with the same scale and zero point",
        "g (int8[6] x) => (int8[6] a, int8[6] b) <float s = {0.1}, int8 z = {3}, int8 w = {0}> "
        "{ d = DequantizeLinear (x, s, z) a = QuantizeLinear (d, s, z) b = QuantizeLinear (d, s, "
        "w) }",
    ),
    Graph(
        "quantized_weights_stay_quantized",
        "folding a weight's DequantizeLinear makes the file four times as large; numbers stay",
        "g (float[2, 4] x) => (float[2, 3] y) <int8[4, 3] w = {1, 2, 3, 4, 5, 6, -7, 8, 9, 10, "
        "11, 12}, "
        "float[3] s = {0.1, 0.2, 0.3}, int8[3] z = {0, 0, 0}> "
        "{ d = DequantizeLinear <axis = 1> (w, s, z) y = MatMul (x, d) }",
        keeps=("DequantizeLinear",),
    ),
    Graph(
        "quantized_weights_under_an_affine_map",
        "a scale folded into a per-channel DequantizeLinear must run along its axis",
        "g (float[2, 4] x) => (float[2, 3] y) <int8[4, 3] w = {1, 2, 3, 4, 5, 6, -7, 8, 9, 10, "
        "11, 12}, "
        "float[4] s = {0.1, 0.2, 0.3, 0.4}, int8[4] z = {0, 1, 0, 0}, float[3] m = {2, 3, 4}> "
        "{ d = DequantizeLinear <axis = 0> (w, s, z) p = MatMul (x, d) y = Mul (p, m) }",
    ),
    Graph(
        "round_half_to_even",
        "Round, Floor and Ceil of what is whole already; Round(2.5) is 2",
        "g (float[14] x) => (float[14] a, float[14] b) { p = Round (x) a = Floor (p) "
        "q = Ceil (x) b = Round (q) }",
        edges=True,
    ),
)
