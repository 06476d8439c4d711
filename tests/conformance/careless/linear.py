"""Convolutions, products of matrices and what can be folded into them, or cannot."""

from __future__ import annotations

import numpy as np

from careless.graph import Graph

W = "float[2, 2, 1, 1] w = {1, 2, 3, 4}"
BN = "float[2] s = {2, -0.5}, float[2] b = {1, -1}, float[2] m = {0.5, 3}, float[2] v = {1, 0.25}"
X = "float[1, 2, 2, 2] x"
Y = "float[1, 2, 2, 2] y"

GRAPHS = (
    Graph(
        "conv_bn",
        "what is to be folded, with a negative scale and another epsilon",
        f"g ({X}) => ({Y}) <{W}, {BN}> "
        "{ c = Conv (x, w) y = BatchNormalization <epsilon = 0.1> (c, s, b, m, v) }",
    ),
    Graph(
        "conv_bn_used_elsewhere",
        "the convolution's result is an output as well",
        f"g ({X}) => ({Y}, float[1, 2, 2, 2] c) <{W}, {BN}> "
        "{ c = Conv (x, w) y = BatchNormalization (c, s, b, m, v) }",
    ),
    Graph(
        "conv_with_shared_weights",
        "one weight, two convolutions, one BatchNormalization",
        f"g ({X}) => ({Y}, float[1, 2, 2, 2] z) <{W}, {BN}> "
        "{ c = Conv (x, w) y = BatchNormalization (c, s, b, m, v) z = Conv (x, w) }",
    ),
    Graph(
        "bn_in_training_mode",
        "it normalizes by the batch's own mean and variance",
        f"g ({X}) => ({Y}) <{W}, {BN}> {{ c = Conv (x, w) "
        "y, rm, rv = BatchNormalization <training_mode = 1> (c, s, b, m, v) }",
    ),
    Graph(
        "bn_with_an_overridable_scale",
        "its scale has a default that a caller overrides",
        f"g ({X}, float[2] s = {{2, 3}}) => ({Y}) <{W}, float[2] b = {{1, -1}}, "
        "float[2] m = {0.5, 3}, float[2] v = {1, 0.25}> "
        "{ c = Conv (x, w) y = BatchNormalization (c, s, b, m, v) }",
    ),
    Graph(
        "bn_with_a_negative_variance",
        "the square root is NaN; with an epsilon that saves it, it is not",
        f"g ({X}) => ({Y}) <{W}, float[2] s = {{1, 1}}, float[2] b = {{0, 0}}, "
        "float[2] m = {0, 0}, float[2] v = {-0.5, 0.25}> "
        "{ c = Conv (x, w) y = BatchNormalization <epsilon = 1.0> (c, s, b, m, v) }",
    ),
    Graph(
        "bn_before_a_padded_conv",
        "the mean of BN does not go through zero padding",
        f"g ({X}) => ({Y}) <float[2, 2, 3, 3] w = {{{', '.join(map(str, range(36)))}}}, {BN}> "
        "{ n = BatchNormalization (x, s, b, m, v) y = Conv <pads = [1, 1, 1, 1]> (n, w) }",
    ),
    Graph(
        "bn_behind_grouped_and_transposed_convs",
        "output channels lie elsewhere in grouped and transposed weights",
        f"g ({X}) => ({Y}, float[1, 2, 2, 2] z) <float[2, 1, 1, 1] w = {{1, 2}}, "
        f"float[2, 2, 1, 1] t = {{1, 2, 3, 4}}, {BN}> {{ c = Conv <group = 2> (x, w) "
        "y = BatchNormalization (c, s, b, m, v) d = ConvTranspose (x, t) "
        "z = BatchNormalization (d, s, b, m, v) }",
    ),
    Graph(
        "conv_times_width",
        "a constant along the width is none along the channels, though its size is the same",
        f"g ({X}) => ({Y}) <{W}, float[2] k = {{2, 3}}> {{ c = Conv (x, w) y = Mul (c, k) }}",
    ),
    Graph(
        "conv_times_height",
        "nor is one along the height",
        f"g ({X}) => ({Y}) <{W}, float[2, 1] k = {{2, 3}}> {{ c = Conv (x, w) y = Mul (c, k) }}",
    ),
    Graph(
        "conv_times_channels_of_rank_three",
        "(2, 1, 1) runs along the channels; so does (1, 2, 1, 1); (2, 1, 1, 1) is the batch",
        f"g ({X}) => ({Y}, float[1, 2, 2, 2] z, float[2, 2, 2, 2] u) <{W}, "
        "float[2, 1, 1] k = {2, 3}, float[1, 2, 1, 1] l = {2, 3}, float[2, 1, 1, 1] h = {2, 3}> "
        "{ c = Conv (x, w) y = Mul (c, k) d = Conv (x, w) z = Add (d, l) e = Conv (x, w) "
        "u = Mul (e, h) }",
    ),
    Graph(
        "conv_plus_a_constant_of_higher_rank",
        "a constant of rank five raises the rank",
        f"g ({X}) => (float[1, 1, 2, 2, 2] y) <{W}, float[1, 1, 1, 1, 1] k = {{2}}> "
        "{ c = Conv (x, w) y = Add (c, k) }",
    ),
    Graph(
        "conv_minus_and_constant_minus_conv",
        "c - k is a bias, k - c turns the weights' sign; k / c is neither",
        f"g ({X}) => ({Y}, float[1, 2, 2, 2] z, float[1, 2, 2, 2] u) <{W}, float k = {{2}}> "
        "{ c = Conv (x, w) y = Sub (c, k) d = Conv (x, w) z = Sub (k, d) e = Conv (x, w) "
        "u = Div (k, e) }",
    ),
    Graph(
        "conv_divided_by_zero",
        "weights divided by zero are infinite, and infinite times zero is NaN",
        f"g ({X}) => ({Y}) <float[2, 2, 1, 1] w = {{1, 0, 0, 4}}, float k = {{0}}> "
        "{ c = Conv (x, w) y = Div (c, k) }",
    ),
    Graph(
        "conv_scaled_beyond_the_type",
        "weights that overflow when multiplied",
        f"g ({X}) => ({Y}) <float[2, 2, 1, 1] w = {{1e30, 2, 3, 4e-30}}, float k = {{1e20}}, "
        "float j = {1e-20}> { i = Mul (x, j) c = Conv (i, w) y = Mul (c, k) }",
    ),
    Graph(
        "conv_of_conv",
        "1x1 of 3x3 with padding and bias: a bias of the first does not reach the padding",
        f"g ({X}) => ({Y}) <{W}, float[2] c = {{1, 2}}, float[2, 2, 3, 3] k = "
        f"{{{', '.join(map(str, range(36)))}}}> "
        "{ a = Conv (x, w, c) y = Conv <pads = [1, 1, 1, 1]> (a, k) }",
    ),
    Graph(
        "scaled_input_of_a_padded_conv",
        "a factor on the input side goes into the weights, an addend does not",
        f"g ({X}) => ({Y}, float[1, 2, 2, 2] z) <float[2, 2, 3, 3] w = "
        f"{{{', '.join(map(str, range(36)))}}}, float[2, 1, 1] k = {{2, 3}}> "
        "{ p = Mul (x, k) y = Conv <pads = [1, 1, 1, 1]> (p, w) q = Add (x, k) "
        "z = Conv <pads = [1, 1, 1, 1]> (q, w) }",
    ),
    Graph(
        "integer_matmul_plus_add",
        "Gemm has no kernel for integers in most runtimes",
        "g (int32[2, 2] x) => (int32[2, 2] y) <int32[2, 2] w = {1, 2, 3, 4}, int32[2] b = {5, 6}> "
        "{ p = MatMul (x, w) y = Add (p, b) }",
    ),
    Graph(
        "matmul_of_rank_three_plus_add",
        "Gemm takes matrices only",
        "g (float[2, 2, 2] x) => (float[2, 2, 2] y) <float[2, 2] w = {1, 2, 3, 4}, "
        "float[2] b = {5, 6}> { p = MatMul (x, w) y = Add (p, b) }",
    ),
    Graph(
        "matmul_of_vectors_plus_add",
        "nor vectors",
        "g (float[2] x) => (float[2] y) <float[2, 2] w = {1, 2, 3, 4}, float[2] b = {5, 6}> "
        "{ p = MatMul (x, w) y = Add (p, b) }",
    ),
    Graph(
        "matmul_of_unknown_rank_plus_add",
        "a rank that is not known may be any",
        "g (float[2, N, 2] x, int64[R] s) => (float[A, B] y) <float[2, 2] w = {1, 2, 3, 4}, "
        "float[2] b = {5, 6}> { r = Reshape (x, s) p = MatMul (r, w) y = Add (p, b) }",
        fixed={"s": np.array([-1, 2], np.int64)},
    ),
    Graph(
        "matmul_plus_a_bias_that_broadcasts_the_product",
        "Gemm's C goes to the product's shape only, not the other way",
        "g (float[1, 2] x) => (float[3, 2] y) <float[2, 2] w = {1, 2, 3, 4}, "
        "float[3, 2] b = {1, 2, 3, 4, 5, 6}> { p = MatMul (x, w) y = Add (p, b) }",
    ),
    Graph(
        "matmul_plus_a_bias_along_the_rows",
        "(2, 1) runs along the rows; (2) along the columns",
        "g (float[2, 2] x) => (float[2, 2] y, float[2, 2] z) <float[2, 2] w = {1, 2, 3, 4}, "
        "float[2, 1] b = {5, 6}, float[2] k = {2, 3}> "
        "{ p = MatMul (x, w) y = Add (p, b) q = MatMul (x, w) z = Mul (q, k) }",
    ),
    Graph(
        "gemm_with_alpha_and_beta",
        "a factor behind it scales the bias too; alpha does not, beta does",
        "g (float[2, 2] x) => (float[2, 2] y) <float[2, 2] w = {1, 2, 3, 4}, float[2] b = {5, 6}, "
        "float[2] k = {2, 3}> { p = Gemm <alpha = 0.5, beta = 3.0, transB = 1> (x, w, b) "
        "q = Add (p, k) y = Mul (q, k) }",
    ),
    Graph(
        "gemm_with_a_transposed_input",
        "transA and transB turn; a Transpose before it turns them back",
        "g (float[3, 2] x) => (float[2, 2] y, float[3, 3] z) <float[3, 2] w = {1, 2, 3, 4, 5, 6}> "
        "{ t = Transpose (x) y = Gemm (t, w) u = Transpose (t) v = Transpose (w) "
        "z = Gemm <transA = 0, transB = 0> (u, v) }",
    ),
    Graph(
        "gemm_without_a_bias",
        "C may be absent",
        "g (float[2, 2] x) => (float[2, 2] y) <float[2, 2] w = {1, 2, 3, 4}, float b = {5}> "
        "{ p = Gemm <alpha = 2.0> (x, w) y = Add (p, b) }",
    ),
    Graph(
        "matmul_of_matmul",
        "the product of the constants may be larger than both",
        "g (float[2, 4] x) => (float[2, 4] y) <float[4, 1] a = {1, 2, 3, 4}, "
        "float[1, 4] b = {1, 2, 3, 4}> { p = MatMul (x, a) y = MatMul (p, b) }",
    ),
    Graph(
        "matmul_add_bn",
        "BN behind a product of rank two runs along the columns",
        f"g (float[3, 2] x) => (float[3, 2] y) <float[2, 2] w = {{1, 2, 3, 4}}, "
        f"float[2] k = {{5, 6}}, {BN}> "
        "{ p = MatMul (x, w) q = Add (p, k) y = BatchNormalization (q, s, b, m, v) }",
    ),
    Graph(
        "matmul_of_rank_three_bn",
        "of rank three it runs along the rows, which are no columns though of the same size",
        f"g (float[3, 2, 2] x) => (float[3, 2, 2] y) <float[2, 2] w = {{1, 2, 3, 4}}, {BN}> "
        "{ p = MatMul (x, w) y = BatchNormalization (p, s, b, m, v) }",
    ),
    Graph(
        "parallel_products_of_one_input",
        "they may be merged unless one is an output of its own type or has another shape",
        "g (float[2, 2] x) => (float[2, 2] a, float[2, 3] b, float[2, 2] c) "
        "<float[2, 2] w = {1, 2, 3, 4}, float[2, 3] v = {1, 2, 3, 4, 5, 6}, float[2] k = {1, 2}> "
        "{ a = MatMul (x, w) b = MatMul (x, v) d = MatMul (w, x) c = Add (d, k) }",
    ),
    Graph(
        "einsum_look_alikes",
        "a product, its transpose, a trace, an outer product",
        """g (float[2, 2] x) => (float[2, 2] a, float[2, 2] b, float c, float[2, 2, 2, 2] d)
        <float[2, 2] w = {1, 2, 3, 4}>
        { a = Einsum <equation = "ij,jk->ik"> (x, w) b = Einsum <equation = "ij,jk->ki"> (x, w)
        c = Einsum <equation = "ij,ji"> (x, w) d = Einsum <equation = "ij,kl->ijkl"> (x, w) }""",
    ),
    Graph(
        "conv_with_a_computed_weight",
        "a weight that is no constant cannot be scaled",
        f"g ({X}, float[2, 2, 1, 1] w) => ({Y}) <{BN}> "
        "{ c = Conv (x, w) y = BatchNormalization (c, s, b, m, v) }",
    ),
    Graph(
        "conv_of_one_dimension_plus_bias",
        "the bias of rank one runs along the width",
        "g (float[1, 3, 3] x) => (float[1, 3, 3] y) <float[3, 3, 1] w = {1, 2, 3, 4, 5, 6, 7, 8, "
        "9}, "
        "float[3] k = {1, 2, 3}> { c = Conv (x, w) y = Add (c, k) }",
    ),
)
