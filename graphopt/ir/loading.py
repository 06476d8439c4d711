"""Reading a model, from wherever it is, into `onnx_ir.Model`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from graphopt.errors import GraphoptError
from graphopt.ir.checking import check_proto, graphs_of
from graphopt.ir.external import external_tensors, read_anew, read_from
from graphopt.ir.graphsurgeon import from_graphsurgeon, is_graphsurgeon
from graphopt.ir.leaving_out import LARGE_TENSOR_BYTES, Skeleton, put_back, without_weights
from graphopt.ir.serialized import serialize
from graphopt.ir.weights import WeightFile
from graphopt.ir.wire import LARGEST_MESSAGE_BYTES

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

# Small enough to stay in the processor's cache between reading and hashing.
_HASH_BYTES = 1 << 18

ModelSource: TypeAlias = "str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model | gs.Graph"


def load(source: ModelSource) -> ir.Model:
    """Loads an ONNX model and checks it.

    External data is left on disk and read when a tensor is used.

    Args:
        source: a path, the bytes of a serialized model, an `onnx.ModelProto`, an
            `onnx_graphsurgeon.Graph`, or an `onnx_ir.Model` (which is returned as it is).

    Raises:
        GraphoptError: if there is no such file, or it is not a valid ONNX model.
    """
    if isinstance(source, ir.Model):
        return source
    if isinstance(source, (str, os.PathLike)):
        return _load_path(Path(source))
    if isinstance(source, bytes):
        return _from_proto(_parse(source, "<bytes>"), "<bytes>")
    if isinstance(source, onnx.ModelProto):
        return _from_proto(source, "<ModelProto>")
    if is_graphsurgeon(source):
        return from_graphsurgeon(source)
    raise GraphoptError(
        f"cannot load a model from {type(source).__name__}",
        fix="give a path, bytes, onnx.ModelProto, onnx_ir.Model or onnx_graphsurgeon.Graph",
    )


def sha256(source: ModelSource, model: ir.Model, files: Sequence[Path] | None = None) -> str:
    """The SHA-256 of a model: of its file, then of its external data files in order of name.

    Args:
        source: what `model` was loaded from. What is not a file is hashed as it is serialized.
        model: the loaded model, before any change.
        files: its `model_files`, if they are at hand.
    """
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    digest = hashlib.sha256()
    if not isinstance(source, (str, os.PathLike)):
        for chunk in serialize(model).chunks():
            digest.update(chunk)
        return digest.hexdigest()
    buffer = memoryview(bytearray(_HASH_BYTES))
    for file in files or model_files(Path(source), model):
        with file.open("rb", buffering=0) as stream:
            while count := stream.readinto(buffer):
                digest.update(buffer[:count])
    return digest.hexdigest()


def model_files(path: Path, model: ir.Model) -> list[Path]:
    """The file `path` that `model` was loaded from, and its external data files by name."""
    return [path, *sorted({Path(tensor.path) for tensor in external_tensors(model)})]


def _load_path(path: Path) -> ir.Model:
    try:
        skeleton = _skeleton(path) if path.is_file() else None
        content = path.read_bytes() if skeleton is None else skeleton.content
    except IsADirectoryError:
        raise GraphoptError("is a folder, not an ONNX file", where=str(path)) from None
    except FileNotFoundError:
        raise GraphoptError("no such file", where=str(path)) from None
    except OSError as error:
        raise GraphoptError(f"cannot be read ({error.strerror})", where=str(path)) from None
    proto = _parse(content, str(path))
    del content
    return _from_proto(proto, str(path), path.parent, skeleton)


def _skeleton(path: Path) -> Skeleton | None:
    """The model in `path` without its large weights; None if it is to be read as a whole."""
    file = WeightFile(path.resolve())  # ONNX Runtime refuses weights behind a link
    if file.size > LARGEST_MESSAGE_BYTES:  # no need to read it to find that out
        raise _no_model(str(path))
    return without_weights(file) if file.size > LARGE_TENSOR_BYTES else None


def _parse(content: bytes, where: str) -> onnx.ModelProto:
    if not content:
        raise GraphoptError("the file is empty", where=where)
    try:
        return onnx.load_model_from_string(content)
    except DecodeError:
        raise _no_model(where) from None


def _no_model(where: str) -> GraphoptError:
    return GraphoptError(
        "is not an ONNX model: truncated, or not a protobuf file",
        where=where,
        fix="export or copy it again",
    )


def _from_proto(
    proto: onnx.ModelProto,
    where: str,
    base_dir: Path | None = None,
    skeleton: Skeleton | None = None,
) -> ir.Model:
    _require_whole(proto, where)
    check_proto(proto, where=where, left_out=None if skeleton is None else skeleton.span_of)
    try:
        model = ir.from_proto(proto)
    except (ValueError, TypeError, KeyError, NotImplementedError, ir.serde.SerdeError) as error:
        cause = error.__cause__ or error
        raise GraphoptError(f"is not a valid ONNX model: {cause}", where=where) from None
    put_back(model.graph, skeleton)
    if base_dir is not None and read_from(model, base_dir):
        _require_external_data(model, where)
        read_anew(model)
    return model


def _require_whole(proto: onnx.ModelProto, where: str) -> None:
    """Refuses what parses but is no model, and what onnx_ir would drop without a word."""
    if not proto.HasField("graph") or not proto.ir_version:
        raise GraphoptError(
            "is not an ONNX model: it holds no graph; truncated, or another kind of file",
            where=where,
            fix="export or copy it again",
        )
    if not proto.opset_import and proto.ir_version >= 3:
        raise GraphoptError(
            "states no opset: truncated, or not a valid ONNX model",
            where=where,
            fix="export or copy it again",
        )
    if not proto.graph.output:
        raise GraphoptError("the graph has no outputs", where=where)
    for graph in graphs_of(proto.graph):
        if graph.sparse_initializer:
            raise GraphoptError(
                f"graph '{graph.name}' has sparse initializers, which graphopt does not read",
                where=where,
                fix="store them as dense tensors",
            )
    if proto.training_info:
        raise GraphoptError(
            "carries training information, which graphopt does not read",
            where=where,
            fix="export the model for inference",
        )


def _require_external_data(model: ir.Model, where: str) -> None:
    sizes: dict[Path, int | None] = {}
    for tensor in external_tensors(model):
        location = Path(tensor.location)
        if location.is_absolute() or ".." in location.parts:
            raise GraphoptError(
                f"the external data of tensor '{tensor.name}' is outside the model's folder: "
                f"{location}",
                where=where,
                fix="keep the data beside the model",
            )
        path = Path(tensor.path)
        if path not in sizes:
            sizes[path] = path.stat().st_size if path.is_file() else None
        size = sizes[path]
        if size is None:
            raise GraphoptError(
                f"the external data of tensor '{tensor.name}' is missing: {path}",
                where=where,
                fix="copy that file beside the model",
            )
        end = (tensor.offset or 0) + (tensor.length or tensor.nbytes)
        if end > size:
            raise GraphoptError(
                f"the external data of tensor '{tensor.name}' is cut short: {path} has "
                f"{size} bytes, {end} are needed",
                where=where,
                fix="copy that file again",
            )
