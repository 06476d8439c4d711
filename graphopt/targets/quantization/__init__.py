"""Where each family of targets wants its quantized tensors: data, read by the `quantize` pass."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from graphopt.errors import GraphoptError
from graphopt.targets.quantization import onnxruntime_cpu, tensorrt
from graphopt.targets.quantization.rules import Numbers, OperatorRule, QuantizationRules

__all__ = ["Numbers", "OperatorRule", "QuantizationRules", "quantization_rules"]

_CPU, _GPU = onnxruntime_cpu.ONNXRUNTIME_CPU, tensorrt.TENSORRT
_Rules = Mapping[str, QuantizationRules]

_FAMILIES: Mapping[str, tuple[_Rules, Mapping[str, str]]] = MappingProxyType(
    {
        # Plain ONNX that any runtime can run: TensorRT too, unless another format is asked for.
        "generic": ({**_CPU, **_GPU, "int8": _GPU["int8"]}, {}),
        "tensorrt": (_GPU, tensorrt.REFUSED),
        "onnxruntime-cpu": (_CPU, onnxruntime_cpu.REFUSED),
    }
)
_DEFAULTS: Mapping[str, str] = MappingProxyType(
    {"generic": "int8", "tensorrt": "int8", "onnxruntime-cpu": "uint8"}
)


def quantization_rules(family: str, format: str | None = None) -> QuantizationRules:
    """The rules of a family of targets for data of a format; by default the family's own.

    Raises:
        GraphoptError: if the family has none.
    """
    if family not in _FAMILIES:
        raise GraphoptError(
            f"quantize does not support targets of the family '{family}' yet",
            fix=f"choose a target of one of these: {', '.join(sorted(_FAMILIES))}",
        )
    rules, refused = _FAMILIES[family]
    format = format or _DEFAULTS[family]
    if format not in rules:
        raise GraphoptError(
            f"{format} is not for targets of the family '{family}': {refused[format]}",
            where="pass 'quantize'",
            fix=f"choose one of these: {', '.join(sorted(rules))}",
        )
    return rules[format]
