"""Running a model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from graphopt.data.feeds import Feed
from graphopt.errors import GraphoptError
from graphopt.ir import default_opset, save
from graphopt.ir.leaving_out import LARGE_TENSOR_BYTES
from graphopt.ir.saving import EMBEDDED_LIMIT_BYTES
from graphopt.ir.serialized import serialize
from graphopt.ir.weights import DataFileTensor, FileTensor, WeightFile, may_be_shape

ort.set_default_logger_severity(4)  # its warnings on stderr are not for graphopt's users


_EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"


class Session:
    """A model in ONNX Runtime on the CPU."""

    def __init__(
        self,
        model: ir.Model,
        *,
        optimize: bool = False,
        threads: int = 0,
        by_index: bool = False,
    ) -> None:
        """Prepares `model` to run.

        Args:
            optimize: whether ONNX Runtime may rewrite the model. Off by default, so that what is
                measured is the model itself; some of its rewrites change the numbers.
            threads: for one operator; 0 for as many as there are cores.
            by_index: of the nodes whose inputs are there, the one that ONNX Runtime numbered first
                runs next. Otherwise it goes from the outputs back.

        Raises:
            GraphoptError: if ONNX Runtime cannot run the model.
        """
        options = ort.SessionOptions()
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = (
            level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
        )
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        if by_index:
            options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        if not optimize:  # waiting threads that spin take the processor from numpy's between runs
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            with _as_source(model, options) as source:
                self._session = ort.InferenceSession(
                    source, options, providers=["CPUExecutionProvider"]
                )
        except _ORT_ERRORS as error:
            raise GraphoptError(
                f"ONNX Runtime cannot run the model: {one_line(error)}",
                where=f"graph '{model.graph.name}', opset {default_opset(model)}",
            ) from None
        self.inputs: tuple[str, ...] = tuple(i.name for i in self._session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(o.name for o in self._session.get_outputs())

    def run(self, feed: Feed) -> dict[str, np.ndarray[Any, Any]]:
        """The outputs by name, in the model's order.

        Raises:
            GraphoptError: if an operator fails on these inputs.
        """
        try:
            return dict(zip(self.outputs, self._session.run(None, feed), strict=True))
        except _ORT_ERRORS as error:
            raise GraphoptError(f"the model fails on this input: {one_line(error)}") from None


_ORT_ERRORS = (
    ort.capi.onnxruntime_pybind11_state.Fail,
    ort.capi.onnxruntime_pybind11_state.InvalidArgument,
    ort.capi.onnxruntime_pybind11_state.InvalidGraph,
    ort.capi.onnxruntime_pybind11_state.InvalidProtobuf,
    ort.capi.onnxruntime_pybind11_state.NotImplemented,
    ort.capi.onnxruntime_pybind11_state.NoSuchFile,
    ort.capi.onnxruntime_pybind11_state.RuntimeException,
    ort.capi.onnxruntime_pybind11_state.EPFail,
    RuntimeError,
    ValueError,
)


def one_line(error: BaseException) -> str:
    """The part of an error of ONNX Runtime that a reader needs, in one line."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "..."


@contextmanager
def _as_source(model: ir.Model, options: ort.SessionOptions) -> Iterator[bytes | str]:
    """`model` as ONNX Runtime takes it: bytes, or a temporary file if it is too large for that.

    Weights that are in a file already are left there, for ONNX Runtime to read: otherwise they
    would be in memory three times until it has made its own copy.
    """
    files = _Files(model)
    content = serialize(model, files.reference)
    if content.size <= EMBEDDED_LIMIT_BYTES:
        if files.folder is not None:
            options.add_session_config_entry(_EXTERNAL_FOLDER, str(files.folder))
        yield b"".join(content.chunks())
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        save(model, path, external_data=True)
        yield str(path)


class _Files:
    """The weights of a model that ONNX Runtime can read from files, all of one folder."""

    def __init__(self, model: ir.Model) -> None:
        # Those of the main graph: in a body, not every version of ONNX Runtime looks for files.
        self._tensors = {id(value.const_value) for value in model.graph.initializers.values()}
        self._usable: dict[Path, bool] = {}
        self.folder: Path | None = None

    def reference(self, tensor: ir.TensorProtocol) -> ir.ExternalTensor | None:
        """A reference to the data of `tensor`; None if it is to be inside."""
        if not isinstance(tensor, (FileTensor, DataFileTensor)) or id(tensor) not in self._tensors:
            return None
        span = tensor.span
        if (
            span.length < LARGE_TENSOR_BYTES
            or may_be_shape(tensor)
            or not self._is_usable(span.file)
        ):
            return None
        return ir.ExternalTensor(
            span.file.path.name,
            span.offset,
            span.length,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=tensor.name or "",
        )

    def _is_usable(self, file: WeightFile) -> bool:
        if self.folder not in (None, file.path.parent):
            return False
        if file.path not in self._usable:
            self._usable[file.path] = file.is_in_place()
        if self._usable[file.path]:
            self.folder = file.path.parent
        return self._usable[file.path]
