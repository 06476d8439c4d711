"""The rules, in the order in which they are tried."""

from __future__ import annotations

from graphopt.rewriting import Rule
from graphopt_passes.fuse_gemm.chained import join_convs, join_products
from graphopt_passes.fuse_gemm.gemm import add_bias, take_factor, take_transpose
from graphopt_passes.fuse_gemm.parallel import merge_parallel
from graphopt_passes.fuse_gemm.reshaped import drop_reshapes

RULES = (
    Rule("reshape-product-reshape", ("Reshape",), drop_reshapes),
    Rule("product-of-product", ("MatMul", "Gemm"), join_products),
    Rule("conv-of-conv", ("Conv",), join_convs),
    Rule("transposed-operand", ("MatMul", "Gemm"), take_transpose),
    Rule("product-bias", ("Add", "Sub"), add_bias),
    Rule("product-factor", ("Mul", "Div"), take_factor),
)

RULES_WITH_MERGES = (
    Rule("merge-parallel", ("MatMul", "Gemm", "Conv"), merge_parallel),
    *RULES,
)
