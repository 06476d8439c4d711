"""Whether what `Facts` says of a model's values is so when it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from graphopt.ir.facts import Dim, Expr, Fact, Facts

# What ONNX Runtime gives as uint8.
_GIVEN_AS_BITS = (
    *(ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E4M3FNUZ, ir.DataType.FLOAT8E5M2),
    *(ir.DataType.FLOAT8E5M2FNUZ, ir.DataType.FLOAT8E8M0),
)

Feed = Mapping[str, Any]


class NotRunError(Exception):
    """ONNX Runtime does not run a model."""


_errors = ort.capi.onnxruntime_pybind11_state
_ERRORS = (
    *(_errors.EPFail, _errors.Fail, _errors.InvalidArgument, _errors.InvalidGraph),
    *(_errors.InvalidProtobuf, _errors.NotImplemented, _errors.RuntimeException),
    *(RuntimeError, TypeError, ValueError),
)


def all_outputs(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `proto` that gives every value of the main graph."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    known = {value.name for value in (*copy.graph.output, *copy.graph.input)}
    for node in copy.graph.node:
        for name in node.output:
            if name and name not in known:
                copy.graph.output.add().name = name
                known.add(name)
    return copy


def run(proto: onnx.ModelProto, feed: Feed) -> dict[str, Any]:
    """Every value of the main graph that a node makes, in ONNX Runtime without optimizations.

    Raises:
        NotRunError: for whatever ONNX Runtime has against it.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    content = all_outputs(proto).SerializeToString()
    try:
        session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(feed)), strict=True))
    except _ERRORS as error:
        raise NotRunError(str(error)) from error


def facts_of(proto: onnx.ModelProto) -> dict[str, Fact]:
    """What is known of every value of the main graph."""
    model = ir.from_proto(proto)
    facts = Facts(model)
    values = [*model.graph.inputs, *(v for node in model.graph for v in node.outputs)]
    return {value.name: facts[value] for value in values if value.name}


def contradictions(
    proto: onnx.ModelProto,
    feed: Feed,
    engine: Callable[[onnx.ModelProto, Feed], Mapping[str, Any]] = run,
) -> list[str]:
    """What the facts of `proto` say that is not so when it runs on `feed`.

    Symbols stand for one number each in all of the model: those of inputs, and any other one by
    its first appearance.
    """
    actual = {**feed, **engine(proto, feed)}
    facts = {name: fact for name, fact in facts_of(proto).items() if name in actual}
    problems = [p for name, fact in facts.items() for p in _wrong_type(name, fact, actual[name])]
    if problems:
        return problems
    pairs = [pair for name, fact in facts.items() for pair in _pairs(name, fact, actual[name])]
    numbers = _solve([(dim, number) for _, dim, number in pairs])
    return [
        f"{where} is {number}, not {dim}"
        for where, dim, number in pairs
        if (dim.number(numbers) if isinstance(dim, Expr) else dim) not in (number, None)
    ]


def _wrong_type(name: str, fact: Fact, actual: Any) -> Iterator[str]:
    if not isinstance(actual, np.ndarray | np.generic):
        if fact.dims is not None or fact.items is not None:
            yield f"'{name}' is no tensor"
        return
    if actual.dtype.kind not in "OSU" and fact.dtype is not None:
        dtype = ir.DataType.from_numpy(actual.dtype)
        bits = dtype == ir.DataType.UINT8 and fact.dtype in _GIVEN_AS_BITS
        if dtype != fact.dtype and not bits:
            yield f"'{name}' is {dtype}, not {fact.dtype}"
    if fact.dims is not None and len(fact.dims) != actual.ndim:
        yield f"'{name}' has {actual.ndim} axes, not {len(fact.dims)}"
    if fact.items is not None and len(fact.items) != actual.size:
        yield f"'{name}' has {actual.size} elements, not {len(fact.items)}"


def _pairs(name: str, fact: Fact, actual: Any) -> Iterator[tuple[str, Dim, int]]:
    """Each dimension and element that is known, and what it is."""
    if not isinstance(actual, np.ndarray | np.generic):
        return
    for axis, dim in enumerate(fact.dims or ()):
        yield f"dimension {axis} of '{name}'", dim, actual.shape[axis]
    for index, item in enumerate(fact.items or ()):
        if item is not None:
            yield f"element {index} of '{name}'", item, int(actual.reshape(-1)[index])


def _solve(pairs: Sequence[tuple[Dim, int]]) -> dict[str, int]:
    """The numbers of symbols: of those alone first, then of the one that is left in a sum."""
    numbers: dict[str, int] = {}
    exprs = [(dim, number) for dim, number in pairs if isinstance(dim, Expr)]
    exprs.sort(key=lambda pair: sum(len(monomial) for monomial, _ in pair[0].terms))
    found = -1
    while found < len(numbers):
        found = len(numbers)
        for expr, number in exprs:
            open_terms = [(m, c) for m, c in expr.terms if not all(name in numbers for name in m)]
            if len(open_terms) == 1 and len(open_terms[0][0]) == 1:
                rest = Expr(tuple(term for term in expr.terms if term not in open_terms))
                left, coefficient = number - (rest.number(numbers) or 0), open_terms[0][1]
                if left % coefficient == 0:
                    numbers[open_terms[0][0][0]] = left // coefficient
    return numbers
