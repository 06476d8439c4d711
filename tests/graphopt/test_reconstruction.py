"""Layers as linear problems: rounding that minds the Gram matrix, and looking ahead in a stream."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphopt.data.feeds import Feed
from graphopt.ir import Names, load, main_inputs, reads
from graphopt.reconstruction import (
    Linear,
    Lives,
    Moments,
    Stream,
    adder_behind,
    round_to_type,
    round_weights,
    set_constant,
)
from graphopt.reconstruction import rounding as rounding_module
from graphopt.reconstruction.rounding import quadratic_error
from graphopt.runtime.session import Session

Array = np.ndarray
FIXTURES = Path(__file__).parents[2] / "fixtures"


def problem(groups: int, inputs: int, outputs: int, seed: int) -> tuple[Array, Array, Array]:
    """Target, Hessian of correlated inputs, and scales."""
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((groups, 4 * inputs, inputs))
    x = x @ generator.standard_normal((groups, inputs, inputs)) + 0.1 * x
    hessian = np.swapaxes(x, 1, 2) @ x + 0.01 * np.eye(inputs)
    target = generator.standard_normal((groups, inputs, outputs))
    return target, hessian, np.full((groups, 1, outputs), 0.4)


def nearest(target: Array, scale: Array, limits: tuple[int, int]) -> Array:
    return np.clip(np.rint(target / scale), *limits)


@pytest.mark.parametrize("seed", range(20))
def test_rounding_lies_between_the_nearest_and_the_best(seed: int) -> None:
    limits = (-2, 2)
    target, hessian, scale = problem(1, 4, 3, seed)
    found = quadratic_error(round_weights(target, hessian, scale, limits) * scale - target, hessian)
    plain = quadratic_error(nearest(target, scale, limits) * scale - target, hessian)
    every = np.array(list(itertools.product(range(-2, 3), repeat=4)), float).T[None]
    for output in range(3):
        off = every * 0.4 - target[:, :, output, None]
        best = quadratic_error(off, hessian).min()
        assert best * (1 - 1e-12) <= found[0, output] <= plain[0, output]


def test_rounding_comes_near_to_the_best() -> None:
    """Over many problems, most of what the nearest integers lose to the best is won back."""
    excess = np.zeros(2)
    for seed in range(40):
        target, hessian, scale = problem(1, 4, 3, seed)
        every = np.array(list(itertools.product(range(-5, 6), repeat=4)), float).T[None]
        for output in range(3):
            one = target[:, :, output : output + 1]
            best = quadratic_error(every * 0.4 - one, hessian).min()
            for i, choose in enumerate((round_weights, lambda t, h, s, m: nearest(t, s, m))):
                integers = choose(one, hessian, scale[:, :, :1], (-5, 5))
                excess[i] += quadratic_error(integers * 0.4 - one, hessian).sum() / best - 1
    assert excess[0] < 0.25 * excess[1]


@pytest.mark.parametrize(("groups", "inputs", "outputs"), [(1, 200, 5), (7, 9, 1), (3, 1, 4)])
def test_rounding_is_never_worse_than_the_nearest(groups: int, inputs: int, outputs: int) -> None:
    target, hessian, scale = problem(groups, inputs, outputs, 0)
    integers = round_weights(target, hessian, scale, (-3, 3))
    assert integers.shape == target.shape
    assert (np.abs(integers) <= 3).all()
    assert (integers == np.rint(integers)).all()
    errors = [
        quadratic_error(q * scale - target, hessian)
        for q in (integers, nearest(target, scale, (-3, 3)))
    ]
    assert (errors[0] <= errors[1]).all()


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    target, hessian, scale = problem(2, 50, 6, 1)
    whole = round_weights(target, hessian, scale, (-100, 100))
    monkeypatch.setattr(rounding_module, "BLOCK", 7)
    assert (round_weights(target, hessian, scale, (-100, 100)) == whole).all()


def test_inputs_that_are_not_correlated_are_rounded_to_the_nearest() -> None:
    target, _, scale = problem(2, 6, 4, 2)
    hessian = np.stack([np.diag(np.arange(1.0, 7)), np.eye(6)])
    assert (round_weights(target, hessian, scale, (-9, 9)) == nearest(target, scale, (-9, 9))).all()


@pytest.mark.parametrize("centred", [True, False])
def test_the_quadratic_is_the_ridge_problem(centred: bool) -> None:
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((2, 60, 5)) + 1, generator.standard_normal((2, 60, 3)) + 2
    weight = generator.standard_normal((2, 5, 3))
    moments = Moments(2, 5, 3)
    for part in np.array_split(np.arange(60), 4):
        moments.add(x[:, part], y[:, part])
    hessian, solution = moments.quadratic(weight, centred=centred, ridge=0.1)
    means = [a.mean(axis=1, keepdims=True) if centred else 0 for a in (x, y)]
    a, b = x - means[0], y - means[1]
    for g in range(2):
        strength = 0.1 * np.square(a[g]).sum() / 5
        rows = np.concatenate([a[g], np.sqrt(strength) * np.eye(5)])
        wanted = np.concatenate([b[g], np.sqrt(strength) * weight[g]])
        expected = np.linalg.lstsq(rows, wanted, rcond=None)[0]
        np.testing.assert_allclose(solution[g], expected, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(hessian[g], rows.T @ rows, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mean", [1.0, 1e3, 3e4])
@pytest.mark.parametrize("spread", [0.0, 1e-7])
@pytest.mark.parametrize("inputs", [32, 400])
def test_inputs_that_hardly_vary_teach_nothing_and_break_nothing(
    mean: float, spread: float, inputs: int
) -> None:
    generator = np.random.default_rng(0)
    center, weight = mean * generator.normal(size=inputs), generator.normal(size=(1, inputs, 3))
    moments = Moments(1, inputs, 3)
    for _ in range(4):
        noise = mean * spread * generator.normal(size=(1, 1000, inputs))
        x = (center + noise).astype(np.float32).astype(np.float64)
        moments.add(x, x @ weight)
    hessian, solution = moments.quadratic(weight, centred=True, ridge=1e-4)
    np.linalg.cholesky(hessian)  # an error where it is not positive definite
    np.testing.assert_allclose(solution, weight, rtol=0, atol=1e-3)


def of_gemm(bias: str) -> Linear | str | None:
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[2, 2] x) => (float[2, 2] y)
    <float[2, 2] w = {{1.0, 0.0, 0.0, 1.0}}, {bias}> {{ y = Gemm (x, w, b) }}"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    return Linear.of(model.graph[0])


@pytest.mark.parametrize("shape", ["2", "1, 2"])
def test_the_bias_of_a_gemm_is_a_number_for_each_output(shape: str) -> None:
    linear = of_gemm(f"float[{shape}] b = {{1.0, 2.0}}")
    assert isinstance(linear, Linear)
    assert linear.bias.tolist() == [[1, 2]]


def test_a_bias_for_each_row_is_not_one_of_each_output() -> None:
    assert of_gemm("float[2, 1] b = {1.0, 2.0}") == "its bias is not one number per channel"


@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("bias", [(), (1,), (3,), (1, 3)])
def test_a_scaled_gemm_is_what_it_computes(turned: int, bias: tuple[int, ...]) -> None:
    """Its matrix and bias give what ONNX Runtime gives, before and after it gets others."""
    generator = np.random.default_rng(2)
    weight = generator.standard_normal((3, 4) if turned else (4, 3)).astype(np.float32)
    node = onnx.helper.make_node("Gemm", "xwb", "y", transB=turned, alpha=0.5, beta=-2.0)
    floats = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [onnx.helper.make_tensor_value_info("x", floats, ["N", 4])],
        [onnx.helper.make_tensor_value_info("y", floats, ["N", 3])],
        [
            onnx.numpy_helper.from_array(weight, "w"),
            onnx.numpy_helper.from_array(generator.random(bias, np.float32), "b"),
        ],
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    model = ir.from_proto(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8))
    x = generator.standard_normal((5, 4)).astype(np.float32)
    for _ in range(2):
        linear = Linear.of(model.graph[0])
        assert isinstance(linear, Linear)
        assert linear.is_scaled
        assert linear.shape == linear.matrix.shape == (1, 4, 3)
        expected = Session(model).run({"x": x})["y"]
        np.testing.assert_allclose(x @ linear.matrix[0] + linear.bias, expected, atol=1e-6)
        linear.write(Names(model), 3 * linear.matrix, linear.bias + np.arange(3.0))


@pytest.mark.parametrize(("scale", "reason"), [("alpha", "not used"), ("beta", "bias is not used")])
def test_a_gemm_that_multiplies_by_nothing_is_not_refitted(scale: str, reason: str) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[2, 2] x) => (float[2, 2] y)
    <float[2, 2] w = {{1.0, 0.0, 0.0, 1.0}}> {{ y = Gemm <{scale} = 0.0> (x, w) }}"""
    found = Linear.of(ir.from_proto(onnx.parser.parse_model(text)).graph[0])
    assert isinstance(found, str)
    assert found.endswith(reason)


def pair_net() -> ir.Model:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] x) => (float[N, 2] y)
    <float s = {0.5}, int8 z = {0}, float s2 = {0.25}, int8[2,4] q = {1,2,3,4,5,6,7,8},
     float[2] b = {1.0, 2.0}> {
        r = Relu (x)  i = QuantizeLinear (r, s, z)  d = DequantizeLinear (i, s, z)
        w = DequantizeLinear (q, s2)  y = Gemm <transB = 1> (d, w, b) }"""
    return ir.from_proto(onnx.parser.parse_model(text))


def test_a_stream_is_not_fed_what_an_input_is_by_default() -> None:
    model = pair_net()
    model.graph.inputs.append(model.graph.initializers["b"])
    feed: Feed = {"x": np.ones((1, 4), np.float32)}
    stream = Stream(model, lambda: iter([feed]), budget=1 << 20)
    gemm = next(n for n in model.graph if n.op_type == "Gemm")
    assert stream.pass_to(gemm)
    (found,) = stream.values(gemm, "y", after=True)
    np.testing.assert_array_equal(found, Session(model).run(feed)["y"])


@pytest.mark.parametrize("budget", [0, 1 << 20])
def test_a_stream_has_outputs_that_were_computed_before(budget: int) -> None:
    """Neither `s` nor the input is read any more."""
    model = ir.from_proto(
        onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 17]> '
            "g (float[2] x) => (float[2] x, float[2] s, float[2] y) "
            "{ a = Relu (x) s = Neg (a) y = Exp (a) }"
        )
    )
    feeds = [{"x": np.array(numbers, np.float32)} for numbers in ([1, -2], [3, 4])]
    stream = Stream(model, lambda: iter(feeds), budget=budget)
    names = ["x", "s", "y"]
    assert stream.pass_to(model.graph[2], names) == (budget > 0)
    for feed, found in zip(feeds, stream.continued(model, names), strict=True):
        a = np.maximum(feed["x"], 0)
        np.testing.assert_array_equal(found["x"], feed["x"])
        np.testing.assert_array_equal(found["s"], -a)
        np.testing.assert_allclose(found["y"], np.exp(a), rtol=1e-6)


WITH_BODY = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 4] x, bool c) => (float[N, 4] y)
<float[4] w = {1, 2, 3, 4}, float16[4] h = {1, 1, 1, 1}> {
    v = Cast <to = 1> (h)  a = Mul (x, w)  b = Cast <to = 1> (a)  d = Add (b, v)  e = Neg (a)
    i = If (c) <
        then_branch = t () => (float[N, 4] then) { then = Add (d, w) },
        else_branch = e () => (float[N, 4] else) { else = Sub (x, v) }
    >
    y = Add (i, e)
}"""


@pytest.mark.parametrize("name", ["body", "pair", "mobilenet"])
def test_a_value_lives_from_its_node_to_its_last_reader(name: str) -> None:
    """But for weights, in whatever words."""
    if name in ("body", "pair"):
        text = ir.from_proto(onnx.parser.parse_model(WITH_BODY))
        model = text if name == "body" else pair_net()
    else:
        model = load(FIXTURES / f"{name}.onnx")
    lives, nodes = Lives(model), list(model.graph)
    varying = {str(value.name) for value in main_inputs(model)}
    for place, node in enumerate(nodes):
        for after in (False, True):
            ahead = {str(v.name) for later in nodes[place + after :] for v in reads(later)}
            assert lives.needed(node, after) == varying & ahead
            if not after and any(str(v.name) in varying for v in reads(node)):
                varying |= {str(value.name) for value in node.outputs}
        names = ["w", str(node.outputs[0].name)]
        assert lives.needed(node, True, names) == varying & {*ahead, *names}


def test_a_stream_looks_ahead_with_another_constant() -> None:
    model = pair_net()
    feeds: list[Feed] = [
        {"x": np.random.default_rng(i).standard_normal((3, 4)).astype(np.float32)} for i in range(2)
    ]
    stream = Stream(model, lambda: iter(feeds), budget=1 << 20)
    assert stream.ahead(["y"]) is None  # nothing is held yet
    node = next(n for n in model.graph if n.op_type == "QuantizeLinear")
    assert stream.pass_to(node)
    run = stream.ahead(["y"], ["s"])
    assert run is not None
    for value in (0.5, 0.125):
        model.graph.initializers["s"].const_value = ir.tensor(np.array(value, np.float32), name="s")
        session = Session(model)
        for number, feed in enumerate(feeds):
            got = run(number, {"s": np.array(value, np.float32)})
            np.testing.assert_array_equal(got["y"], session.run(feed)["y"])


def test_a_stream_sees_weights_that_change_behind_a_dequantize() -> None:
    model = pair_net()
    feed: Feed = {"x": np.ones((1, 4), np.float32)}
    stream = Stream(model, lambda: iter([feed]), budget=1 << 20)
    gemm = next(n for n in model.graph if n.op_type == "Gemm")
    assert next(stream.values(gemm, "d", after=False)).tolist() == [[1, 1, 1, 1]]
    model.graph.initializers["q"].const_value = ir.tensor(np.ones((2, 4), np.int8), name="q")
    np.testing.assert_array_equal(next(stream.values(gemm, "y", after=True)), [[2, 3]])


def test_constants_are_set_and_shared_ones_left_alone() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 2] x) => (float[N, 2] y)
    <float[2,2] w = {1.0, 0.0, 0.0, 1.0}, float[2] b = {1.0, 2.0}> {
        m = MatMul (x, w)  a = Add (b, m)  y = Add (a, b) }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    found = adder_behind(model.graph[0])
    assert found is not None
    assert found == (model.graph[1], 0)
    set_constant(Names(model), *found, np.array([5, 5], np.float32), "")
    feed = {"x": np.zeros((1, 2), np.float32)}
    assert Session(model).run(feed)["y"].tolist() == [[6, 7]]


@pytest.mark.parametrize(("part", "gain"), [(0.0, 1.5), (0.5, 1.2)])
def test_numbers_of_a_type_rounded_together_err_less(part: float, gain: float) -> None:
    generator = np.random.default_rng(0)
    data = generator.normal(size=(1, 400, 24)) @ generator.normal(size=(24, 24)) + 3
    hessian, target = np.swapaxes(data, 1, 2) @ data, generator.normal(size=(1, 24, 6))

    def rounded(array: np.ndarray) -> np.ndarray:
        return array.astype(np.float16).astype(np.float64)

    zeros = generator.random(target.shape) < part
    target[zeros] = 0
    found = round_to_type(target, hessian, rounded, zeros)
    np.testing.assert_array_equal(found, rounded(found))
    assert (found[zeros] == 0).all()
    errors = [quadratic_error(w - target, hessian) for w in (found, rounded(target))]
    assert (errors[0] <= errors[1]).all()
    assert errors[0].sum() < errors[1].sum() / gain
    assert np.abs(found - target).max() < 0.05
