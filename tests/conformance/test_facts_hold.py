"""Facts never contradict a run: all models of ONNX's backend suites, in several forms."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
from conformance_cases import FORMS, Case, Feed, Probe, cases, free_inputs
from conformance_engines import NotRunnableError, run_reference
from facts_check import NotRunError, all_outputs, contradictions, run


def run_anywhere(proto: onnx.ModelProto, feed: Feed) -> dict[str, object]:
    """Every value in ONNX Runtime, or in the reference evaluator where that cannot."""
    try:
        return run(proto, feed)
    except NotRunError:
        whole = all_outputs(proto)
        values = run_reference(whole, [feed])[0]
        return dict(zip([value.name for value in whole.graph.output], values, strict=True))


def _dynamic_and_constant(proto: onnx.ModelProto, feeds: tuple[Feed, ...]) -> Probe | None:
    """The first input with symbolic dimensions, all others constant."""
    constant = FORMS["all-but-first"](proto, feeds)
    return None if constant is None else FORMS["dynamic"](constant.proto, constant.feeds)


Form = Callable[[onnx.ModelProto, tuple[Feed, ...]], "Probe | None"]


@pytest.mark.parametrize(
    ("form", "at_least"),
    [
        (FORMS["as-is"], 2015),
        (FORMS["dynamic"], 1960),
        (FORMS["all-but-first"], 1430),
        (_dynamic_and_constant, 1400),
    ],
    ids=["as-is", "dynamic", "all-but-first", "dynamic-and-constant"],
)
def test_facts_hold(form: Form, at_least: int) -> None:
    checked, problems = 0, []
    for case in cases():
        probe = _probe(case, form)
        if probe is None or not probe.feeds:
            continue
        try:
            found = contradictions(probe.proto, probe.feeds[0], run_anywhere)
        except NotRunnableError:
            continue
        checked += 1
        problems += [f"{case.suite}/{case.name}: {problem}" for problem in found]
    assert not problems
    assert checked >= at_least


def _probe(case: Case, form: Form) -> Probe | None:
    if case.suite == "light":  # large, and of no other operators
        return None
    proto = onnx.load_model_from_string(case.model)
    names = [value.name for value in free_inputs(proto)]
    return form(proto, tuple(dict(zip(names, v, strict=True)) for v in case.data_sets))
