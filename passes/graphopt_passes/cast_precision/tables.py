"""What is known of operators beyond their schemas: data."""

from __future__ import annotations

from collections.abc import Mapping

MOVERS = frozenset(
    {
        *("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Expand"),
        *("Slice", "Split", "Concat", "Gather", "GatherElements", "GatherND", "Tile"),
        *("DepthToSpace", "SpaceToDepth", "ReverseSequence", "Compress"),
    }
)
"""What gives elements of its inputs, as they are."""

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "LSTM", "GRU", "RNN"})
"""The operators that a low type is for: they are not left in fp32 to save a cast."""

ROUNDERS = frozenset({"Floor", "Ceil", "Round", "Trunc", "Mod"})

INDEX_ARITHMETIC = (
    MOVERS
    | ROUNDERS
    | {"Add", "Sub", "Mul", "Div", "Neg", "Abs", "Sqrt", "Min", "Max", "Clip", "Where", "Pow"}
)
"""What computes sizes and indices in floats, ahead of a Cast to integers."""

SUMS = frozenset({"ReduceSum", "ReduceMean", "ReduceL1", "CumSum"})
"""Operators that add up elements: their number times the largest bounds every partial sum."""

SQUARE_SUMS = frozenset({"ReduceSumSquare", "ReduceL2", "LpNormalization", "GlobalLpPool"})

MEANS = frozenset({"ReduceMean", "ReduceSum", "GlobalAveragePool", "ReduceSumSquare", "ReduceL2"})
"""What makes the variance of a normalization out of squares."""

STATISTICS = MOVERS | {"Add", "Sub", "Mul", "Div", "Sqrt", "Reciprocal", "Pow", "Max", "Clip"}
"""What makes the divisor of a normalization out of a variance."""

NEVER = frozenset({"ReduceProd", "ReduceLogSum", "ReduceLogSumExp", "LpPool", "Det"})
"""Operators with products or exponentials inside that no tensor shows."""

BITS = frozenset({"BitCast"})
"""Operators to which a number is its bits."""

GROWING = frozenset({"Exp", "Pow", "Sinh", "Cosh", "Tan"})
"""Operators whose results may be of another order of magnitude than what they read."""

EXPONENTIALS = frozenset({"Softplus", "Mish"})
"""Operators whose definition has an exponential of the input, with nothing subtracted."""

PERIODIC = frozenset({"Sin", "Cos"})
LARGEST_ANGLE = 4.0
"""An angle of many turns loses what is left of the last one."""

UNBOUNDED = GROWING | {"ReduceSum", "ReduceL1", "ReduceSumSquare", "ReduceProd", "CumSum"}
"""Operators whose results may be of any size where none was measured."""

BOUNDED = frozenset(
    {
        *("Softmax", "LogSoftmax", "Sigmoid", "Tanh", "Erf", "Sin", "Cos", "HardSigmoid"),
        *("Softsign", "LayerNormalization", "InstanceNormalization", "GroupNormalization"),
        *("RMSNormalization", "LpNormalization", "Sign", "Hardmax", "Log", "Atan"),
    }
)
"""Operators whose results say nothing of how large their inputs are."""

GUARDED: Mapping[str, tuple[int, ...]] = {
    "Div": (1,),
    "Log": (0,),
    "Sqrt": (0,),
    "Reciprocal": (0,),
    "Pow": (0,),
    "QuantizeLinear": (1,),
    "DequantizeLinear": (1,),
}
"""Operators, and the inputs, that must not become 0: an epsilon is there for them."""

ADDITIONS = frozenset({"Add", "Sub", "Max", "Min", "Clip"})
"""What an epsilon comes in by."""

ADDITIVE: Mapping[str, tuple[int, ...]] = {
    "Conv": (2,),
    "ConvTranspose": (2,),
    "Gemm": (2,),
    "Add": (0, 1),
    "Sub": (0, 1),
    "LayerNormalization": (2,),
    "InstanceNormalization": (2,),
    "BatchNormalization": (2, 3),
}
"""Operands that are added: rounding a tiny one is no worse than rounding the sum."""

BOUNDS: Mapping[str, tuple[tuple[int, int], ...]] = {
    "Clip": ((1, -1), (2, 1)),
    "Max": ((0, -1), (1, -1)),
    "Min": ((0, 1), (1, 1)),
}
"""Operands, and their sign, that beyond the type's range are the same as no bound at all."""

MASKED: Mapping[str, tuple[int, ...]] = {"Add": (0, 1), "Where": (1, 2), "Attention": (3,)}
"""The operands by which a mask reaches scores."""

PRODUCTS = frozenset({"Mul", "Conv", "ConvTranspose", "Gemm", "MatMul"})

COMPARISONS = frozenset({"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"})

HELD_OPERANDS: Mapping[str, tuple[int, ...]] = {"GridSample": (1,), "Resize": (1,)}
"""Operands that stay fp32 although their type may be low: coordinates. A step of fp16 is half a
pixel at 1000."""

FOLLOWS: Mapping[str, int] = {"DequantizeLinear": 1, "LinearAttention": 0}
"""Operators whose result has the type of this input, though schemas since opset 23 do not say."""
