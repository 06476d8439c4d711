"""The node models that ship in onnx, and engines to run them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.case.test_case import TestCase
from onnx.reference import ReferenceEvaluator

# What `collect_testcases` of ONNX_VERSION gives. Another version has other models.
COUNT = 1884
ONNX_VERSION = "1.23"

Outputs = list[Any]


@lru_cache(maxsize=1)
def cases() -> tuple[TestCase, ...]:
    """All node cases in order of name. Takes about ten seconds, once per process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # some cases overflow on purpose
        found = collect_testcases(None)
    return tuple(sorted(found, key=lambda case: case.name))


def inputs_of(case: TestCase) -> list[Any]:
    """The inputs of the only data set of `case`, as arrays (ml_dtypes where numpy has no type)."""
    ((inputs, _),) = case.data_sets
    return [
        onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value
        for value in inputs
    ]


class NotRunnableError(Exception):
    """An engine cannot run a model."""


def run_ort(proto: onnx.ModelProto, inputs: Sequence[Any]) -> Outputs:
    """The outputs in ONNX Runtime, without its optimizations, on one thread."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    pybind = ort.capi.onnxruntime_pybind11_state
    names = [
        value.name for value in proto.graph.input
    ]  # the session leaves out those with defaults
    try:
        session = ort.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return list(session.run(None, dict(zip(names, inputs, strict=True))))
    except (
        pybind.EPFail,
        pybind.Fail,
        pybind.InvalidArgument,
        pybind.InvalidGraph,
        pybind.InvalidProtobuf,
        pybind.NotImplemented,
        pybind.RuntimeException,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise NotRunnableError(f"ONNX Runtime: {error}") from error


def run_reference(proto: onnx.ModelProto, inputs: Sequence[Any]) -> Outputs:
    """The outputs in onnx's reference evaluator."""
    names = [value.name for value in proto.graph.input]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            evaluator = ReferenceEvaluator(proto)
            return list(evaluator.run(None, dict(zip(names, inputs, strict=True))))
        except Exception as error:  # it raises whatever numpy happens to raise
            raise NotRunnableError(f"reference: {type(error).__name__}: {error}") from error


ENGINES: tuple[Callable[[onnx.ModelProto, Sequence[Any]], Outputs], ...] = (run_ort, run_reference)


def same(expected: Any, actual: Any, rtol: float | None = None, atol: float = 0.0) -> bool:
    """Whether two outputs are the same: to the bit, or, given `rtol`, within it and `atol`."""
    if isinstance(expected, (list, tuple)):
        return (
            isinstance(actual, (list, tuple))
            and len(expected) == len(actual)
            and all(same(e, a, rtol, atol) for e, a in zip(expected, actual, strict=True))
        )
    if expected is None or actual is None:
        return expected is None and actual is None
    if isinstance(expected, dict) or isinstance(actual, dict):
        return bool(expected == actual)
    expected, actual = np.asarray(expected), np.asarray(actual)
    if expected.dtype != actual.dtype or expected.shape != actual.shape:
        return False
    if expected.dtype.kind in "OSU":
        return bool((expected == actual).all())
    if expected.tobytes() == actual.tobytes():
        return True
    if rtol is None:
        return False
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    return np.allclose(actual.astype(wide), expected.astype(wide), rtol, atol, equal_nan=True)


def with_constants(case: TestCase, inputs: Sequence[Any], first: int = 0) -> onnx.ModelProto | None:
    """The model of `case` with the inputs from `first` on as initializers.

    That needs IR version 4. None if one of those inputs is not a tensor, or there are none.
    """
    if len(inputs) <= first:
        return None
    proto = onnx.ModelProto()
    proto.CopyFrom(case.model)
    tensors = _tensors(list(proto.graph.input)[first:], inputs[first:])
    if tensors is None:
        return None
    del proto.graph.input[first:]
    proto.graph.initializer.extend(tensors)
    proto.ir_version = max(proto.ir_version, 4)
    return proto


def with_defaults(case: TestCase, inputs: Sequence[Any]) -> onnx.ModelProto | None:
    """The model of `case` with inputs that have zeros as default values, which a caller overrides.

    None if an input is not a tensor of numbers, or there are none.
    """
    if not inputs or not all(_is_numeric(array) for array in inputs):
        return None
    proto = onnx.ModelProto()
    proto.CopyFrom(case.model)
    tensors = _tensors(proto.graph.input, [np.zeros_like(array) for array in inputs])
    if tensors is None:
        return None
    proto.graph.initializer.extend(tensors)
    proto.ir_version = max(proto.ir_version, 4)
    return proto


def _is_numeric(array: Any) -> bool:
    return isinstance(array, np.ndarray | np.generic) and array.dtype.kind not in "OSU"


def _tensors(
    values: Sequence[onnx.ValueInfoProto], arrays: Sequence[Any]
) -> list[onnx.TensorProto] | None:
    tensors = []
    for value, array in zip(values, arrays, strict=True):
        if not value.type.HasField("tensor_type") or not isinstance(array, np.ndarray | np.generic):
            return None
        tensor = onnx.numpy_helper.from_array(np.asarray(array), value.name)
        if tensor.data_type != value.type.tensor_type.elem_type:
            raise ValueError(f"{value.name}: {tensor.data_type} is not the declared type")
        tensors.append(tensor)
    return tensors
