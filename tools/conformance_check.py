"""One model through a pipeline: what conformance.py, and the tests of small graphs, hold it to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_ir as ir
from conformance_engines import (
    HALF_ROUNDING,
    Engine,
    Feed,
    NotRunnableError,
    Outputs,
    difference,
    first_engine,
    has_half,
    random_nodes,
    run_reference,
    same_kind,
)

from graphopt.errors import GraphoptError
from graphopt.ir import load
from graphopt.ir.external import embedded
from graphopt.pipeline.base import Pass, PassContext, PassResult, Stage
from graphopt.pipeline.runner import RunResult, run
from graphopt.pipeline.text import Pipeline
from graphopt.runtime.session import one_line

STATUSES = ("ok", "wrong", "invalid", "crash", "io-changed", "grown", "unstable", "not-checked")
BAD = frozenset(STATUSES) - {"ok", "not-checked"}
SET_OPSET = "set-opset"
GROWTH_FACTOR, GROWTH_BYTES = 1.05, 1_000_000


@dataclass(frozen=True)
class Outcome:
    """What came out: one of STATUSES, and one line on why unless it is `ok`."""

    status: str
    detail: str = ""
    modified: bool = False
    """Whether the pipeline changed the model at all."""
    result: bytes | None = None
    """The serialized result, unless there was none."""

    @property
    def bad(self) -> bool:
        return self.status in BAD


class PipelineError(Exception):
    """The pipeline failed on a model."""


class UntruthfulError(Exception):
    """A pass did not say truthfully whether it changed the model."""


def optimized(pipeline: Pipeline, proto: onnx.ModelProto) -> tuple[onnx.ModelProto, RunResult]:
    """`proto` through `pipeline`, as `save` would write it.

    Raises:
        PipelineError: if that fails; UntruthfulError, see there.
    """
    try:
        result = run(pipeline, load(proto.SerializeToString()), PassContext(), [Truthful()])
        return ir.to_proto(embedded(result.model)), result
    except UntruthfulError:
        raise
    except Exception as error:  # whatever a pass may raise is that pass's failure
        raise PipelineError(f"{type(error).__name__}: {one_line(error)}") from error


class Truthful:
    """The instrument that raises UntruthfulError."""

    def __init__(self) -> None:
        self._before = b""

    def start(self, model: ir.Model) -> None: ...

    def before(self, step: Pass, model: ir.Model) -> None:
        self._before = _serialized(model)

    def after(self, step: Pass, result: PassResult) -> None:
        changed = _serialized(result.model) != self._before
        if changed != result.modified or bool(result.rewrites) != result.modified:
            raise UntruthfulError(
                f"pass '{step.name}' says modified={result.modified} with rewrites "
                f"{dict(result.rewrites)}, but the model {'changed' if changed else 'did not'}"
            )

    def end(self, model: ir.Model) -> None: ...


def _serialized(model: ir.Model) -> bytes:
    return bytes(ir.to_proto(model).SerializeToString(deterministic=True))


class Original:
    """A model before any pipeline: which engine runs it, and what that gives."""

    def __init__(self, proto: onnx.ModelProto, feeds: Sequence[Feed]) -> None:
        self.proto = proto
        self.feeds = feeds
        self.drawn = random_nodes(proto)
        self.engine: Engine | None = None
        """None if no engine runs it; `unchecked` says why."""
        self.outputs: list[Outputs] = []
        self.unchecked = ""
        """Why its numbers cannot be compared, if so."""
        try:
            self.engine, self.outputs = first_engine(proto, feeds)
        except NotRunnableError as error:
            self.unchecked = f"no engine runs the original: {error}"
        if self.drawn and self.engine:
            self.unchecked = f"random: {', '.join(sorted({node.op_type for node in self.drawn}))}"


def verify(
    original: Original,
    pipeline: Pipeline,
    *,
    twice: bool = True,
    stage: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Runs what `pipeline` makes of `original` on the same inputs in the same engine.

    Args:
        twice: whether a second run of the pipeline must change nothing, byte for byte.
        stage: is told, before each step that may end the process, which it is.
    """
    proto = original.proto
    stage("optimize")
    try:
        result, record = optimized(pipeline, proto)
    except PipelineError as error:
        if _sets_opset(pipeline) and isinstance(error.__cause__, GraphoptError):
            return Outcome("not-checked", f"refused: {error.__cause__}")
        return Outcome("crash", str(error))
    except UntruthfulError as error:
        return Outcome("unstable", str(error))
    content = result.SerializeToString(deterministic=True)
    stage("result")
    for status, detail in _checks(original, result, record, pipeline):
        if detail:
            return Outcome(status, detail, record.modified, content)
    if twice:
        stage("second run")
        detail = _second_run(pipeline, result, content)
        if detail:
            return Outcome("unstable", detail, record.modified, content)
    status = "not-checked" if original.unchecked else "ok"
    return Outcome(status, original.unchecked, record.modified, content)


def _checks(
    original: Original, result: onnx.ModelProto, record: RunResult, pipeline: Pipeline
) -> Iterator[tuple[str, str | None]]:
    """What each check has to complain about, if anything, and the status that this means."""
    yield "io-changed", io_change(original.proto, result, pipeline)
    yield "grown", _growth(original.proto, result)
    yield "invalid", _invalid(original.proto, result)
    yield _run_check(original, result, record)
    yield "wrong", _draws_changed(original.drawn, result)


def _growth(proto: onnx.ModelProto, result: onnx.ModelProto) -> str | None:
    """Folding and copies of weights may not blow a model up."""
    before, after = proto.ByteSize(), result.ByteSize()
    if after <= GROWTH_FACTOR * before + GROWTH_BYTES:
        return None
    return f"{before:,} bytes became {after:,}"


def _invalid(proto: onnx.ModelProto, result: onnx.ModelProto) -> str | None:
    reason = _refused(result)
    return None if reason is None or _refused(proto) is not None else f"onnx.checker: {reason}"


def _refused(proto: onnx.ModelProto) -> str | None:
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
        ValueError,
        RuntimeError,
    ) as error:
        return one_line(error)
    return None


def _run_check(
    original: Original, result: onnx.ModelProto, record: RunResult
) -> tuple[str, str | None]:
    if original.engine is None:
        return "invalid", None
    expected = original.outputs
    try:
        actual = original.engine(result, original.feeds)
    except NotRunnableError as error:
        return "invalid", str(error)
    if original.drawn:
        kinds = all(
            same_kind(one, other)
            for e, a in zip(expected, actual, strict=True)
            for one, other in zip(e, a, strict=True)
        )
        return "wrong", None if kinds else "the type or shape of a random output changed"
    names = [value.name for value in original.proto.graph.output]
    found = difference(names, expected, actual, 0.0)
    if found is not None and record.modified:
        limit = _limit(original.engine, original.proto, record)
        found = found if limit == 0.0 else difference(names, expected, actual, limit)
    return "wrong", found


def _limit(engine: Engine, proto: onnx.ModelProto, record: RunResult) -> float | None:
    """What outputs may differ by; see `difference`.

    Bit by bit, but for three reasons. A fusion reassociates, and so may the kernel of an operator
    for another opset. What ONNX Runtime folded, the
    reference evaluator would have computed in its own way. And see HALF_ROUNDING.
    """
    half = has_half(proto)
    if any(s.modified and _reorders(s.step) for s in record.steps):
        return 1e-2 if half else None
    if half:
        return HALF_ROUNDING
    return None if engine is run_reference else 0.0


def _reorders(step: Pass) -> bool:
    return step.stage >= Stage.FUSE or step.name == SET_OPSET


def _draws_changed(drawn: Sequence[onnx.NodeProto], result: onnx.ModelProto) -> str | None:
    """Random draws must neither go nor be merged. Functions that were inlined may multiply them."""
    before = Counter(node.op_type for node in drawn)
    after = Counter(node.op_type for node in random_nodes(result))
    lost = dict(before - after)
    return f"random nodes were lost: {lost}" if lost else None


def _second_run(pipeline: Pipeline, result: onnx.ModelProto, content: bytes) -> str | None:
    try:
        again, _ = optimized(pipeline, result)
    except (PipelineError, UntruthfulError) as error:
        return f"the second run fails: {error}"
    changed = again.SerializeToString(deterministic=True) != content
    return "a second run changes the result" if changed else None


def io_change(
    proto: onnx.ModelProto, result: onnx.ModelProto, pipeline: Pipeline | None = None
) -> str | None:
    """What a caller could notice of the change from `proto` to `result` besides numbers.

    Inputs must be the same in every field. Outputs may get a more precise shape. Metadata, doc
    strings, producer, versions and opset imports stay (those of a function that was inlined may
    come in; `set-opset` in `pipeline` may change them, and raise the IR version), and so do the
    signatures of functions.
    """
    if result.ir_version != proto.ir_version and (
        not _sets_opset(pipeline) or result.ir_version < proto.ir_version
    ):
        return f"ir_version: {proto.ir_version} became {result.ir_version}"
    for field in ("producer_name", "producer_version", "domain", "model_version"):
        if getattr(proto, field) != getattr(result, field):
            return f"{field}: {getattr(proto, field)!r} became {getattr(result, field)!r}"
    for where, one, other in (("model", proto, result), ("graph", proto.graph, result.graph)):
        if one.doc_string != other.doc_string:
            return f"the doc string of the {where} changed"
        if _props(one) != _props(other):
            return f"metadata of the {where}: {_props(one)} became {_props(other)}"
    if proto.graph.name != result.graph.name:
        return f"the graph's name became '{result.graph.name}'"
    return (
        _inputs_change(proto.graph, result.graph)
        or _outputs_change(proto.graph, result.graph)
        or _opset_change(proto, result, pipeline)
        or _function_change(proto, result)
    )


def _props(of: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in of.metadata_props}


def _inputs_change(graph: onnx.GraphProto, result: onnx.GraphProto) -> str | None:
    before, after = [v.name for v in graph.input], [v.name for v in result.input]
    if before != after:
        return f"inputs {before} became {after}"
    for one, other in zip(graph.input, result.input, strict=True):
        if one != other:
            return f"input '{one.name}' changed from {_short(one)} to {_short(other)}"
    defaults = {t.name for t in graph.initializer} & set(before)
    left = {t.name for t in result.initializer} & set(before)
    return None if defaults == left else f"defaults of inputs {defaults} became {left}"


def _outputs_change(graph: onnx.GraphProto, result: onnx.GraphProto) -> str | None:
    before, after = [v.name for v in graph.output], [v.name for v in result.output]
    if before != after:
        return f"outputs {before} became {after}"
    for one, other in zip(graph.output, result.output, strict=True):
        if not _refines(one, other):
            return f"output '{one.name}' changed from {_short(one)} to {_short(other)}"
    return None


def _refines(one: onnx.ValueInfoProto, other: onnx.ValueInfoProto) -> bool:
    """Whether `other` is `one`, at most with a more precise shape."""
    if one == other:
        return True
    if not one.type.HasField("tensor_type") or not other.type.HasField("tensor_type"):
        return False
    known, found = one.type.tensor_type, other.type.tensor_type
    if known.HasField("shape"):
        if not found.HasField("shape") or len(known.shape.dim) != len(found.shape.dim):
            return False
        for was, now in zip(known.shape.dim, found.shape.dim, strict=True):
            if was.HasField("dim_value") and was.dim_value != now.dim_value:
                return False
            if was.dim_param and not (now.HasField("dim_value") or now.dim_param == was.dim_param):
                return False
    rest, bare = onnx.ValueInfoProto(), onnx.ValueInfoProto()
    rest.CopyFrom(one)
    bare.CopyFrom(other)
    for value in (rest, bare):
        value.type.tensor_type.ClearField("shape")
    return rest == bare


def _short(value: onnx.ValueInfoProto) -> str:
    text = onnx.helper.printable_value_info(value)
    return f"{text} ({value.doc_string})" if value.doc_string else text


def _sets_opset(pipeline: Pipeline | None) -> bool:
    return pipeline is not None and any(step.name == SET_OPSET for step in pipeline.passes())


def _opset_change(
    proto: onnx.ModelProto, result: onnx.ModelProto, pipeline: Pipeline | None
) -> str | None:
    if _sets_opset(pipeline):
        return None
    before, after = _opsets(proto), _opsets(result)
    brought = {item for function in proto.functions for item in _opsets(function).items()}
    new = {item for item in after.items() if item[0] not in before}
    if any(after.get(domain) != version for domain, version in before.items()) or new - brought:
        return f"opset imports {before} became {after}"
    return None


def _opsets(of: Any) -> dict[str, int]:
    return {e.domain if e.domain != "ai.onnx" else "": e.version for e in of.opset_import}


def _function_change(proto: onnx.ModelProto, result: onnx.ModelProto) -> str | None:
    before = {(f.domain, f.name, f.overload): f for f in proto.functions}
    for function in result.functions:
        key = (function.domain, function.name, function.overload)
        known = before.get(key)
        if known is None:
            return f"function {key} was added"
        for field in ("input", "output", "attribute", "attribute_proto", "doc_string"):
            if getattr(known, field) != getattr(function, field):
                return f"function {key}: {field} changed"
        if _props(known) != _props(function) or _opsets(known) != _opsets(function):
            return f"function {key}: metadata or opset imports changed"
    return None
