"""A model as bytes, a part at a time: no more than one tensor of it is in memory at once."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, TypeGuard

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.unknown_fields import UnknownFieldSet

from graphopt.errors import GraphoptError
from graphopt.ir.external import is_external
from graphopt.ir.leaving_out import LARGE_TENSOR_BYTES
from graphopt.ir.views import Replace, TensorView, graph_view, model_view
from graphopt.ir.weights import WITHOUT_BYTES, DataFileTensor, FileTensor
from graphopt.ir.wire import cuts_at, spliced

_MARK_BYTES = 16
_INDEX_BYTES = 8


@dataclass(frozen=True)
class Part:
    """The data of a tensor, and of how many bytes it is."""

    tensor: ir.TensorProtocol
    size: int


@dataclass(frozen=True)
class Serialized:
    """A model as protobuf has it, the tensors still to be read."""

    parts: tuple[bytes | Part, ...]
    size: int
    """In bytes."""

    def write(self, file: BinaryIO) -> None:
        """Appends it to `file`.

        Raises:
            GraphoptError: if a tensor has other data than its shape asks for.
            OSError: if it cannot be written.
        """
        for part in self.parts:
            if isinstance(part, bytes):
                file.write(part)
            else:
                write_tensor(part.tensor, part.size, file)

    def chunks(self) -> Iterator[bytes | memoryview]:
        """It in order, in pieces that fit into memory."""
        for part in self.parts:
            if isinstance(part, bytes):
                yield part
            elif isinstance(part.tensor, (FileTensor, DataFileTensor)):
                yield from (chunk.data for chunk in part.tensor.span.chunks())
            else:
                yield _content(part.tensor, part.size)


def serialize(model: ir.Model, initializers: Replace | None = None) -> Serialized:
    """`model` as one message with all of its tensors, external data included.

    The bytes are those of `onnx_ir.to_proto(model).SerializeToString(deterministic=True)`.

    Args:
        initializers: what some of them give way to; by default none do.
    """
    marks = _Marks()

    def replace(tensor: ir.TensorProtocol) -> TensorView | ir.TensorProtocol | None:
        new = None if initializers is None else initializers(tensor)
        return marks.put(tensor) if new is None else new

    view = graph_view(model.graph, replace, marks.put)
    proto = ir.to_proto(model_view(model, view))
    return marks.resolve(proto.SerializeToString(deterministic=True))


class _Marks:
    """Short texts in the place of tensors, by which they are found in the serialized model."""

    def __init__(self) -> None:
        self._mark = secrets.token_bytes(_MARK_BYTES)
        self._tensors: list[ir.TensorProtocol] = []

    def put(self, tensor: ir.TensorProtocol) -> TensorView | ir.TensorProtocol | None:
        """`tensor` with a mark for its data; None if it is small, or its data is not raw."""
        if tensor.dtype in WITHOUT_BYTES:
            return None
        if tensor.nbytes < LARGE_TENSOR_BYTES and not is_external(tensor):
            return None
        mark = self._mark + len(self._tensors).to_bytes(_INDEX_BYTES, "little")
        if isinstance(tensor, ir.serde.TensorProtoTensor):
            view: TensorView | ir.TensorProtocol | None = _marked_proto(tensor, mark)
        else:
            view = TensorView.of(tensor, mark)
        if view is not None:
            self._tensors.append(tensor)
        return view

    def resolve(self, content: bytes) -> Serialized:
        """The serialized model `content` with the tensors for their marks."""
        found = [(place, Part(tensor, size_of(tensor))) for place, tensor in self._places(content)]
        cuts = cuts_at(content, 0, len(content), [(place, part.size) for place, part in found])
        pieces, size = spliced(content, 0, len(content), cuts)
        parts = iter([part for _, part in found])
        return Serialized(tuple(next(parts) if p is None else p for p in pieces), size)

    def _places(self, content: bytes) -> Iterator[tuple[int, ir.TensorProtocol]]:
        at = content.find(self._mark) if self._tensors else -1
        while at >= 0:
            end = at + _MARK_BYTES + _INDEX_BYTES
            yield at, self._tensors[int.from_bytes(content[at + _MARK_BYTES : end], "little")]
            at = content.find(self._mark, end)


def _marked_proto(
    tensor: ir.serde.TensorProtoTensor, mark: bytes
) -> ir.serde.TensorProtoTensor | None:
    """`tensor` with a mark for its raw data; None if it has none, or more than is known here."""
    if tensor.dtype.bitwidth == 6:  # onnx_ir looks at the data of these as it serializes them
        return None
    proto = onnx.TensorProto()
    if isinstance(tensor, FileTensor):
        proto.CopyFrom(tensor.header)
    else:
        raw: onnx.TensorProto = tensor.raw
        if not raw.HasField("raw_data") or len(UnknownFieldSet(raw)):
            return None
        if any(len(getattr(raw, name)) for name in _TYPED_DATA):
            return None
        if raw.HasField("segment") or raw.HasField("data_location"):
            return None
        for name in ("name", "data_type", "doc_string"):
            if raw.HasField(name):
                setattr(proto, name, getattr(raw, name))
        proto.dims.extend(raw.dims)
        proto.metadata_props.extend(raw.metadata_props)
    proto.raw_data = mark
    view = ir.serde.TensorProtoTensor(proto)
    view.metadata_props.clear()
    view.metadata_props.update(tensor.metadata_props)
    return view


_TYPED_DATA = (
    "float_data",
    "int32_data",
    "string_data",
    "int64_data",
    "double_data",
    "uint64_data",
    "external_data",
)


def size_of(tensor: ir.TensorProtocol) -> int:
    """The bytes of its data in an ONNX file."""
    if isinstance(tensor, ir.serde.TensorProtoTensor) and not isinstance(tensor, FileTensor):
        return len(tensor.tobytes())  # what the file said, right or wrong
    return tensor.nbytes


def write_tensor(tensor: ir.TensorProtocol, size: int, file: BinaryIO) -> None:
    """Appends the data of `tensor`, which is to be `size` bytes, to `file`.

    Raises:
        GraphoptError: if it is not.
        OSError: if it cannot be written.
    """
    if isinstance(tensor, (FileTensor, DataFileTensor)) or _is_unread(tensor):
        tensor.tofile(file)
    else:
        file.write(_content(tensor, size))


def _is_unread(tensor: ir.TensorProtocol) -> TypeGuard[ir.ExternalTensor]:
    """Whether it is external data that can be copied from its file.

    Not if it was read before: it shows that content, and the file may have been replaced since.
    """
    if not is_external(tensor) or tensor.raw is not None:
        return False
    return tensor.length in (None, 0, tensor.nbytes)  # onnx_ir copies what the file states


def _content(tensor: ir.TensorProtocol, size: int) -> memoryview:
    """The data of `tensor` as bytes, without a copy where it has just these in memory."""
    if isinstance(tensor, ir.serde.TensorProtoTensor) or tensor.dtype.bitwidth < 8:
        content = memoryview(tensor.tobytes())
    else:
        content = np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8).data
    if len(content) != size:
        raise GraphoptError(
            f"holds {len(content):,} bytes where its type and shape ask for {size:,}",
            where=f"tensor '{tensor.name}'",
        )
    return content
