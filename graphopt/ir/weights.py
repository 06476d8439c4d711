"""Weights that stay in their file until someone asks for them."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir

from graphopt.errors import GraphoptError

Bytes: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"

# Strings are in a field of their own, and nothing is known of the other.
WITHOUT_BYTES = (ir.DataType.STRING, ir.DataType.UNDEFINED)

# What may be a shape, axes or the sizes of the parts of a Split, which shape inference reads: in
# onnx and in ONNX Runtime, it does not read them from a file beside the model.
_SHAPE_TYPES = (ir.DataType.INT32, ir.DataType.INT64)
_LARGEST_SHAPE_BYTES = 1 << 16

# Arrays up to this are kept once they are made.
_SMALL_ARRAY_BYTES = 1 << 16

CHUNK_BYTES = 1 << 20
# The kernel copies at most 2 GiB less a page in one call.
_KERNEL_COPY_BYTES = 1 << 30


def may_be_shape(tensor: ir.TensorProtocol) -> bool:
    """Whether the elements of `tensor` may be sizes, so that it has to stay inside the model."""
    return tensor.dtype in _SHAPE_TYPES and tensor.nbytes <= _LARGEST_SHAPE_BYTES


class WeightFile:
    """A file that weights are read from, as it is now: should it change, reading is refused."""

    def __init__(self, path: Path, *, inside: Path | None = None) -> None:
        """Takes note of `path`.

        Args:
            inside: a folder that the file has to be in, wherever links lead.

        Raises:
            OSError: if there is no such file.
        """
        self.path = path.absolute()  # the current folder may become another
        self._inside = None if inside is None else inside.absolute()
        self._held: int | None = None
        status = path.stat()
        self.size = status.st_size
        self._identity = _identity(status)

    def hold(self) -> None:
        """Keeps it open from now on, so that it can be read when another file takes its name.

        Raises:
            GraphoptError: if it has changed.
            OSError: if it cannot be opened.
        """
        if self._held is None:
            self._held = self._open()
            weakref.finalize(self, os.close, self._held)

    def is_in_place(self) -> bool:
        """Whether its path still leads to it, unchanged.

        Raises:
            GraphoptError: if the path leads out of the folder that the file has to be in.
        """
        try:
            same = _identity(self.path.stat()) == self._identity
            if same and self._inside is not None:
                self._require_inside(self._inside)
        except OSError:
            return False
        return same

    @contextmanager
    def _opened(self) -> Iterator[int]:
        if self._held is not None:
            self._require_same(self._held)
            yield self._held
            return
        try:
            descriptor = self._open()
        except OSError as error:
            raise self._refused(f"cannot be read ({error.strerror})") from None
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        if self._inside is not None:
            self._require_inside(self._inside)
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._require_same(descriptor)
        except GraphoptError:
            os.close(descriptor)
            raise
        return descriptor

    def _require_inside(self, folder: Path) -> None:
        """Refuses what would let a model from elsewhere read any file of this machine."""
        if not self.path.resolve().is_relative_to(folder.resolve()):
            raise self._refused("is a link that leads out of the model's folder")
        if self.path.stat().st_nlink > 1:
            raise self._refused("has several names (hard links), maybe outside the model's folder")
        self._inside = None  # once is enough: from here on it has to stay the same file

    def _require_same(self, descriptor: int) -> None:
        if _identity(os.fstat(descriptor)) != self._identity:
            raise self._changed()

    def _changed(self) -> GraphoptError:
        return self._refused("has changed since it was loaded", fix="load it again")

    def _refused(self, what: str, fix: str = "copy the file there") -> GraphoptError:
        return GraphoptError(what, where=str(self.path), fix=fix)

    def is_same(self) -> bool:
        """Whether the held file is what it was; see `hold`."""
        return self._held is not None and _identity(os.fstat(self._held)) == self._identity

    def peek(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes of the held file, be it the same or not; see `hold`, `is_same`."""
        if self._held is None:
            raise ValueError(f"{self.path} is not held")
        return os.pread(self._held, length, offset)

    def read(self, offset: int, length: int) -> Bytes:
        """`length` bytes from `offset` on.

        Raises:
            GraphoptError: if the file is not what it was when it was opened.
        """
        content = np.empty(length, np.uint8)
        with self._opened() as descriptor:
            done = 0
            while done < length:
                count = os.preadv(descriptor, [content[done:].data], offset + done)
                if count == 0:
                    raise self._changed()
                done += count
        return content

    def ends(self, offset: int, length: int, head: int, tail: int) -> bytes:
        """Of `length` bytes from `offset` on the first `head` and the last `tail`.

        Raises:
            GraphoptError: if the file is not what it was when it was opened.
        """
        with self._opened() as descriptor:
            content = os.pread(descriptor, head, offset)
            content += os.pread(descriptor, tail, offset + length - tail)
        if len(content) != head + tail:
            raise self._changed()
        return content

    def copy(self, offset: int, length: int, target: BinaryIO) -> None:
        """Appends `length` bytes from `offset` on to `target`, inside the kernel where it can.

        Raises:
            GraphoptError: if the file is not what it was when it was opened.
            OSError: if they cannot be written.
        """
        with self._opened() as descriptor:
            done = _copied_by_kernel(descriptor, offset, length, target)
        while done < length:
            count = min(CHUNK_BYTES, length - done)
            target.write(self.read(offset + done, count).data)
            done += count


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _copied_by_kernel(descriptor: int, offset: int, length: int, target: BinaryIO) -> int:
    """How many bytes went that way; the place of `target` is behind them."""
    copy: Callable[..., int] | None = getattr(os, "copy_file_range", None)  # only on Linux
    if copy is None:
        return 0
    target.flush()
    start, done = target.tell(), 0
    try:
        while done < length:
            wanted = min(_KERNEL_COPY_BYTES, length - done)
            count = copy(descriptor, target.fileno(), wanted, offset + done, start + done)
            if count == 0:
                break
            done += count
    except OSError:
        pass  # file systems that cannot; a full disk is met again by whoever writes the rest
    target.seek(start + done)
    return done


@dataclass(frozen=True)
class Span:
    """A run of bytes in a file."""

    file: WeightFile
    offset: int
    length: int

    def read(self) -> Bytes:
        return self.file.read(self.offset, self.length)

    def array(self, dtype: ir.DataType, shape: ir.Shape) -> np.ndarray[Any, Any]:
        """They as an array, read-only as it is for all tensors of a loaded model."""
        content = self.read()
        if dtype.bitwidth < 8:
            return ir.PackedTensor(content, dtype, shape=shape.numpy()).numpy()
        array: np.ndarray[Any, Any] = content.view(dtype.numpy().newbyteorder("<"))
        array.flags.writeable = False
        return array.reshape(shape.numpy())

    def ends(self, head: int, tail: int) -> bytes:
        """The first `head` and the last `tail` of the bytes, which are at least that many."""
        return self.file.ends(self.offset, self.length, head, tail)

    def chunks(self) -> Iterator[Bytes]:
        for done in range(0, self.length, CHUNK_BYTES):
            yield self.file.read(self.offset + done, min(CHUNK_BYTES, self.length - done))

    def copy(self, target: BinaryIO) -> None:
        self.file.copy(self.offset, self.length, target)


class LoadedTensor(ir.serde.TensorProtoTensor):
    """A tensor of a proto that makes up what it is asked for once, not for each question."""

    __slots__ = ("_array", "_dtype", "_nbytes", "_shape", "_size")

    def __init__(self, proto: onnx.TensorProto) -> None:
        super().__init__(proto)
        self._dtype = ir.DataType(proto.data_type)
        self._shape = ir.Shape(proto.dims, frozen=True)
        self._size: int = math.prod(proto.dims)
        self._nbytes: int | None = None
        if self._dtype not in WITHOUT_BYTES:
            self._nbytes = math.ceil(self._dtype.itemsize * self._size)
        self._array: np.ndarray[Any, Any] | None = None

    # Read-only, as in the class that it derives from: the Protocol would have them writeable.
    @property
    def dtype(self) -> ir.DataType:  # type: ignore[override]
        return self._dtype

    @property
    def shape(self) -> ir.Shape:  # type: ignore[override]
        return self._shape

    @property
    def size(self) -> int:
        return self._size

    @property
    def nbytes(self) -> int:
        if self._nbytes is None:
            raise TypeError(f"a tensor of type {self._dtype} has no bytes")
        return self._nbytes

    def numpy(self) -> np.ndarray[Any, Any]:
        if self._array is not None:
            return self._array
        array: np.ndarray[Any, Any] = super().numpy()
        is_plain = self._nbytes is not None and self._dtype.bitwidth >= 8
        if is_plain and array.nbytes <= _SMALL_ARRAY_BYTES:
            array.flags.writeable = False
            self._array = array
        return array


class FileTensor(LoadedTensor):
    """A tensor inside an ONNX file, which reads as if it had been loaded.

    Like the tensor of a proto that it derives from, it is read anew for each question, so that
    memory holds only what is in use.
    """

    __slots__ = ("span",)

    def __init__(self, header: onnx.TensorProto, span: Span) -> None:
        """A tensor that is all of `header`, and has `span` for raw data."""
        super().__init__(header)
        self.span = span

    @property
    def header(self) -> onnx.TensorProto:
        """The tensor without its data."""
        return self._proto

    @property
    def raw(self) -> onnx.TensorProto:
        """The tensor with its data, as `onnx_ir.to_proto` asks for it."""
        whole = onnx.TensorProto()
        whole.CopyFrom(self._proto)
        whole.raw_data = self.tobytes()
        return whole

    def __array__(self, dtype: Any = None) -> np.ndarray[Any, Any]:
        return np.asarray(self.numpy(), dtype)

    def numpy(self) -> np.ndarray[Any, Any]:
        return self.span.array(self.dtype, self.shape)

    def tobytes(self) -> bytes:
        return self.span.read().tobytes()

    def tofile(self, file: BinaryIO) -> None:
        self.span.copy(file)

    def __repr__(self) -> str:
        return f"{self._repr_base()}(name={self.name!r})"

    def __reduce__(self) -> tuple[type[ir.serde.TensorProtoTensor], tuple[onnx.TensorProto]]:
        return ir.serde.TensorProtoTensor, (self.raw,)


class DataFileTensor(ir.ExternalTensor):
    """External data that is read anew for each question.

    `ir.ExternalTensor` maps the whole file once more for each tensor that was ever asked for, which
    a model of some thousand tensors does not survive.
    """

    def __init__(self, tensor: ir.ExternalTensor, file: WeightFile) -> None:
        """`tensor`, whose data is in `file`."""
        super().__init__(
            tensor.location,
            tensor.offset,
            tensor.length,
            tensor.dtype,
            shape=tensor.shape,
            name=tensor.name or "",
            doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props) or None,
            base_dir=tensor.base_dir,
        )
        self.span = Span(file, tensor.offset or 0, tensor.nbytes)

    def numpy(self) -> np.ndarray[Any, Any]:
        return self.span.array(self.dtype, self.shape)

    def __array__(self, dtype: Any = None) -> np.ndarray[Any, Any]:
        return np.asarray(self.numpy(), dtype)

    def tobytes(self) -> bytes:
        return self.span.read().tobytes()

    def tofile(self, file: BinaryIO) -> None:
        self.span.copy(file)


def ends_of(tensor: ir.TensorProtocol, head: int, tail: int) -> bytes:
    """The first `head` and the last `tail` bytes of `tensor`, which has at least that many.

    Of one in a file no more is read.
    """
    span: Span | None = getattr(tensor, "span", None)  # asking Protocols' classes is slow
    if span is not None:
        return span.ends(head, tail)
    content = tensor.tobytes()
    return content[:head] + content[-tail:]
