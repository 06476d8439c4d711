"""`tapped` and `stretch`: a part of a model computes what the model does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphopt.errors import GraphoptError
from graphopt.ir import Names, Parts, add_initializer, load, measure, stretch, tapped
from graphopt.runtime.session import Session
from graphopt.runtime.tap import observed_shapes

BODY = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
g (float[N, 4] x, bool c, float[4] unused) => (float[N, 4] y) <float[4] w = {1, 2, 3, 4}> {
    a = Mul (x, w)
    p, q = Split <axis = 1> (a, halves)
    s = Neg (q)
    r = Concat <axis = 1> (p, s)
    d = own.twice (r)
    i = If (c) <
        then_branch = t () => (float[N, 4] then) { then = Add (d, w) },
        else_branch = e () => (float[N, 4] else) { else = Neg (d) }
    >
    y = Relu (i)
}
<opset_import: ["" : 17], domain: "own">
twice (z) => (o) { o = Add (z, z) }
"""
FEED = {
    "x": np.arange(-6, 6, dtype=np.float32).reshape(3, 4),
    "c": np.array(True),
    "unused": np.zeros(4, np.float32),
}
VALUES = ("a", "p", "q", "s", "r", "d", "i", "y")


@pytest.fixture
def model() -> ir.Model:
    text = BODY.replace("w = {1, 2, 3, 4}>", "w = {1, 2, 3, 4}, int64[2] halves = {2, 2}>")
    return ir.from_proto(onnx.parser.parse_model(text))


FLOAT = ir.TensorType(ir.DataType.FLOAT)


def run(part: ir.Model, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = Session(part, threads=1)
    return session.run({name: feed[name] for name in session.inputs})


@pytest.mark.parametrize("branch", [True, False])
@pytest.mark.parametrize("name", VALUES)
def test_what_is_known_and_what_is_not_give_the_same(
    model: ir.Model, name: str, branch: bool
) -> None:
    feed = {**FEED, "c": np.array(branch)}
    whole = run(tapped(model, VALUES), feed)
    for known in VALUES:
        part = stretch(model, [known], ["y", name], {known: FLOAT})
        (found, got) = (run(part, {**feed, **whole})[n] for n in ("y", name))
        np.testing.assert_array_equal(found, whole["y"])
        np.testing.assert_array_equal(got, whole[name])


def test_only_what_is_needed_is_there(model: ir.Model) -> None:
    part = stretch(model, ["d"], ["y"])
    assert [node.op_type for node in part.graph] == ["If", "Relu"]
    assert sorted(str(v.name) for v in part.graph.inputs) == ["c", "d"]
    assert list(part.graph.initializers) == ["w"]
    part = stretch(model, ["p"], ["s"])
    assert [node.op_type for node in part.graph] == ["Mul", "Split", "Neg"]
    assert [v.name for v in part.graph.inputs] == ["x"]
    looked = tapped(model, ["s", "s"])
    assert [node.op_type for node in looked.graph] == ["Mul", "Split", "Neg"]
    assert [v.name for v in looked.graph.inputs] == ["x", "c", "unused"]
    assert [v.name for v in looked.graph.outputs] == ["s"]


def test_of_a_node_of_two_results_one_may_be_known(model: ir.Model) -> None:
    part = stretch(model, ["p"], ["r"], {"p": FLOAT})
    whole = run(tapped(model, VALUES), FEED)
    other = {**FEED, "p": whole["p"] + 1}
    expected = whole["r"] + np.array([1, 1, 0, 0], np.float32)
    np.testing.assert_array_equal(run(part, other)["r"], expected)


def test_a_weight_may_be_given_anew_in_the_main_graph_and_in_a_body(model: ir.Model) -> None:
    part = stretch(model, ["w", "x"], ["y"], {"w": FLOAT})
    assert not {"w", "x"} & set(part.graph.initializers)
    given = np.array([2, 0, 1, 5], np.float32)
    changed = model.clone()
    changed.graph.initializers["w"].const_value = ir.tensor(given, name="w")
    got = run(part, {**FEED, "w": given})["y"]
    np.testing.assert_array_equal(got, run(tapped(changed, ["y"]), FEED)["y"])


def test_parts_are_made_without_a_walk_through_the_model(
    model: ir.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = ir.to_proto(stretch(model, ["d"], ["y"])).SerializeToString()
    parts = Parts(model)
    walk = ir.Graph.__iter__

    def other_graphs_only(graph: ir.Graph) -> Iterator[ir.Node]:
        assert graph is not model.graph
        return walk(graph)

    monkeypatch.setattr(ir.Graph, "__iter__", other_graphs_only)
    part = parts.stretch(["d"], ["y"])
    assert ir.to_proto(part).SerializeToString() == expected
    assert [node.op_type for node in parts.tapped(["s"]).graph] == ["Mul", "Split", "Neg"]


def test_parts_see_constants_that_come_later(model: ir.Model) -> None:
    parts = Parts(model)
    new = add_initializer(model.graph, Names(model).fresh("new"), np.float32([5, 6, 7, 8]))
    model.graph[0].replace_input_with(1, new)
    got = run(parts.tapped(["a"]), FEED)["a"]
    np.testing.assert_array_equal(got, FEED["x"] * np.float32([5, 6, 7, 8]))
    assert list(parts.stretch(["new"], ["a"], {"new": FLOAT}).graph.initializers) == []


def test_the_model_stays_as_it_is(model: ir.Model) -> None:
    before = ir.to_proto(model).SerializeToString()
    for known in VALUES:
        stretch(model, [known, "w"], ["y"]).graph.outputs[0].name = "other"
    tapped(model, ["w", "x", "a"])
    assert ir.to_proto(model).SerializeToString() == before


@pytest.mark.parametrize("name", ["nothing", "then"])
def test_a_value_that_is_not_in_the_main_graph(model: ir.Model, name: str) -> None:
    with pytest.raises(GraphoptError, match=f"no value '{name}' in the main graph"):
        tapped(model, [name])
    with pytest.raises(GraphoptError, match=f"no value '{name}' in the main graph"):
        stretch(model, ["a"], [name])


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_parts_of_a_fixture_chain_up_to_the_whole(name: str, fixtures: Path) -> None:
    model = load(fixtures / f"{name}.onnx")
    (data,), (output,) = model.graph.inputs, model.graph.outputs
    feed = {str(data.name): np.random.default_rng(0).normal(size=(2, 1, 28, 28)).astype("f4")}
    expected = run(model, feed)[str(output.name)]
    single = [v for node in model.graph if node.op_type in ("Add", "Conv") for v in node.outputs]
    for value in single[:: len(single) // 4]:
        head = tapped(model, [str(value.name)])
        names = [str(data.name), str(value.name)]
        rest = stretch(model, names, [str(output.name)], dict.fromkeys(names, FLOAT))
        assert len(head.graph) < len(model.graph)
        got = run(rest, {**feed, **run(head, feed)})
        np.testing.assert_array_equal(got[str(output.name)], expected)


def test_shapes_of_nodes_without_names_are_observed() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[6] x, int64[2] s, bool c) => (float[a, b] y) {
        r = Reshape (x, s)
        m = MatMul (r, w)
        y = If (c) <
            then_branch = t () => (float[a, b] then) { then = Gemm (m, w) },
            else_branch = e () => (float[a, b] else) { else = Neg (m) }
        >
    }"""
    proto = onnx.parser.parse_model(text)
    weight = np.ones((3, 4), np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    model = ir.from_proto(proto)
    feed = {"x": np.ones(6, np.float32), "s": np.array([2, 3]), "c": np.array(False)}
    assert measure(model).unknown == ("m", "then")
    shapes = observed_shapes(model, ("m", "then"), feed)
    assert shapes == {"r": (2, 3), "m": (2, 4)}
    assert (measure(model, shapes).macs, measure(model, shapes).unknown) == (24, ("then",))
    assert observed_shapes(model, ("then",), feed) == {}  # which runs any number of times
