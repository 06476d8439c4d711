"""The compiled kernels, read from the builder's log.

TensorRT-RTX writes one message that starts with `Layers:` when the profiling verbosity is detailed:

    Layers:
    Name: conv1_myl0_2, LayerType: correlation, Inputs: [ { Name: x, Dimensions: [-1,3,16,16],
    Strides: [...], StrideOrder: [...], Datatype: Int8, Format: ... }], Constants: [ ... ],
    Outputs: [ ... ], TacticName: ..., StreamId: 0, Metadata: [ONNX Layer: conv1]

one line a kernel, then a blank line and `I/O Tensors:`. A step that is no compiled kernel, such as
the copy of a shape to the GPU, has no `Constants`, other items between `Outputs` and `StreamId`,
and a `Location` before the dimensions of its tensors. The items of `Metadata` are separated by
the control character 0x1F. The format is undocumented and this is the only place that knows it.

The numbers in the builder's own names, such as `__mye982dconst`, differ from build to build; here
they are counted anew, so that equal engines give equal tables.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from types import MappingProxyType

HEADER = "Layers:\n"

# What has multiply-accumulates.
COMPUTE_KINDS = frozenset({"conv", "deconv", "gemm", "attention"})

_KINDS: Mapping[str, str] = MappingProxyType(
    {
        "correlation": "conv",
        "deconv": "deconv",
        "gemm": "gemm",
        "maxpool": "pool",
        "avgpool": "pool",
        "ShapeHostToDevice": "control",
        "shape_call": "control",
        "signal": "control",
        "wait": "control",
        "cjmp": "control",
        "jmp": "control",
        "memset": "control",
        "copy": "reformat",
        "reshape": "reformat",
        "cast": "reformat",
    }
)
_GENERATED = frozenset({"kgen", "runtime_fusion"})
# The name of a generated kernel lists the operators in it: __myl_CorrMulAddRelu_myl0_2.
_FUSED_COMPUTE: Mapping[str, str] = MappingProxyType({"Corr": "conv", "Fc": "gemm"})
_MOVES = frozenset({"Cast", "Conc", "Move", "Repl", "Resh", "Slic", "Tran"})
# M: a QuantizeLinear that no other kernel took in: __myl_MulMinMaxRounCast_myl0_1.
_QUANTIZING = _MOVES | {"Max", "Min", "Mul", "Roun"}
_QUANTIZED = frozenset({"int8", "fp8"})
_ATTENTION = re.compile(r"_gemm_mha")
_GENERATED_NAME = re.compile(r"__myl_((?:[A-Z][a-z]*)+)_myl")
_INTERNAL = re.compile(r"(__mye|hvar\^)[0-9]+", re.ASCII)
_LOCATION = re.compile(r", Location: [A-Za-z]+$", re.ASCII)
_OPERATOR = re.compile(r"[A-Z][a-z]*")
# M: a Conv that is compiled as a Gemm has "__gemm_from_conv1x1" behind the bracket.
_ONNX_LAYER = re.compile(r"\[ONNX Layer: (.*)\](?:__\w+)?", re.ASCII | re.DOTALL)
_RECORD_END = re.compile(r"\](?:__\w+)?(?=\nName: )", re.ASCII)

# By the builder's name: ours, and the bits of one element.
_TYPES: Mapping[str, tuple[str, int]] = MappingProxyType(
    {
        "Float": ("fp32", 32),
        "Half": ("fp16", 16),
        "BFloat16": ("bf16", 16),
        "FP8": ("fp8", 8),
        "Int8": ("int8", 8),
        "UInt8": ("uint8", 8),
        "Int4": ("int4", 4),
        "FP4E2M1": ("fp4", 4),
        "Int32": ("int32", 32),
        "Int64": ("int64", 64),
        "Bool": ("bool", 8),
    }
)
_BITS: Mapping[str, int] = MappingProxyType(dict(_TYPES.values()))
FLOATS = frozenset({"fp32", "fp16", "bf16"})


class KernelTableError(ValueError):
    """The text is not a kernel table that this version can read."""


@dataclass(frozen=True)
class KernelTensor:
    """What a kernel reads or writes.

    Attributes:
        shape: the dimensions; -1 where dynamic.
        dtype: "fp32", "fp16", "bf16", "fp8", "int8", "int4", "fp4", "int32", "int64", "bool", or
            what else the builder writes, in lower case.
        format: the memory layout, as the builder describes it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    format: str

    @property
    def nbytes(self) -> int | None:
        """The size in bytes; None if the shape is dynamic or the type unknown."""
        if self.dtype not in _BITS or -1 in self.shape:
            return None
        return -(-prod(self.shape) * _BITS[self.dtype] // 8)


@dataclass(frozen=True)
class Kernel:
    """One compiled kernel.

    Attributes:
        name: the builder's.
        kind: "conv", "deconv", "gemm", "attention" (two fused matrix products and their Softmax),
            "pool", "reformat" (moves or converts values), "quantize" (does nothing but make int8 or
            fp8 of floats; where another kernel does it in passing it costs little), "control" (no
            kernel on the GPU: streams, jumps, shapes), or "other".
        layer_type: the builder's word for it.
        onnx_nodes: the ONNX nodes that it came from. An epilogue that the builder split off names
            its Conv too: only the kernel whose `kind` is "conv" computes it.
        constants: the weights, and the scales and biases beside them.
        precision: the type that it computes in. A kernel that multiplies matrices computes in the
            widest type among its operands (data and weights): int8 weights under float data are
            weight-only, hence float. Any other kernel: the widest among its inputs. None where
            there is nothing to go by.
    """

    name: str
    kind: str
    layer_type: str
    onnx_nodes: tuple[str, ...]
    inputs: tuple[KernelTensor, ...]
    constants: tuple[KernelTensor, ...]
    outputs: tuple[KernelTensor, ...]
    tactic: str
    precision: str | None

    @property
    def weights(self) -> KernelTensor | None:
        """The constant operand of a Conv or a matrix product, if it has one."""
        if self.kind not in COMPUTE_KINDS:
            return None
        return _weights(self.constants, activations=len(self.inputs))


def parse_kernel_table(messages: Iterable[str]) -> tuple[Kernel, ...]:
    """The kernels in the builder's log.

    Raises:
        KernelTableError: if no message is a kernel table, or one cannot be read to its end.
    """
    tables = [
        _renumber(message[len(HEADER) :]) for message in messages if message.startswith(HEADER)
    ]
    if not tables:
        raise KernelTableError("the builder's log holds no kernel table")
    return tuple(kernel for table in tables for kernel in _parse_table(table))


def _renumber(text: str) -> str:
    numbers: dict[str, str] = {}
    return _INTERNAL.sub(
        lambda match: numbers.setdefault(match[0], f"{match[1]}{len(numbers)}"), text
    )


class _Cursor:
    """Reads a text from left to right; every step either advances or raises."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def done(self) -> bool:
        return self.at >= len(self.text)

    def accept(self, literal: str) -> bool:
        if not self.text.startswith(literal, self.at):
            return False
        self.at += len(literal)
        return True

    def expect(self, literal: str) -> None:
        if not self.accept(literal):
            found = self.text[self.at : self.at + 40]
            raise KernelTableError(f"expected {literal!r} in the kernel table, found {found!r}")

    def until(self, literal: str) -> str:
        end = self.text.find(literal, self.at)
        if end < 0:
            raise KernelTableError(f"expected {literal!r} in the kernel table, found its end")
        found = self.text[self.at : end]
        self.at = end + len(literal)
        return found


def _parse_table(text: str) -> list[Kernel]:
    body = text.rpartition("\n\nI/O Tensors:\n")[0] or text.rstrip("\n")
    cursor = _Cursor(body)
    kernels = []
    while not cursor.done():
        kernels.append(_kernel(cursor))
        if not cursor.done():
            cursor.expect("\n")
    return kernels


def _kernel(cursor: _Cursor) -> Kernel:
    cursor.expect("Name: ")
    name = cursor.until(", LayerType: ")
    layer_type = cursor.until(", Inputs: ")
    inputs = _tensors(cursor)
    constants = _tensors(cursor) if cursor.accept(", Constants: ") else ()
    cursor.expect(", Outputs: ")
    outputs = _tensors(cursor)
    tactic = _tactic(cursor.until(", StreamId: "))
    cursor.until(", Metadata: ")
    nodes = _onnx_nodes(cursor)
    operators = _operators(layer_type, name)
    kind = _kind(layer_type, name, operators)
    if _quantizes(operators, inputs, outputs):
        kind = "quantize"
    elif kind == "other" and _is_dot_product(operators, constants):
        kind = "gemm"
    return Kernel(
        name=name,
        kind=kind,
        layer_type=layer_type,
        onnx_nodes=nodes,
        inputs=inputs,
        constants=constants,
        outputs=outputs,
        tactic=tactic,
        precision=_precision(kind, operators, inputs, constants, outputs),
    )


def _tensors(cursor: _Cursor) -> tuple[KernelTensor, ...]:
    cursor.expect("[")
    tensors: list[KernelTensor] = []
    while not cursor.accept("]"):
        if tensors:
            cursor.expect(",")
        cursor.expect(" { Name: ")
        name = cursor.until(", Dimensions: [")
        dimensions = cursor.until("]")
        cursor.until(", Datatype: ")
        dtype = cursor.until(", Format: ")
        layout = cursor.until(" }")
        name = _LOCATION.sub("", name)
        tensors.append(KernelTensor(name, _shape(dimensions), _dtype(dtype), layout))
    return tuple(tensors)


def _tactic(items: str) -> str:
    before, mark, tactic = items.partition(", TacticName: ")
    return tactic if mark and not before else ""


def _shape(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"(-?[0-9]+(,-?[0-9]+)*)?", text, re.ASCII):
        raise KernelTableError(f"the kernel table has the shape {text[:40]!r}")
    return tuple(int(part) for part in text.split(",")) if text else ()


def _dtype(text: str) -> str:
    return _TYPES[text][0] if text in _TYPES else text.lower()


def _onnx_nodes(cursor: _Cursor) -> tuple[str, ...]:
    """The ONNX nodes in a `Metadata` value, the last of a record; a name may hold a newline."""
    if cursor.done() or cursor.text.startswith("\n", cursor.at):
        return ()
    start = cursor.at
    end = _RECORD_END.search(cursor.text, start)
    cursor.at = end.end() if end is not None else len(cursor.text)
    items = (_ONNX_LAYER.fullmatch(item) for item in cursor.text[start : cursor.at].split("\x1f"))
    return tuple(item[1] for item in items if item is not None)


def _operators(layer_type: str, name: str) -> tuple[str, ...]:
    match = _GENERATED_NAME.match(name) if layer_type in _GENERATED else None
    return tuple(_OPERATOR.findall(match[1])) if match else ()


def _kind(layer_type: str, name: str, operators: tuple[str, ...]) -> str:
    if layer_type in _KINDS:
        return _KINDS[layer_type]
    if layer_type in _GENERATED and _ATTENTION.match(name):
        return "attention"
    for operator in operators:
        if operator in _FUSED_COMPUTE:
            return _FUSED_COMPUTE[operator]
    return "reformat" if operators and _MOVES.issuperset(operators) else "other"


def _quantizes(
    operators: tuple[str, ...], inputs: tuple[KernelTensor, ...], outputs: tuple[KernelTensor, ...]
) -> bool:
    if not operators or not _QUANTIZING.issuperset(operators):
        return False
    floats_in = any(tensor.dtype in FLOATS for tensor in inputs)
    return floats_in and any(tensor.dtype in _QUANTIZED for tensor in outputs)


def _is_dot_product(operators: tuple[str, ...], constants: tuple[KernelTensor, ...]) -> bool:
    """M: a small Gemm of one row becomes a sum of products with its weights: ReshMulSum."""
    spelt_out = ("Mul", "Sum") in pairwise(operators)
    return spelt_out and any(sum(size > 1 for size in t.shape) > 1 for t in constants)


def _precision(
    kind: str,
    operators: tuple[str, ...],
    inputs: tuple[KernelTensor, ...],
    constants: tuple[KernelTensor, ...],
    outputs: tuple[KernelTensor, ...],
) -> str | None:
    if kind not in COMPUTE_KINDS:
        return widest([tensor.dtype for tensor in inputs or constants or outputs])
    if kind == "attention":
        # A mask of integers is read beside what is multiplied.
        multiplied = [t.dtype for t in inputs if t.dtype in FLOATS or t.dtype in _QUANTIZED]
        return widest(multiplied or [tensor.dtype for tensor in inputs])
    weights = _weights(constants, activations=len(inputs))
    # With weights, further inputs are what the epilogue adds; without, the second is an operand.
    operands = [*inputs[:1], weights] if weights is not None else [*inputs[:2]]
    dtype = widest([tensor.dtype for tensor in operands if tensor is not None])
    if dtype in FLOATS or not _converts_first(operators):
        return dtype
    return widest([t.dtype for t in (*inputs, *constants, *outputs) if t.dtype in FLOATS])


def _converts_first(operators: tuple[str, ...]) -> bool:
    """Whether a fused kernel casts its operands before it multiplies them."""
    for operator in operators:
        if operator in _FUSED_COMPUTE:
            return False
        if operator == "Cast":
            return True
    return False


def _weights(constants: tuple[KernelTensor, ...], *, activations: int) -> KernelTensor | None:
    """The largest constant with an inner dimension: the others are scales and biases.

    A column of weights cannot be told from a bias; it is taken for one where a second activation
    may be the operand.
    """
    candidates = [tensor for tensor in constants if sum(size > 1 for size in tensor.shape) > 1]
    if not candidates and activations < 2:
        candidates = [tensor for tensor in constants if len(tensor.shape) > 1]
    return max(candidates, key=lambda tensor: prod(tensor.shape), default=None)


def widest(dtypes: Sequence[str]) -> str | None:
    """The type with the most bits, the first of them; an unknown type is the widest."""
    return max(dtypes, key=lambda dtype: _BITS.get(dtype, 128), default=None)
