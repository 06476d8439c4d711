"""What a builder complains about, as one line, with what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# Said on every machine without a GPU, whatever the real error is.
_NO_GPU = re.compile(r"catchCudaError|CUDA initialization failure")
_MAX_ERRORS = 5

# M: each was seen with TensorRT-RTX 1.7.
_FIXES = (
    (
        re.compile(r"input has type Int32 but must have type"),
        "keep biases in float: TensorRT has no int32 DequantizeLinear "
        "(ONNX Runtime's quantizer: extra_options={'QuantizeBias': False})",
    ),
    (
        re.compile(r"Non-zero zero point is not supported"),
        "quantize symmetrically, with zero points of 0",
    ),
    (
        re.compile(r"FP32 GEMM is not supported"),
        "cast the model to fp16, or choose a newer target",
    ),
    (
        re.compile(r"contains HW-specific datatypes"),
        "choose a target that has this data type, or another precision",
    ),
    (
        re.compile(r"Found unsupported input type of UINT8"),
        "quantize to int8, with zero points of 0",
    ),
    (
        re.compile(r"Scale coefficients must all be positive"),
        "give what is always 0 a small positive scale",
    ),
    (
        re.compile(r"Node input was not registered"),
        "every Loop around it needs a condition: give it a constant true as its second input",
    ),
    (
        re.compile(r"does not support UINT8 types for intermediate|But type is UInt8"),
        "cast to int32 or a float type first: uint8 is for inputs and outputs",
    ),
    (
        re.compile(r"plugin creator .* was not found|Plugin not found"),
        "this operator is unknown to this builder; replace or remove it",
    ),
)


@dataclass(frozen=True)
class Complaint:
    """One error of the parser; an empty string or -1 is what it did not say."""

    code: str
    node: str
    operator: str
    text: str

    def __str__(self) -> str:
        node = f"node '{self.node}'" if self.node else "the model"
        operator = f" [{self.operator}]" if self.operator else ""
        code = f" ({self.code})" if self.code else ""
        return f"{node}{operator}: {one_line(self.text) or 'no reason given'}{code}"


def describe(complaints: Sequence[Complaint]) -> str:
    """The first complaints in one line, and how many more there are."""
    shown = [str(complaint) for complaint in complaints[:_MAX_ERRORS]]
    if len(complaints) > _MAX_ERRORS:
        shown.append(f"and {len(complaints) - _MAX_ERRORS} more")
    return " | ".join(shown) or "no reason given"


def describe_errors(messages: Iterable[str]) -> str:
    """The errors that a builder logged, without what every machine without a GPU logs."""
    lines = [one_line(message) for message in messages]
    lines = list(dict.fromkeys(line for line in lines if line))
    return " | ".join(lines[:_MAX_ERRORS]) or "no reason given"


def refused_opset(
    version: int, known: tuple[int, int] | None, target: str
) -> tuple[str, str] | None:
    """What is wrong with `version` of ONNX's own opset, and what to do; None if nothing is.

    Args:
        known: the least and the greatest that `target` takes; None where that is not known.
    """
    if known is None or known[0] <= version <= known[1]:
        return None
    least, greatest = known
    nearest = least if version < least else greatest
    return (
        f"uses opset {version}, and {target} takes {least} to {greatest}",
        f"convert it with --passes set-opset{{version={nearest}}}, or export it again with that",
    )


def fix_for(text: str) -> str | None:
    """What to do about an error, if it is one of those that are known."""
    return next((fix for pattern, fix in _FIXES if pattern.search(text)), None)


def one_line(text: str) -> str:
    """`text` without line breaks, and without what every machine without a GPU is told."""
    return " ".join(
        " ".join(line for line in text.splitlines() if not _NO_GPU.search(line)).split()
    )
