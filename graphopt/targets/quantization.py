"""Where each family of targets wants its quantized tensors: data, read by the `quantize` pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from graphopt.errors import GraphoptError


@dataclass(frozen=True)
class OperatorRule:
    """An operator that the target computes in integers when its data and its weight are quantized.

    Attributes:
        weight_ranks: the ranks of a weight that it takes, from the least to the greatest.
        weight_axis: the axis of the weight along which each output channel has its own scale.
        transposed_by: an attribute that, when it is 1, makes that axis 0.
        unset: attributes that must be absent or 0.
        data: the index of the data input.
        weight: the index of the weight input.
    """

    weight_ranks: tuple[int, int]
    weight_axis: int
    transposed_by: str | None = None
    unset: tuple[str, ...] = ()
    data: int = 0
    weight: int = 1


@dataclass(frozen=True)
class QuantizationRules:
    """Placement of QuantizeLinear and DequantizeLinear for one family of targets.

    Attributes:
        operators: what is computed in integers. Data and weight are both quantized, or neither.
        float_operators: what has multiply-accumulates and stays float, each with the reason.
        movers: operators that only move values (their first input's to their first output). The
            pair is placed above them, so that the target moves integers.
        selectors: operators that move some of the values. The pair is not placed above them,
            for the range of the values that they drop is of no concern; but if their input is
            quantized anyway, nothing is quantized again below.
        joins: operators whose inputs share one scale, so that joining them moves integers.
        additions: operators that end a residual block.
        residual_branches: an addition of the output of such an operator, computed in integers, and
            a tensor that is quantized anyway reads the quantized one: the skip is then stored in
            integers.
        data_limits: the least and the greatest integer of data.
        weight_limits: the same of weights.
    """

    family: str
    operators: Mapping[str, OperatorRule]
    float_operators: Mapping[str, str]
    movers: frozenset[str]
    selectors: frozenset[str]
    joins: frozenset[str]
    additions: frozenset[str]
    residual_branches: frozenset[str]
    data_limits: tuple[int, int]
    weight_limits: tuple[int, int]


_TENSORRT = QuantizationRules(
    family="tensorrt",
    operators=MappingProxyType(
        {
            "Conv": OperatorRule(weight_ranks=(3, 5), weight_axis=0),
            "Gemm": OperatorRule(
                weight_ranks=(2, 2), weight_axis=1, transposed_by="transB", unset=("transA",)
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
    movers=frozenset(
        {
            "DepthToSpace",
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
    additions=frozenset({"Add", "Sum"}),
    residual_branches=frozenset({"Conv"}),
    data_limits=(-128, 127),
    weight_limits=(-127, 127),
)

_RULES: Mapping[str, QuantizationRules] = MappingProxyType(
    {"generic": _TENSORRT, "tensorrt": _TENSORRT}
)


def quantization_rules(family: str) -> QuantizationRules:
    """The rules of a family of targets.

    TensorRT's also serve `generic`: their files are plain ONNX that any runtime can run.

    Raises:
        GraphoptError: if the family has none.
    """
    if family not in _RULES:
        raise GraphoptError(
            f"quantize does not support targets of the family '{family}' yet",
            fix=f"choose a target of one of these: {', '.join(sorted(_RULES))}",
        )
    return _RULES[family]
