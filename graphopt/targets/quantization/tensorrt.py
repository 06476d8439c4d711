"""TensorRT. M marks what was measured by building with TensorRT-RTX 1.7, R what is documented."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from graphopt.targets.quantization.rules import Numbers, OperatorRule, QuantizationRules

_INT8 = Numbers(
    "int8",
    data="int8",
    weight="int8",
    symmetric=True,
    floats=("FLOAT", "FLOAT16"),
    # M: an int32 bias, a zero point other than 0 and int16 are refused, and uint8 is misread.
    stored=frozenset({"INT8", "FLOAT8E4M3FN", "INT4", "FLOAT4E2M1"}),
)
# R: E4M3, from SM89 on.
_FP8 = replace(_INT8, precision="fp8", data="fp8", weight="fp8")

_RULES = QuantizationRules(
    numbers=_INT8,
    operators=MappingProxyType(
        {
            "Conv": OperatorRule(weight_ranks=(3, 5), weight_axis=0, bias=2),
            "Gemm": OperatorRule(
                weight_ranks=(2, 2),
                weight_axis=1,
                transposed_by="transB",
                unset=("transA",),
                bias=2,
            ),
            "MatMul": OperatorRule(weight_ranks=(2, 2), weight_axis=1),
        }
    ),
    float_operators=MappingProxyType(
        {
            "ConvTranspose": "TensorRT has no int8 kernel for it that builds everywhere",
            "Einsum": "TensorRT has no int8 kernel for it",
            "LSTM": "TensorRT has no int8 kernel for it",
            "GRU": "TensorRT has no int8 kernel for it",
            "RNN": "TensorRT has no int8 kernel for it",
        }
    ),
    # M: an int8 Conv stays one behind each of these and of the selectors.
    movers=frozenset(
        {
            "DepthToSpace",
            "Dropout",
            "Flatten",
            "Identity",
            "MaxPool",
            "Pad",
            "Reshape",
            "SpaceToDepth",
            "Squeeze",
            "Transpose",
            "Unsqueeze",
        }
    ),
    selectors=frozenset({"Expand", "Gather", "Slice", "Split", "Tile"}),
    joins=frozenset({"Concat"}),
    # M: MatMul -> (Add, Reshape, Transpose) -> Split or Gather is float; three MatMuls are int8.
    whole_products=True,
    additions=frozenset({"Add", "Sum"}),
    residual_branches=frozenset({"Conv"}),
    # M: both Convs around any of these are int8.
    epilogues=frozenset(
        {
            "Add",
            "BatchNormalization",
            "Clip",
            "Elu",
            "Gelu",
            "HardSigmoid",
            "HardSwish",
            "LeakyRelu",
            "Mul",
            "PRelu",
            "Relu",
            "Sigmoid",
            "Softplus",
            "Sum",
            "Swish",
            "Tanh",
        }
    ),
    # Fewer output channels than half of what fills a tensor core (16), and no taps to reuse.
    island_reuse=8,
    # M: with 2, 3 and 4 channels and a batch of 1 both Convs are float; 5 and more are int8.
    narrow_squeeze=4,
)

# R, and M: with 49 taps it computes in fp32.
_FP8_CONV = replace(_RULES.operators["Conv"], most_taps=32)
_FP8_RULES = replace(
    _RULES, numbers=_FP8, operators=MappingProxyType({**_RULES.operators, "Conv": _FP8_CONV})
)

TENSORRT = MappingProxyType({"int8": _RULES, "fp8": _FP8_RULES})
"""By format; the first is the default."""

REFUSED = MappingProxyType(
    {
        "uint8": "TensorRT reads uint8 as int8, without a word",
        "int16": "TensorRT's parser refuses int16",
    }
)
