"""Running a model in the engines that conformance.py trusts, and comparing what they give."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx.reference import ReferenceEvaluator

from graphopt.errors import GraphoptError
from graphopt.ir.checking import graphs_of
from graphopt.runtime.difference import RELATIVE_TOLERANCE, compare
from graphopt.runtime.session import one_line

Feed = dict[str, Any]
Outputs = list[Any]

HALF_ROUNDING = 2e-3
"""Of the peak: two units in the last place of float16. ONNX Runtime's CPU computes float16 in
float32 and keeps that from node to node, so that with the nodes the roundings move."""


class NotRunnableError(Exception):
    """An engine cannot run a model."""


def run_ort(proto: onnx.ModelProto, feeds: Sequence[Feed]) -> list[Outputs]:
    """The outputs for each feed in ONNX Runtime, without its optimizations, on one thread."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    pybind = ort.capi.onnxruntime_pybind11_state
    try:
        session = ort.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return [list(session.run(None, feed)) for feed in feeds]
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
        raise NotRunnableError(f"ONNX Runtime: {one_line(error)}") from error


def run_reference(proto: onnx.ModelProto, feeds: Sequence[Feed]) -> list[Outputs]:
    """The outputs for each feed in onnx's reference evaluator."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            evaluator = ReferenceEvaluator(proto)
            return [list(evaluator.run(None, feed)) for feed in feeds]
        except Exception as error:  # it raises whatever numpy happens to raise
            raise NotRunnableError(
                f"reference: {type(error).__name__}: {one_line(error)}"
            ) from error


Engine = Callable[[onnx.ModelProto, Sequence[Feed]], list[Outputs]]

ENGINES: tuple[Engine, ...] = (run_ort, run_reference)


def first_engine(proto: onnx.ModelProto, feeds: Sequence[Feed]) -> tuple[Engine, list[Outputs]]:
    """The first engine that runs `proto` on all of `feeds`, and what it gives.

    Raises:
        NotRunnableError: if none does, with the reasons of all.
    """
    reasons = []
    for engine in ENGINES:
        try:
            return engine, engine(proto, feeds)
        except NotRunnableError as error:
            reasons.append(str(error))
    raise NotRunnableError("; ".join(reasons))


_RANDOM = {
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}


def random_nodes(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes that draw other numbers in each run, in the graphs and functions of `proto`.

    Those are the random operators that have no seed; Dropout is one unless its `training_mode` is
    absent or a false initializer.
    """
    inputs = {value.name for value in proto.graph.input}
    inference = {""} | {
        t.name
        for t in proto.graph.initializer
        if t.data_type == onnx.TensorProto.BOOL
        and t.name not in inputs
        and not onnx.numpy_helper.to_array(t).any()
    }
    return [node for node in all_nodes(proto) if _draws(node, inference)]


def _draws(node: onnx.NodeProto, inference: set[str]) -> bool:
    if node.domain not in ("", "ai.onnx") or any(a.name == "seed" for a in node.attribute):
        return False
    if node.op_type == "Dropout":
        return len(node.input) > 2 and node.input[2] not in inference
    return node.op_type in _RANDOM


def all_nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """All nodes of the graph, its functions and their subgraphs."""
    for graph in graphs_of(proto.graph):
        yield from graph.node
    for function in proto.functions:
        for node in function.node:
            yield node
            for attribute in node.attribute:
                for body in (*attribute.graphs, *([attribute.g] * attribute.HasField("g"))):
                    for graph in graphs_of(body):
                        yield from graph.node


def same_bits(expected: Any, actual: Any) -> bool:
    """Whether two outputs are the same in type, shape and every bit."""
    if isinstance(expected, (list, tuple)):
        return (
            isinstance(actual, (list, tuple))
            and len(expected) == len(actual)
            and all(same_bits(e, a) for e, a in zip(expected, actual, strict=True))
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
    return bool(expected.tobytes() == actual.tobytes())


def same_kind(expected: Any, actual: Any) -> bool:
    """Whether two outputs have the same type and shape; for random ones."""
    if isinstance(expected, (list, tuple, dict)) or expected is None:
        return type(expected) is type(actual)
    expected, actual = np.asarray(expected), np.asarray(actual)
    return bool(expected.dtype == actual.dtype and expected.shape == actual.shape)


def difference(
    names: Sequence[str],
    expected: Sequence[Outputs],
    actual: Sequence[Outputs],
    limit: float | None,
) -> str | None:
    """How outputs (for each feed a list, named `names`) differ by more than allowed; None if not.

    Args:
        limit: relative to an output's peak; None for the limits by dtype of
            graphopt.runtime.difference; 0.0 for bit by bit.
    """
    if all(same_bits(e, a) for e, a in zip(expected, actual, strict=True)):
        return None
    if limit == 0.0:
        bad = [
            name
            for e, a in zip(expected, actual, strict=True)
            for name, one, other in zip(names, e, a, strict=True)
            if not same_bits(one, other)
        ]
        detail = _largest(names, expected, actual, 0.0) or "only in the bits of zeros or NaN"
        return f"not to the bit: {', '.join(dict.fromkeys(bad))}: {detail}"
    return _largest(names, expected, actual, limit)


def _largest(
    names: Sequence[str],
    expected: Sequence[Outputs],
    actual: Sequence[Outputs],
    limit: float | None,
) -> str | None:
    reference = [dict(zip(names, outputs, strict=True)) for outputs in expected]
    result = [dict(zip(names, outputs, strict=True)) for outputs in actual]
    try:
        found = compare(reference, result)
    except GraphoptError as error:
        return str(error)
    for entry in found:
        if not entry.within(limit):
            allowed = RELATIVE_TOLERANCE.get(entry.dtype, 0.0) if limit is None else limit
            return (
                f"output '{entry.output}' ({entry.dtype}) is off by {entry.max_abs:.3g}, "
                f"{entry.max_rel:.3g} of its peak (limit {allowed:.3g})"
            )
    return None


def has_half(proto: onnx.ModelProto) -> bool:
    """Whether there may be a float16 value in `proto`."""
    half = onnx.TensorProto.FLOAT16
    inferred = onnx.shape_inference.infer_shapes(proto)
    values = (*inferred.graph.input, *inferred.graph.output, *inferred.graph.value_info)
    return any(v.type.tensor_type.elem_type == half for v in values) or any(
        t.data_type == half for t in proto.graph.initializer
    )
