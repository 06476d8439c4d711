"""ONNX Runtime on a CPU: an operator between DequantizeLinear and QuantizeLinear is integer there.

The operators are those of its selectors (onnxruntime/core/optimizer/qdq_transformer, version 1.32).
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from graphopt.targets.quantization.costs import Costs
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

# Measured with ONNX Runtime 1.32 on one core with AVX-512 VNNI, in chains of equal nodes.
# Depthwise Convs are 2 to 6 times as slow in integers as in float, HardSwish 4 times;
# 1x1 Convs gain from 32 channels on, 3x3 Convs from 16.
_COSTS = Costs(
    block=16,
    input_block=(16, 4),
    node=(300, 600),
    product=(0.0095, 0.003),
    few_inputs=(0.02, 0.003),
    position=(0, 5),
    tap=(0, 0.6),
    odd_inputs=(1, 3),
    weight=(0.27, 0.1),
    spilled=(0.14, 0.04),
    cached_bytes=2 << 20,
    element=(0.05, 0),
    few_inputs_element=(0.3, 0),
    depthwise_tap=(0, 0.9),
    depthwise_element=(0.1, 0.19),
    depthwise_element_tap=(0.0145, 0.0215),
    odd_channels=(1, 2.2),
    elementwise=MappingProxyType(
        {
            "Add": (0.08, 0.14),
            "Mul": (0.09, 0.3),
            "HardSigmoid": (0.2, 0.1),
            "Sigmoid": (0.3, 0.1),
            "LeakyRelu": (0.1, 0.1),
            "AveragePool": (0.3, 0.5),
            "GlobalAveragePool": (0.15, 0.1),
            "MaxPool": (0.3, 0.2),
            "Concat": (0.1, 0.05),
        }
    ),
    broadcast=(6, 20),
    boundary=0.45,
    boundary_node=500,
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
    gelu_opset=20,
    clamps=frozenset({"Clip", "Relu"}),
    pairs_behind_movers=True,
    # WeightBiasQuantization, in every build of 1.32 and with no option of its own to turn it off.
    requantized=frozenset({"Conv", "ConvTranspose", "Gemm"}),
    epilogues=frozenset({"Clip", "Relu"}),
    costs=_COSTS,
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
