"""Small graphs on which careless rewrites show, through every exact pipeline there is.

Each graph goes through `lossless`, each exact pass alone, each fusion with `simplify`, and these
again with every option switched on that is off by default. Its numbers are compared on random
inputs, and, for what works element by element, on zeros of both signs, NaN, infinities and numbers
near the ends of the type.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import MISSING, Field, fields
from functools import cache
from typing import Any

import onnx
import pytest
from careless import GRAPHS, Graph, rewriters
from conformance_check import Original, verify
from conformance_engines import all_nodes

from graphopt.options import format_options
from graphopt.pipeline.base import Effect, Stage
from graphopt.pipeline.registry import find_pass, pass_names
from graphopt.pipeline.text import Pipeline, parse

BY_NAME = {graph.name: graph for graph in GRAPHS}


@cache
def pipelines() -> tuple[Pipeline, ...]:
    texts = ["lossless"]
    for name in pass_names():
        step = find_pass(name)
        if step.effect is not Effect.EXACT or any(_is_required(field) for field in fields(step)):
            continue
        more = {field.name: True for field in fields(step) if field.default is False}
        for text in dict.fromkeys((name, name + format_options(more))):
            texts.append(text)
            if step.stage is Stage.FUSE:
                texts.append(f"repeat(simplify,{text})")  # fusions may leave equal constants
    return tuple({str(pipeline): pipeline for pipeline in map(parse, texts)}.values())


def _is_required(field: Field[Any]) -> bool:
    """Whether an option has no default, so that only a user can give it."""
    return field.default is MISSING and field.default_factory is MISSING


def test_there_are_many_graphs_and_pipelines() -> None:
    assert len(GRAPHS) == len(BY_NAME) == 311
    texts = [str(pipeline) for pipeline in pipelines()]
    assert len(texts) >= 4
    assert any("fuse" in text for text in texts)


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: graph.name)
def test_nothing_goes_wrong(graph: Graph) -> None:
    original = Original(graph.model(), graph.feeds())
    for pipeline in pipelines():
        outcome = verify(original, pipeline)
        expected = "not-checked" if graph.random or graph.unrunnable else "ok"
        found = (str(pipeline), outcome.status, outcome.detail)
        assert outcome.status == expected, f"{graph.name}: {found}: {graph.why}"
        assert outcome.result is not None
        left = Counter(map(operator, all_nodes(onnx.load_model_from_string(outcome.result))))
        assert not Counter(graph.keeps) - left, f"{graph.name}: {pipeline}: {graph.why}"


def operator(node: onnx.NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("merge_equal_nodes:two_random_draws_are_two", "wrong"),
        ("merge_equal_initializers:zero_and_minus_zero_are_two_constants", "wrong"),
        ("freeze_defaults:overridable_defaults", "wrong"),
        ("drop_defaults:overridable_defaults", "io-changed"),
        ("add_nothing:add_zeros_that_broadcast", "invalid"),
        ("add_nothing:add_zero_changes_minus_zero", "wrong"),
        ("skip_clips:clip_of_clip_overlapping", "wrong"),
        ("drop_start_of_shape:shape_with_start_and_end", "invalid"),
        ("forget_metadata:metadata_everywhere", "io-changed"),
        ("rename_output:overridable_defaults", "io-changed"),
        ("use_newer_operator:opset_16_gelu_has_no_operator", "crash"),
        ("append_identity:x_minus_x", "unstable"),
        ("lie:x_minus_x", "unstable"),
        ("fail:x_minus_x", "crash"),
    ],
)
def test_a_careless_pass_is_seen(name: str, status: str) -> None:
    rewrite, _, graph = name.partition(":")
    original = Original(BY_NAME[graph].model(), BY_NAME[graph].feeds())
    pipeline = Pipeline((rewriters.Careless(getattr(rewriters, rewrite)),))
    outcome = verify(original, pipeline)
    assert (outcome.status, bool(outcome.detail)) == (status, True), outcome.detail
