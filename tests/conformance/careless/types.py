"""Tensors of types that a runtime may have no kernel for, or rounds in its own way."""

from __future__ import annotations

from careless.graph import Graph

GRAPHS = (
    Graph(
        "double_constants",
        "folding through float loses half of the digits",
        "g (double[2] x) => (double[2] y) <double[2] c = {0.1, 1e300}, double d = {0.2}> "
        "{ s = Add (c, d) t = Mul (s, d) y = Mul (x, t) }",
    ),
    Graph(
        "double_conv_bn",
        "weights of double stay double",
        "g (double[1, 1, 3] x) => (double[1, 1, 3] y) <double[1, 1, 1] w = {0.1}, double[1] s = "
        "{2}, "
        "double[1] b = {1}, double[1] m = {0.3}, double[1] v = {0.7}> "
        "{ c = Conv (x, w) y = BatchNormalization (c, s, b, m, v) }",
    ),
    Graph(
        "double_gelu",
        "constants in double",
        "g (double[4] x) => (double[4] y) <double h = {0.5}, double o = {1}, "
        "double q = {1.4142135623730951}> { d = Div (x, q) e = Erf (d) s = Add (e, o) m = Mul "
        "(x, s) "
        "y = Mul (m, h) }",
        opset=20,
        ir_version=9,
    ),
    Graph(
        "bfloat16_constants",
        "a type that numpy does not know",
        "g (float[2] x) => (float[2] y) <bfloat16[2] c = {16256, 16384}> "
        "{ b = Cast <to = 16> (x) s = Add (c, c) p = Mul (b, s) y = Cast <to = 1> (p) }",
        opset=21,
        ir_version=10,
    ),
    Graph(
        "bfloat16_chain_of_casts",
        "float -> bfloat16 -> float16 -> float rounds twice",
        "g (float[14] x) => (float[14] y) "
        "{ a = Cast <to = 16> (x) b = Cast <to = 10> (a) y = Cast <to = 1> (b) }",
        opset=21,
        ir_version=10,
    ),
    Graph(
        "float16_constants_that_overflow",
        "60000 + 60000 is infinite in float16",
        "g (float16[2] x) => (float16[2] y) <float16[2] c = {31571, 15360}> "
        "{ s = Add (c, c) y = Add (x, s) }",
    ),
    Graph(
        "float16_conv_bn_that_overflows",
        "folded weights that do not fit float16",
        "g (float16[1, 1, 2] x) => (float16[1, 1, 2] y) <float16[1, 1, 1] w = {31571}, "
        "float16[1] s = {22528}, float16[1] b = {0}, float16[1] m = {0}, float16[1] v = {15360}, "
        "float16 k = {4096}> { i = Mul (x, k) c = Conv (i, w) "
        "y = BatchNormalization (c, s, b, m, v) }",
    ),
    Graph(
        "int4_weights",
        "two values in a byte, an odd number of them",
        "g (float[2, 3] x) => (float[2, 3] y) <int4[3] w = {-8, 7, 1}, float s = {0.5}> "
        "{ d = DequantizeLinear (w, s) y = Mul (x, d) }",
        opset=21,
        ir_version=10,
    ),
    Graph(
        "int4_weights_moved_about",
        "Transpose and Reshape of constants of int4",
        "g (float[2, 3] x) => (float[2, 2] y) <int4[2, 3] w = {-8, 7, 1, 2, 3, -4}, float s = "
        "{0.5}> "
        "{ t = Transpose (w) d = DequantizeLinear (t, s) y = MatMul (x, d) }",
        opset=21,
        ir_version=10,
    ),
    Graph(
        "uint4_and_int4_of_the_same_bits",
        "equal bytes of two types are two constants",
        "g (float[2] x) => (float[2] y, float[2] z) <int4[2] a = {-1, -2}, uint4[2] b = {15, 14}, "
        "float s = {1}> { p = DequantizeLinear (a, s) q = DequantizeLinear (b, s) y = Mul (x, p) "
        "z = Mul (x, q) }",
        opset=21,
        ir_version=10,
    ),
    Graph(
        "int8_and_uint8_of_the_same_bits",
        "so are these",
        "g (int8[2] x, uint8[2] u) => (int8[2] y, uint8[2] z) <int8[2] a = {-1, -2}, "
        "uint8[2] b = {255, 254}> { y = Max (x, a) z = Max (u, b) }",
    ),
    Graph(
        "float_and_int_of_the_same_bits",
        "1.0 and 1065353216",
        "g (float[1] x, int32[1] i) => (float[1] y, int32[1] z) <float[1] a = {1.0}, "
        "int32[1] b = {1065353216}> { y = Sub (x, a) z = Sub (i, b) }",
    ),
    Graph(
        "scalars_and_vectors_of_one_element",
        "[1] and [] are two shapes",
        "g (float x) => (float a, float[1] b, float[1, 1] c) <float k = {2}, float[1] l = {2}, "
        "float[1, 1] m = {2}> { a = Mul (x, k) b = Mul (x, l) c = Mul (x, m) }",
    ),
    Graph(
        "one_value_in_two_shapes",
        "equal bytes of two shapes are two constants",
        "g (float[2, 3] x) => (float[2, 3] a, float[3, 2] b) <int64[2] s = {2, 3}, "
        "float[2, 3] p = {1, 2, 3, 4, 5, 6}, float[3, 2] q = {1, 2, 3, 4, 5, 6}, int64[2] t = "
        "{3, 2}> "
        "{ a = Add (x, p) r = Reshape (x, t) b = Add (r, q) }",
    ),
    Graph(
        "fp8_constants",
        "float8 through Cast and DequantizeLinear",
        "g (float[3] x) => (float[3] y) <float8e4m3fn[3] c = {56, 126, 127}, float s = {2}> "
        "{ d = DequantizeLinear (c, s) y = Mul (x, d) }",
        opset=21,
        ir_version=10,
    ),
    Graph(
        "fp8_kinds_of_the_same_bits",
        "e4m3fn and e5m2 of the same bytes",
        "g (float[2] x) => (float[2] y, float[2] z) <float8e4m3fn[2] a = {56, 64}, "
        "float8e5m2[2] b = {56, 64}> { p = Cast <to = 1> (a) q = Cast <to = 1> (b) y = Mul (x, p) "
        "z = Mul (x, q) }",
        opset=21,
        ir_version=10,
    ),
    Graph(
        "booleans",
        "logic of constants",
        "g (bool[4] x) => (bool[4] a, bool[4] b, bool[4] c) <bool t = {1}, bool f = {0}> "
        "{ a = And (x, t) b = Or (x, f) c = Xor (x, t) }",
    ),
    Graph(
        "booleans_that_broadcast",
        "And with a true of a larger shape",
        "g (bool[2] x) => (bool[2, 2] a) <bool[2, 1] t = {1, 1}> { a = And (x, t) }",
    ),
    Graph(
        "int64_beyond_float",
        "2^53 + 1 as a constant",
        "g (int64[1] x) => (int64[1] y) <int64[1] c = {9007199254740993}, int64[1] d = {2}> "
        "{ s = Mul (c, d) y = Add (x, s) }",
    ),
    Graph(
        "uint64_beyond_int64",
        "2^63 and more",
        "g (uint64[1] x) => (uint64[1] y) <uint64[1] c = {9223372036854775809}, uint64[1] d = {1}> "
        "{ s = Add (c, d) y = Add (x, s) }",
    ),
    Graph(
        "quantized_operators",
        "QLinearMatMul and friends have their own rounding",
        "g (uint8[2, 2] x) => (uint8[2, 2] y) <float s = {0.1}, uint8 z = {1}, "
        "uint8[2, 2] w = {1, 2, 3, 4}> { y = QLinearMatMul (x, s, z, w, s, z, s, z) }",
    ),
    Graph(
        "dynamic_quantization",
        "DynamicQuantizeLinear has three outputs that belong together",
        "g (float[4] x) => (float[4] y) "
        "{ q, s, z = DynamicQuantizeLinear (x) y = DequantizeLinear (q, s, z) }",
    ),
    Graph(
        "quantized_constants_of_blocks",
        "block_size and axis of DequantizeLinear",
        "g (float[4, 2] x) => (float[4, 2] y) <int8[4, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}, "
        "float[2, 2] s = {0.1, 0.2, 0.3, 0.4}> "
        "{ d = DequantizeLinear <axis = 0, block_size = 2> (w, s) y = Mul (x, d) }",
        opset=21,
        ir_version=10,
    ),
)
