"""Reading a model file without its weights."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator
from typing import overload

import onnx
import onnx_ir as ir

from graphopt.ir.weights import FileTensor, LoadedTensor, Span, WeightFile
from graphopt.ir.wire import (
    LENGTH_DELIMITED,
    VARINT,
    Around,
    Buffer,
    Cut,
    Field,
    UnusualWireError,
    fields,
    spliced,
    varint_at,
)

# Where a tensor is worth leaving in the file: below a page, reading it costs more than holding it.
LARGE_TENSOR_BYTES = 4096

# Numbers of fields in onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_OP_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_TENSOR, _ATTRIBUTE_DOC_STRING, _ATTRIBUTE_TYPE = 1, 5, 13, 20
_TENSOR_DIMS, _TENSOR_DATA_TYPE, _TENSOR_NAME, _TENSOR_RAW_DATA = 1, 2, 8, 9
_TENSOR_DOC_STRING, _TENSOR_METADATA = 12, 16
_ATTRIBUTE_FIELDS = {_ATTRIBUTE_NAME, _ATTRIBUTE_TENSOR, _ATTRIBUTE_DOC_STRING, _ATTRIBUTE_TYPE}
_TYPE_TENSOR = bytes([onnx.AttributeProto.TENSOR])
# A tensor with any other field has its data elsewhere, or was made by a later ONNX than this.
_TENSOR_FIELDS = {
    _TENSOR_DIMS,
    _TENSOR_DATA_TYPE,
    _TENSOR_NAME,
    _TENSOR_RAW_DATA,
    _TENSOR_DOC_STRING,
    _TENSOR_METADATA,
}

_DATA_TYPES = frozenset(kind.value for kind in ir.DataType)

_BLOCK_BYTES = 8192
_MARK_BYTES = 16
_INDEX_BYTES = 8


class Skeleton:
    """A model file in which each large weight of the main graph gave way to a short mark."""

    def __init__(self, content: bytes, mark: bytes, spans: list[Span]) -> None:
        self.content = content
        self._mark = mark
        self._spans = spans

    def span_of(self, tensor: onnx.TensorProto) -> Span | None:
        """Where the data of `tensor` is, if it was left out."""
        if not tensor.HasField("raw_data"):
            return None
        mark = tensor.raw_data
        if len(mark) != _MARK_BYTES + _INDEX_BYTES or not mark.startswith(self._mark):
            return None
        return self._spans[int.from_bytes(mark[_MARK_BYTES:], "little")]


def put_back(graph: ir.Graph, skeleton: Skeleton | None) -> None:
    """Gives the tensors of `graph`, the main graph of a model, the data that `skeleton` lacks.

    Those that have theirs are exchanged too, for tensors that are quicker to ask.
    """
    for value in graph.initializers.data.values():
        if value.const_value is not None:
            value.const_value = _whole(value.const_value, skeleton)
    for node in graph:
        attribute = node.attributes.data.get("value") if node.op_type == "Constant" else None
        if attribute is None or attribute.type != ir.AttributeType.TENSOR:
            continue
        tensor = _whole(attribute.value, skeleton)
        if tensor is not attribute.value:
            node.attributes["value"] = ir.AttrTensor(
                attribute.name, tensor, doc_string=attribute.doc_string
            )


def _whole(tensor: ir.TensorProtocol, skeleton: Skeleton | None) -> ir.TensorProtocol:
    if type(tensor) is not ir.serde.TensorProtoTensor:
        return tensor
    if tensor.raw.data_type not in _DATA_TYPES:  # told of where it is used
        return tensor
    span = None if skeleton is None else skeleton.span_of(tensor.raw)
    if span is None:
        return LoadedTensor(tensor.raw)
    header: onnx.TensorProto = tensor.raw
    header.ClearField("raw_data")
    return FileTensor(header, span)


def without_weights(file: WeightFile) -> Skeleton | None:
    """The model in `file` without its large weights, if it has such and nothing about it is odd."""
    file.hold()
    content = _Blocks(file)
    try:
        around, cuts = _cuts(content, file.size)
        parts, _ = spliced(content, 0, file.size, around)
    except UnusualWireError:
        return None
    if not cuts or not file.is_same():
        return None
    mark = secrets.token_bytes(_MARK_BYTES)
    numbers = iter(range(len(cuts)))
    skeleton = b"".join(
        mark + next(numbers).to_bytes(_INDEX_BYTES, "little") if part is None else part
        for part in parts
    )
    spans = [Span(file, cut.field.body, cut.field.stop - cut.field.body) for cut in cuts]
    return Skeleton(skeleton, mark, spans)


class _Blocks:
    """A file read like a buffer, a block at a time.

    Not a memory map: that would make the process grow by every page around what is looked at, and
    end it should the file be cut short meanwhile.
    """

    def __init__(self, file: WeightFile) -> None:
        self._file = file
        self._block = b""
        self._start = 0

    @overload
    def __getitem__(self, index: int, /) -> int: ...
    @overload
    def __getitem__(self, index: slice, /) -> bytes: ...
    def __getitem__(self, index: int | slice, /) -> int | bytes:
        if isinstance(index, slice):
            return self._read(index.start, index.stop)
        at = index - self._start
        if not 0 <= at < len(self._block):
            self._start, at = index, 0
            self._block = self._read(index, min(index + _BLOCK_BYTES, self._file.size))
        return self._block[at]

    def _read(self, start: int, stop: int) -> bytes:
        content = self._file.peek(start, stop - start)
        if len(content) != stop - start:
            raise UnusualWireError  # it is being written to: then it is read in one go
        return content


def _cuts(content: Buffer, size: int) -> tuple[list[Cut | Around], list[Cut]]:
    """The cuts by the messages around them, and by themselves, in order."""
    graphs = [f for f in fields(content, 0, size) if f.number == _MODEL_GRAPH]
    if len(graphs) != 1 or graphs[0].kind != LENGTH_DELIMITED:
        return [], []  # protobuf merges several into one
    found: list[Cut | Around] = []
    cuts: list[Cut] = []
    for part in fields(content, graphs[0].body, graphs[0].stop):
        if part.kind != LENGTH_DELIMITED or part.stop - part.body < LARGE_TENSOR_BYTES:
            continue
        if part.number == _GRAPH_INITIALIZER:
            change = _in_tensor(content, part)
        elif part.number == _GRAPH_NODE:
            change = _in_constant(content, part)
        else:
            continue
        if change is not None:
            found.append(change)
            cuts.append(_innermost(change))
    return [Around(graphs[0], found)], cuts


def _innermost(change: Cut | Around) -> Cut:
    while isinstance(change, Around):
        change = change.inner[0]
    return change


def _in_constant(content: Buffer, node: Field) -> Around | None:
    """The cut in a Constant node that holds one tensor and nothing else."""
    attributes, others = [], {}
    for part in fields(content, node.body, node.stop):
        if part.number == _NODE_ATTRIBUTE:
            attributes.append(part)
        else:
            others[part.number] = content[part.body : part.stop]
    if len(attributes) != 1 or others.get(_NODE_OP_TYPE) != b"Constant":
        return None
    if others.get(_NODE_DOMAIN, b"") not in (b"", b"ai.onnx"):
        return None
    tensor = _value(content, attributes[0])
    inner = None if tensor is None else _in_tensor(content, tensor)
    return None if inner is None else Around(node, [Around(attributes[0], [inner])])


def _value(content: Buffer, attribute: Field) -> Field | None:
    """The tensor of an attribute that is named "value" and says that it is a tensor."""
    parts = list(fields(content, attribute.body, attribute.stop))
    found = {part.number: part for part in parts}
    if len(parts) != len(found) or not found.keys() <= _ATTRIBUTE_FIELDS:
        return None
    name, kind = found.get(_ATTRIBUTE_NAME), found.get(_ATTRIBUTE_TYPE)
    if name is None or content[name.body : name.stop] != b"value":
        return None
    if kind is None or content[kind.body : kind.stop] != _TYPE_TENSOR:
        return None
    tensor = found.get(_ATTRIBUTE_TENSOR)
    return tensor if tensor is not None and tensor.kind == LENGTH_DELIMITED else None


def _in_tensor(content: Buffer, tensor: Field) -> Around | None:
    """The cut in a tensor whose data is raw, large, and of just the size that its shape asks for.

    Others are for protobuf and the checker to judge.
    """
    parts = list(fields(content, tensor.body, tensor.stop))
    raw = [part for part in parts if part.number == _TENSOR_RAW_DATA]
    types = [part for part in parts if part.number == _TENSOR_DATA_TYPE]
    if len(raw) != 1 or raw[0].kind != LENGTH_DELIMITED or len(types) != 1:
        return None
    if types[0].kind != VARINT or not {part.number for part in parts} <= _TENSOR_FIELDS:
        return None
    length = raw[0].stop - raw[0].body
    if length < LARGE_TENSOR_BYTES:
        return None
    data_type, _ = varint_at(content, types[0].body, types[0].stop)
    dims = list(_dims(content, parts))
    if length != _size(data_type, dims):
        return None
    return Around(tensor, [Cut(raw[0], _MARK_BYTES + _INDEX_BYTES)])


def _dims(content: Buffer, parts: list[Field]) -> Iterator[int]:
    for part in parts:
        if part.number != _TENSOR_DIMS:
            continue
        if part.kind not in (VARINT, LENGTH_DELIMITED):
            raise UnusualWireError
        position = part.body
        while position < part.stop:  # one, or several packed
            dim, position = varint_at(content, position, part.stop)
            yield dim


def _size(data_type: int, dims: list[int]) -> int | None:
    """The bytes of a tensor; None if its elements have no size, or are checked as they are read."""
    try:
        bits = ir.DataType(data_type).bitwidth
    except (ValueError, TypeError):
        return None
    return None if bits == 6 else math.ceil(math.prod(dims) * bits / 8)
