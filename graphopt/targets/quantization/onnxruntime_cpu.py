"""ONNX Runtime on a CPU: an operator between DequantizeLinear and QuantizeLinear is integer there.

The operators are those of its selectors (onnxruntime/core/optimizer/qdq_transformer, version 1.32).
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from graphopt.targets.quantization.rules import Numbers, OperatorRule, QuantizationRules
from graphopt.targets.quantization.tensorrt import TENSORRT

_UINT8 = Numbers(
    "int8",
    data="uint8",
    weight="int8",
    symmetric=False,
    floats=("FLOAT",),
    stored=frozenset({"INT8", "UINT8", "INT16", "UINT16", "INT32", "INT4", "UINT4"}),
    integer_biases=True,
)

_RULES = QuantizationRules(
    numbers=_UINT8,
    operators=MappingProxyType(
        {
            # QLinearConv
            "Conv": OperatorRule(weight_ranks=(3, 5), weight_axis=0, bias=2, float_output=False),
            # QGemm
            "Gemm": OperatorRule(
                weight_ranks=(2, 2),
                weight_axis=1,
                transposed_by="transB",
                unset=("transA",),
                ones=("alpha", "beta"),
                bias=2,
            ),
            # QLinearMatMul, or MatMulIntegerToFloat; but where all shapes are known it first makes
            # one Gemm of it and its Add, which is float unless all three inputs are quantized.
            "MatMul": OperatorRule(weight_ranks=(2, 2), weight_axis=1, added_bias=True),
        }
    ),
    float_operators=MappingProxyType(
        dict.fromkeys(
            ("ConvTranspose", "Einsum", "LSTM", "GRU", "RNN"),
            "ONNX Runtime has no integer kernel for it",
        )
    ),
    movers=frozenset({"Flatten", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}),
    selectors=frozenset({"Expand", "Gather", "Slice", "Split", "Tile"}),
    followers=frozenset(
        {
            "Add",
            "AveragePool",
            "Concat",
            "GlobalAveragePool",
            "HardSigmoid",
            "LeakyRelu",
            "Mul",
            "Sigmoid",
        }
    ),
    # It has no integer kernels for these, and as floats between integers they made MobileNetV3
    # 0.7 times as fast as it was.
    gates=frozenset({"HardSigmoid"}),
    spelled=frozenset({"HardSwish"}),
    clamps=frozenset({"Clip", "Relu"}),
    pairs_behind_movers=True,
    epilogues=frozenset({"Clip", "Relu"}),
    # Measured with AVX-512 VNNI on layers between float nodes: 1x1 Convs break even at 32 to 64
    # output channels and MatMuls at 16 to 32 columns. Depthwise Convs of 3x3 to 7x7 are at
    # 0.4 to 0.8 of fp32 there, and 3x3 Convs in 4 or 8 groups at 0.8.
    island_reuse=32,
    grouped_alone=False,
    # A 3x3 Conv of one channel, as a float: MobileNetV3 of 28x28 goes from 0.82 to 0.93 of fp32 at
    # batch 1, from 1.11 to 1.17 at 16, and from 1.39 to 1.37 at 64.
    first_products=16,
)

# It has no int16 kernels: what is computed is float, between tensors that are rounded.
_INT16 = replace(
    TENSORRT["int8"],
    numbers=replace(_UINT8, data="int16", symmetric=True, integer_biases=False),
    float_operators=_RULES.float_operators,
)

ONNXRUNTIME_CPU = MappingProxyType(
    {
        "uint8": _RULES,
        "int8": replace(_RULES, numbers=replace(_UINT8, data="int8")),
        "int16": _INT16,
    }
)
"""By format; the first is the default."""

REFUSED = MappingProxyType(
    {"fp8": "ONNX Runtime's optimizations garble fp8 on a CPU; it is for SM89 and later"}
)
