"""Whether a target takes a model, and everything that stands in the way."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.emit.tensorrt.backends import BACKENDS
from graphopt.emit.tensorrt.engine import DEFAULT_TIMEOUT_S, build_engine
from graphopt.emit.tensorrt.findings import (
    TENSORRT,
    TENSORRT_RTX,
    UNREADABLE,
    Finding,
    survey,
)
from graphopt.emit.tensorrt.gpu import compute_capability
from graphopt.emit.tensorrt.messages import Complaint, fix_for, one_line, refused_opset
from graphopt.emit.tensorrt.process import AFTER_A_CRASH
from graphopt.emit.tensorrt.report import EngineReport
from graphopt.emit.tensorrt.request import BuildRequest, EngineBackend
from graphopt.emit.tensorrt.shapes import ShapeRange, input_specs, profile_of
from graphopt.emit.tensorrt.unfused import Unfused
from graphopt.errors import GraphoptError
from graphopt.progress import Progress, Quiet
from graphopt.targets import Target, get_target
from graphopt.targets.operators import ONLY_TENSORRT, UNKNOWN

if TYPE_CHECKING:
    import onnx_ir as ir

# How builders name the node that they fail at: in quotes, or after the kind of its layer.
_NAMED = (
    re.compile(r"'([^']+)'"),
    re.compile(r"I[A-Z][A-Za-z]+Layer (.+?): "),
    re.compile(r"implementation for node (.+?)[. ]"),
)
PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


@dataclass(frozen=True)
class Stage:
    """One part of the check: "tables", "parser" or "build".

    Attributes:
        outcome: "passed", "failed" or "skipped".
        note: by what it was checked, or why it was not.
    """

    name: str
    outcome: str
    note: str


@dataclass(frozen=True)
class CheckReport:
    """What stands between a model and an engine for a target.

    Attributes:
        path: the model.
        target: the target's name.
        stages: the parts of the check in their order.
        findings: errors and warnings, those of the parser in the order of the nodes.
        engine: the engine that was built to see whether it can be, which is gone again.
    """

    path: str
    target: str
    stages: tuple[Stage, ...]
    findings: tuple[Finding, ...]
    engine: EngineReport | None

    @property
    def passed(self) -> bool:
        """Whether nothing was found that prevents an engine, as far as it could be checked."""
        return not any(finding.is_error for finding in self.findings)


@dataclass(frozen=True)
class _Builder:
    """What parses and builds here. `target` is what it builds for; None if it can only parse."""

    backend: EngineBackend | None
    target: Target | None
    note: str


@dataclass(frozen=True)
class _Work:
    """What is to be checked, and how: the arguments of `check_for`."""

    path: Path
    target: Target
    shapes: Mapping[str, ShapeRange]
    timeout_s: float
    progress: Progress


def check_for(
    model: ir.Model,
    path: str | Path,
    target: Target,
    *,
    shapes: Mapping[str, ShapeRange] | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    progress: Progress | None = None,
) -> CheckReport:
    """Checks the file at `path`, which holds `model`, for an engine on `target`.

    The parser and the build run where a builder is installed; a Jetson's stand-in is built for in
    its place. Operators that only TensorRT-RTX lacks are no errors for a target that it never
    builds for.

    Args:
        shapes: as of `build_engine`.
        timeout_s: seconds for the parser, and for the build.

    Raises:
        GraphoptError: if the file is no valid model, `shapes` do not suit it, there are no
            engines for the target, or the builder's own process fails while it parses.
    """
    from graphopt.ir import default_opset, infer_shapes

    if target.family != "tensorrt":
        raise GraphoptError(
            f"there are no engines for target '{target.name}', so there is nothing to check",
            fix="choose a GPU; 'graphopt targets' lists them",
        )
    _require_valid(path)
    profile_of(input_specs(model), shapes or {})
    infer_shapes(model)
    known = _for_target(survey(model, target), target)
    work = _Work(Path(path), target, dict(shapes or {}), timeout_s, progress or Quiet())
    builder = _builder(target)
    opset_refused = refused_opset(default_opset(model), target.opsets, target.name) is not None
    if builder.backend is None or opset_refused:
        note = builder.note if builder.backend is None else "the model's opset is refused"
        rest = [Stage(name, SKIPPED, note) for name in ("parser", "build")]
        return _report(work, known, rest, known)
    stage, findings, refused = _parsed(work, builder.backend, known)
    if refused or builder.target is None:
        note = "the parser here cannot read the model" if refused else builder.note
        return _report(work, known, [stage, Stage("build", SKIPPED, note)], findings)
    note, engine = builder.note, None
    try:
        engine = _built(work, builder.backend, builder.target)
        findings = [f for f in findings if f.lacking != TENSORRT_RTX]  # it has learnt it
        findings += [_of_unfused(node, builder.target) for node in engine.unfused]
        outcome = PASSED
    except GraphoptError as error:
        failure = _of_error(error, model, builder.target)
        lacking = sorted({f.operator for f in findings if f.lacking == TENSORRT_RTX})
        outcome = FAILED
        if lacking and not failure.node and builder.target is not target:
            outcome, note = SKIPPED, f"{note}, but lacks {', '.join(lacking)}"
        elif failure.node or _outcome(findings) == PASSED:  # or else the tables have said why
            findings = _both(findings, [failure])
    return _report(work, known, [stage, Stage("build", outcome, note)], findings, engine)


def _report(
    work: _Work,
    known: Sequence[Finding],
    stages: Sequence[Stage],
    findings: Sequence[Finding],
    engine: EngineReport | None = None,
) -> CheckReport:
    """The report. What the tables say fails only where nothing better refutes it."""
    upheld = {finding.node for finding in findings if finding.is_error}
    held = [finding for finding in known if finding.node in upheld]
    tables = Stage("tables", _outcome(held), f"operators, Q/DQ and types of {work.target.name}")
    return CheckReport(str(work.path), work.target.name, (tables, *stages), tuple(findings), engine)


def _parsed(
    work: _Work, backend: EngineBackend, known: Sequence[Finding]
) -> tuple[Stage, list[Finding], bool]:
    """The parser's stage, all findings so far, and whether the parser refuses anything."""
    request = BuildRequest(
        model=str(work.path.absolute()),
        engine="",
        target=work.target.name,
        sm=None,
        opsets=work.target.opsets,
        shapes={},
        timeout_s=work.timeout_s,
        parse_only=True,
    )
    parsed = backend.build(request, work.progress)
    refused = _for_target(
        [_of_complaint(each, known, parsed.builder) for each in parsed.complaints], work.target
    )
    note = parsed.builder if parsed.note is None else f"{parsed.builder}; {parsed.note}"
    if any(UNREADABLE in finding.reason for finding in known):
        # The parser says of a type neither what it is nor where.
        refused = [finding for finding in refused if finding.node]
        return Stage("parser", FAILED, note), _both(refused, known), True
    findings = _joined(known, refused) if parsed.note is None else _both(refused, known)
    return Stage("parser", _outcome(refused), note), findings, bool(refused)


def _require_valid(path: str | Path) -> None:
    from graphopt.emit.tensorrt.builder import require_valid

    whole = str(Path(path).absolute())
    require_valid(BuildRequest(whole, "", "", None, None, {}, DEFAULT_TIMEOUT_S))


def _builder(target: Target) -> _Builder:
    """The best of what is installed: builds for the target, for its stand-in, or only parses."""
    reasons = []
    for name in target.backends:
        reason = BACKENDS[name].available()
        if reason is not None:
            reasons.append(reason)
        elif name == "rtx-aot" or _is_here(target):
            return _Builder(BACKENDS[name], target, f"for {target.name}")
    rtx = BACKENDS["rtx-aot"]
    reason = rtx.available()
    if reason is not None:
        return _Builder(None, None, reasons[0] if reasons else reason)
    if target.stand_in is not None:
        stand_in = get_target(target.stand_in)
        return _Builder(rtx, stand_in, f"for {stand_in.name}, which stands in for {target.name}")
    where = "this machine" if target.sm is None else f"a machine with {target.name}"
    return _Builder(rtx, None, f"only TensorRT on {where} can build, which is not here")


def _is_here(target: Target) -> bool:
    present = compute_capability()
    return present is not None and target.sm in (None, present)


def _built(work: _Work, backend: EngineBackend, target: Target) -> EngineReport:
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        return build_engine(
            work.path,
            Path(folder) / "checked.engine",
            target=target,
            shapes=work.shapes,
            timeout_s=work.timeout_s,
            backend=backend.name,
            progress=work.progress,
        )


def _of_complaint(complaint: Complaint, known: Sequence[Finding], builder: str) -> Finding:
    """What the parser says, in plainer words where the tables know better."""
    for finding in known:
        if finding.node == complaint.node != "" and finding.lacking != TENSORRT_RTX:
            return replace(finding, is_error=True)
    by_rtx = builder.startswith(TENSORRT_RTX)
    operator = complaint.operator
    if by_rtx and operator in ONLY_TENSORRT:
        found = next((f for f in known if f.operator == operator), None)
        fix = found.fix if found is not None else None
        reason = "TensorRT-RTX does not have this operator"
        return Finding(complaint.node, operator, reason, fix, TENSORRT_RTX)
    text = one_line(complaint.text)
    said = f"the parser says: {text or 'nothing'}"
    if complaint.code:
        said += f" ({complaint.code})"
    if operator in UNKNOWN:
        said = "TensorRT does not have this operator"
    fix = UNKNOWN.get(operator) or fix_for(text)
    return Finding(complaint.node, operator, said if complaint.node else text, fix, TENSORRT)


def _joined(known: Sequence[Finding], refused: Sequence[Finding]) -> list[Finding]:
    """The parser has the last word on what it knows.

    What a GPU or a later stage of the builder lacks is beyond it, and so is what it misreads.
    """
    return _both(refused, [f for f in known if f.lacking != TENSORRT or not f.is_error])


def _both(first: Sequence[Finding], second: Sequence[Finding]) -> list[Finding]:
    """All findings, each once; of those that call one node an error, the one in `first`."""
    errors = {finding.node for finding in first if finding.is_error and finding.node}
    more = (finding for finding in second if finding.node not in errors)
    return list(dict.fromkeys((*first, *more)))


def _of_unfused(node: Unfused, target: Target) -> Finding:
    reason = f"{node.precision} in spite of Q/DQ: {node.reason}"
    return Finding(node.node, node.operator, reason, None, target.name, is_error=False)


def _of_error(error: GraphoptError, model: ir.Model, target: Target) -> Finding:
    """Why the build failed, with the node that the builder names, if it names one."""
    from graphopt.ir import nodes_of

    by_name = {node.name: node for node in nodes_of(model) if node.name}
    names = (name for pattern in _NAMED for name in pattern.findall(error.what))
    named, fix = next((by_name[name] for name in names if name in by_name), None), error.fix
    if named is None and fix in (None, AFTER_A_CRASH):  # there is no better reason
        unwanted = target.unwanted_operators
        named = next((node for node in nodes_of(model) if node.op_type in unwanted), None)
        if named is not None:
            fix = "this operator is known to make builds fail: write it with others"
    where = ("", "") if named is None else (named.name or "", named.op_type)
    return Finding(*where, error.what, fix, target.name)


def _for_target(findings: Sequence[Finding], target: Target) -> list[Finding]:
    """What only TensorRT-RTX lacks is no error where it is never used."""
    if "rtx-aot" in target.backends:
        return list(findings)
    fix = f"{target.name} runs TensorRT, which has it: nothing is to be done"
    return [
        replace(finding, is_error=False, fix=fix) if finding.lacking == TENSORRT_RTX else finding
        for finding in findings
    ]


def _outcome(findings: Sequence[Finding]) -> str:
    return FAILED if any(finding.is_error for finding in findings) else PASSED
