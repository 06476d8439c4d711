"""Reverse mode through whole graphs: values with several readers, walls, half precision."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.gradients import Backward
from graphopt.runtime.session import Session
from graphopt.runtime.tap import tapped


def model(text: str) -> ir.Model:
    import onnx.parser

    header = '<ir_version: 10, opset_import: ["" : 20, "custom" : 1]>'
    return ir.from_proto(onnx.parser.parse_model(header + text))


TWO = """
g (double[2,3] x) => (double[2,3] y, double[2,3] z) {
  a = Sigmoid(x)
  b = Mul(a, a)
  c = Tanh(a)
  y = Add(b, c)
  z = Exp(a)
}"""


def forward(
    net: ir.Model, backward: Backward, feed: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    session = Session(tapped(net, backward.values))
    return session.run({name: feed[name] for name in session.inputs})


def test_edges_of_a_value_add_up_to_its_gradient() -> None:
    net = model(TWO)
    x = np.random.default_rng(0).standard_normal((2, 3))
    edges = [(0, 0), (1, 0), (1, 1), (2, 0), (4, 0)]
    backward = Backward(net, edges, ["y", "z"])
    assert backward.blocked == {}
    seeds = {"y": np.ones((2, 3)), "z": np.full((2, 3), 2.0)}
    found = dict(backward.run(forward(net, backward, {"x": x}), seeds))
    a = 1 / (1 + np.exp(-x))
    assert np.allclose(found[1, 0], a, rtol=1e-12, atol=0)
    assert np.allclose(found[1, 1], a, rtol=1e-12, atol=0)
    assert np.allclose(found[2, 0], 1 - np.tanh(a) ** 2, rtol=1e-12, atol=0)
    assert np.allclose(found[4, 0], 2 * np.exp(a), rtol=1e-12, atol=0)
    whole = sum(found[edge] for edge in edges[1:])
    assert np.allclose(found[0, 0], whole * a * (1 - a), rtol=1e-12, atol=0)


def test_only_what_leads_to_given_outputs_counts() -> None:
    net = model(TWO)
    backward = Backward(net, [(4, 0), (2, 0)], ["y"])
    x = np.zeros((2, 3))
    found = dict(backward.run(forward(net, backward, {"x": x}), {"y": np.ones((2, 3))}))
    assert set(found) == {(2, 0)}
    assert set(backward.values) == {"a", "b", "c", "y"}


WALL = """
g (float[2,3] x) => (float[2,3] y) {
  a = Sigmoid(x)
  b = Tan(a)
  c = Sigmoid(a)
  y = Add(b, c)
}"""


def test_what_is_behind_an_operator_without_a_rule_has_no_gradient() -> None:
    net = model(WALL)
    backward = Backward(net, [(0, 0), (1, 0), (2, 0), (3, 0)], ["y"])
    assert backward.blocked == {(0, 0): "Tan 'b'", (1, 0): "Tan 'b'"}
    x = np.random.default_rng(0).standard_normal((2, 3), np.float32)
    found = dict(backward.run(forward(net, backward, {"x": x}), {"y": np.ones((2, 3), np.float32)}))
    assert set(found) == {(2, 0), (3, 0)}


@pytest.mark.parametrize(
    ("body", "wall"),
    [
        ("y = custom.Relu(a)", "Relu 'y'"),
        ("y, i = TopK(a, k)", "TopK 'y'"),
        ("y = BatchNormalization <training_mode = 1> (a, s, s, s, s)", "BatchNormalization 'y'"),
        ("y = BatchNormalization (s4, s, s, m, s)", "BatchNormalization 'y'"),
        ('y = Pad <mode = "edge"> (a, p)', "Pad 'y'"),
        ('y = Einsum <equation = "ii->i"> (a)', "Einsum 'y'"),
        ("y, m1, v1 = LayerNormalization(a, s)\n z = Exp(m1)", "LayerNormalization 'y'"),
    ],
)
def test_what_a_rule_does_not_hold_for_is_a_wall(body: str, wall: str) -> None:
    outputs = ["y", "z"] if "z =" in body else ["y"]
    stated = ", ".join(f"double[m,n] {name}" for name in outputs)
    net = model(
        f"""g (double[3,3] x, double[3] s, double[3,3] s4, int64[1] k, int64[4] p) => ({stated})
        {{
          a = Sigmoid(x)
          m = ReduceMean <keepdims = 0> (a, k)
          {body}
        }}"""
    )
    backward = Backward(net, [(0, 0)], outputs)
    assert backward.blocked == {(0, 0): wall}
    assert backward.values == ()


def test_what_a_branch_captures_is_behind_it() -> None:
    net = model(
        """g (double[2] x, bool c) => (double[2] y) {
          a = Sigmoid(x)
          y = If (c) <then_branch = t () => (double[2] p) { p = Exp(a) },
                      else_branch = e () => (double[2] q) { q = Neg(a) }>
        }"""
    )
    assert Backward(net, [(0, 0)], ["y"]).blocked == {(0, 0): "If 'y'"}


def test_steps_and_integers_pass_nothing_back() -> None:
    net = model(
        """g (double[2,3] x) => (double[2,3] y) {
          a = Sigmoid(x)
          b = Cast <to = 7> (a)
          f = Cast <to = 11> (b)
          n = Shape(a)
          r = Reshape(f, n)
          y = Add(r, a)
        }"""
    )
    backward = Backward(net, [(0, 0)], ["y"])
    assert backward.blocked == {}
    x = np.random.default_rng(0).standard_normal((2, 3))
    found = dict(backward.run(forward(net, backward, {"x": x}), {"y": np.ones((2, 3))}))
    a = 1 / (1 + np.exp(-x))
    assert np.allclose(found[0, 0], a * (1 - a), rtol=1e-12, atol=0)


def test_half_precision_is_computed_with_in_single() -> None:
    net = model(
        "g (float16[2,3] x) => (float16[2,3] y) { a = Relu(x)\n b = Mul(a, a)\n y = Neg(b) }"
    )
    backward = Backward(net, [(1, 0), (0, 0)], ["y"])
    x = np.array([[300, -1, 2], [0.5, 1, 0]], dtype=np.float16)
    seeds = {"y": np.full((2, 3), 1000, np.float16)}
    found = dict(backward.run(forward(net, backward, {"x": x}), seeds))
    assert found[0, 0].dtype == np.float32
    assert np.array_equal(found[0, 0], -2000 * np.maximum(x, 0).astype(np.float32))
