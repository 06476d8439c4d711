"""inline: loops that run a known number of times."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from rewriting import Outcome, apply, both, held

from graphopt_passes.inline import Inline

X = np.float32([1, -2, 3])


def loop(
    body: str,
    *edits,
    head: str = "bool go, float[3] r",
    step: Inline | None = None,
    types: str = "float[3] x",
    out: str = "float[3] y",
    results: str = "y",
    given: str = "m, c, x",
    opset: int = 17,
) -> Outcome:
    source = f"""<ir_version: 10, opset_import: ["" : {opset}]> g ({types}) => ({out}) {{
        {results} = Loop ({given}) <body = b (int64 i, bool keep, float[3] v) => ({head})
        {{ {body} }}> }}"""
    return apply(step or Inline(), source, both(*edits))


def trips(count: int, condition: bool | None = True):
    given = [held("m", np.array(count, np.int64))]
    return both(*given, *([] if condition is None else [held("c", np.array(condition))]))


@pytest.mark.parametrize("count", [0, 1, 3, 8])
@pytest.mark.parametrize("go", ["Identity(keep)", "Constant<value = bool {1}>()"])
def test_a_short_loop_is_unrolled(count: int, go: str) -> None:
    outcome = loop(f"go = {go} f = Cast<to = 1>(i) e = Add(v, f) r = Mul(e, e)", trips(count))
    assert outcome.all_operators["Loop"] == 0
    assert outcome.operators.count("Mul") == count
    assert outcome.agrees({"x": X})


def test_values_of_iterations_are_numbered() -> None:
    outcome = loop("go = Identity(keep) e = Exp(v) r = Neg(e)", trips(2))
    made = [node.output[0] for node in outcome.after.graph.node if node.op_type != "Identity"]
    assert made == ["e/0", "r/0", "e/1", "y"]
    once = loop("go = Identity(keep) e = Exp(v) r = Neg(e)", trips(1))
    assert [node.output[0] for node in once.after.graph.node if node.op_type != "Identity"] == [
        "e",
        "y",
    ]


@pytest.mark.parametrize("given", ["m, , x", ", , x", ", c, x"])
def test_what_is_left_out_means_for_ever(given: str) -> None:
    edits = trips(3) if "c" in given else trips(3, None)
    if not given.startswith("m"):
        edits = held("c", np.array(True)) if "c" in given else both()
    outcome = loop("go = Constant<value = bool {0}>() r = Exp(v)", edits, given=given)
    assert outcome.operators.count("Exp") == 1
    assert outcome.all_operators["Loop"] == 0
    assert outcome.agrees({"x": X})


def test_a_false_condition_at_the_start() -> None:
    outcome = loop("go = Constant<value = bool {1}>() r = Exp(v)", trips(5, False))
    assert outcome.operators == ["Identity"]
    assert outcome.agrees({"x": X})


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("opset", [11, 17])
def test_what_is_collected_is_stacked(count: int, opset: int) -> None:
    outcome = loop(
        "go = Identity(keep) r = Add(v, v) s = Neg(r) j = Add(i, i)",
        trips(count),
        head="bool go, float[3] r, float[3] s, int64 j",
        results="y, z, n",
        out="float[3] y, float[k,3] z, int64[k] n",
        opset=opset,
    )
    assert outcome.all_operators["Loop"] == 0
    assert outcome.operators.count("Concat") == (2 if count > 1 else 0)
    assert outcome.agrees({"x": X})


def test_what_a_loop_that_never_runs_would_collect() -> None:
    rest = {"head": "bool go, float[3] r, float[3] s", "results": "y, z"}
    body = "go = Identity(keep) r = Add(v, v) s = Neg(r)"
    outcome = loop(body, trips(0), out="float[3] y, float[k,3] z", **rest)
    assert not outcome.result.modified
    assert outcome.declined == ["it never runs, so the shape of what it collects is not known"]
    assert loop(body, trips(0), **rest).operators == ["Identity"]


def test_shapes_may_change_on_the_way() -> None:
    outcome = loop(
        "go = Identity(keep) r = Concat<axis = 0>(v, v)",
        trips(3),
        head="bool go, float[n] r",
        out="float[n] y",
        step=Inline(),
    )
    assert outcome.operators.count("Concat") == 3
    assert len(outcome.result.declined) == 0


def test_what_is_carried_may_be_swapped_or_handed_on() -> None:
    source = """<ir_version: 10, opset_import: ["" : 17]> g (float[3] x, float[3] z) =>
        (float[3] p, float[3] q, float[3] k) {
        p, q, k = Loop (m, c, x, z, x) <body = b (int64 i, bool go, float[3] s, float[3] t,
            float[3] u) => (bool go, float[3] t, float[3] s, float[3] u) { }> }"""
    model = onnx.parser.parse_model(source)
    outcome = apply(Inline(), model, trips(3))
    assert outcome.operators == ["Identity", "Identity", "Identity"]
    assert outcome.agrees({"x": X, "z": X + 1})


def test_draws_stay_one_for_each_iteration() -> None:
    outcome = loop("go = Identity(keep) d = RandomNormalLike(v) r = Add(v, d)", trips(3))
    assert outcome.operators.count("RandomNormalLike") == 3


def test_weights_inside_are_stored_once_and_outer_values_stay() -> None:
    def edit(model: onnx.ModelProto) -> None:
        body = model.graph.node[0].attribute[0].g
        body.initializer.append(onnx.numpy_helper.from_array(X, "w"))

    outcome = loop("go = Identity(keep) a = Mul(v, w) r = Add(a, x)", trips(3), edit)
    assert sorted(outcome.initializers) == ["c", "m", "w"]
    assert outcome.agrees({"x": X})


@pytest.mark.parametrize(
    ("count", "options", "reason"),
    [
        (9, {}, "it runs 9 times (max_unroll is 8)"),
        (3, {"max_unroll": 2}, "it runs 3 times (max_unroll is 2)"),
        (3, {"max_nodes": 5}, "it would become 6 nodes (max_nodes is 5)"),
        (1, {"max_unroll": 0, "max_nodes": 0}, None),
    ],
)
def test_limits(count: int, options: dict, reason: str | None) -> None:
    outcome = loop("go = Identity(keep) r = Exp(v)", trips(count), step=Inline(**options))
    assert outcome.declined == ([] if reason is None else [reason])
    assert outcome.result.modified == (reason is None)


@pytest.mark.parametrize(
    ("body", "edits", "types"),
    [
        ("s = ReduceSum<keepdims = 0>(v) z = Sub(s, s) go = Less(s, z) r = Exp(v)", trips(3), ""),
        ("go = Identity(keep) r = Exp(v)", trips(3), ", int64 m"),
        ("go = Identity(keep) r = Exp(v)", trips(3), ", bool c"),
        ("go = Identity(keep) r = Exp(v)", trips(-1), ""),
    ],
    ids=["computed", "overridable-count", "overridable-condition", "negative"],
)
def test_loops_of_unknown_length_stay(body: str, edits, types: str) -> None:
    assert not loop(body, edits, types="float[3] x" + types).result.modified


def test_loops_in_loops() -> None:
    inner = """go = Identity(keep)
        r = Loop (two, c, v) <body = b2 (int64 j, bool k, float[3] w) => (bool k2, float[3] q)
            { k2 = Identity(k) e = Exp(w) q = Neg(e) }>"""
    outcome = loop(inner, trips(3), held("two", np.array(2, np.int64)))
    assert outcome.operators.count("Exp") == 6
    assert outcome.agrees({"x": X})
    bounded = loop(inner, trips(3), held("two", np.array(2, np.int64)), step=Inline(max_nodes=12))
    assert bounded.all_operators["Loop"] == 1
    assert bounded.agrees({"x": X})


def test_the_iteration_may_decide_a_branch() -> None:
    body = """go = Constant<value = bool {1}>()
        r = If (keep) <then_branch = t () => (float[3] u) { u = Exp(v) },
                       else_branch = e () => (float[3] w) { w = Neg(v) }>"""
    outcome = loop(body, trips(2))
    assert outcome.all_operators["If"] == 0
    assert outcome.operators.count("Exp") == 2
    assert outcome.agrees({"x": X})


def test_a_loop_over_a_sequence() -> None:
    source = """<ir_version: 10, opset_import: ["" : 17]> g (float[3] x) => (float[n] y) {
        s = SequenceEmpty()
        q = Loop (m, c, s) <body = b (int64 i, bool keep, seq(float[3]) v)
            => (bool go, seq(float[3]) r)
            { go = Identity(keep) r = SequenceInsert(v, x) }>
        y = ConcatFromSequence<axis = 0>(q) }"""
    outcome = apply(Inline(), onnx.parser.parse_model(source), trips(3))
    assert outcome.operators.count("SequenceInsert") == 3
    assert outcome.agrees({"x": X})
