"""Weights that stay in their file until someone asks for them."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
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

CHUNK_BYTES = 1 << 20
# The kernel copies at most 2 GiB less a page in one call.
_KERNEL_COPY_BYTES = 1 << 30


class WeightFile:
    """A file held open for reading, which it stays when another takes its name."""

    def __init__(self, path: Path) -> None:
        """Opens `path`.

        Raises:
            OSError: if it cannot be opened.
        """
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)
        status = os.fstat(self._descriptor)
        self.size = status.st_size
        self._changed = status.st_mtime_ns

    def read(self, offset: int, length: int) -> Bytes:
        """`length` bytes from `offset` on.

        Raises:
            GraphoptError: if the file is not what it was when it was opened.
        """
        content = np.empty(length, np.uint8)
        self._require_unchanged()
        done = 0
        while done < length:
            count = os.preadv(self._descriptor, [content[done:].data], offset + done)
            if count == 0:
                raise self._has_changed()
            done += count
        return content

    def copy(self, offset: int, length: int, target: BinaryIO) -> None:
        """Appends `length` bytes from `offset` on to `target`, inside the kernel where it can.

        Raises:
            GraphoptError: if the file is not what it was when it was opened.
            OSError: if they cannot be written.
        """
        self._require_unchanged()
        done = self._copied_by_kernel(offset, length, target)
        while done < length:
            count = min(CHUNK_BYTES, length - done)
            target.write(self.read(offset + done, count).data)
            done += count

    def _copied_by_kernel(self, offset: int, length: int, target: BinaryIO) -> int:
        """How many bytes went that way; the place of `target` is behind them."""
        copy: Callable[..., int] | None = getattr(os, "copy_file_range", None)  # only on Linux
        if copy is None:
            return 0
        target.flush()
        start, done = target.tell(), 0
        try:
            while done < length:
                wanted = min(_KERNEL_COPY_BYTES, length - done)
                count = copy(self._descriptor, target.fileno(), wanted, offset + done, start + done)
                if count == 0:
                    break
                done += count
        except OSError:
            pass  # file systems that cannot; a full disk is met again by whoever writes the rest
        target.seek(start + done)
        return done

    def _require_unchanged(self) -> None:
        status = os.fstat(self._descriptor)
        if (status.st_size, status.st_mtime_ns) != (self.size, self._changed):
            raise self._has_changed()

    def _has_changed(self) -> GraphoptError:
        return GraphoptError(
            "was written to after it was loaded", where=str(self.path), fix="load it again"
        )


@dataclass(frozen=True)
class Span:
    """A run of bytes in a file."""

    file: WeightFile
    offset: int
    length: int

    def read(self) -> Bytes:
        return self.file.read(self.offset, self.length)

    def chunks(self) -> Iterator[Bytes]:
        for done in range(0, self.length, CHUNK_BYTES):
            yield self.file.read(self.offset + done, min(CHUNK_BYTES, self.length - done))

    def copy(self, target: BinaryIO) -> None:
        self.file.copy(self.offset, self.length, target)


class FileTensor(ir.serde.TensorProtoTensor):
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

    def numpy(self) -> np.ndarray[Any, Any]:
        content = self.span.read()
        if self.dtype.bitwidth < 8:
            return ir.PackedTensor(content, self.dtype, shape=self.shape.numpy()).numpy()
        array: np.ndarray[Any, Any] = content.view(self.dtype.numpy().newbyteorder("<")).reshape(
            self.shape.numpy()
        )
        array.flags.writeable = False  # as it is for all tensors of a loaded model
        return array

    def tobytes(self) -> bytes:
        return self.span.read().tobytes()

    def tofile(self, file: BinaryIO) -> None:
        self.span.copy(file)

    def __repr__(self) -> str:
        return f"{self._repr_base()}(name={self.name!r})"

    def __reduce__(self) -> tuple[type[ir.serde.TensorProtoTensor], tuple[onnx.TensorProto]]:
        return ir.serde.TensorProtoTensor, (self.raw,)
