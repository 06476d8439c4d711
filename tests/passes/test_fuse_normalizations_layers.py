"""fuse-normalizations: LayerNormalization and RMSNormalization."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from formulas import error, formula, fuse, random, reasons
from rewriting import Outcome

from graphopt_passes.fuse_normalizations import FuseNormalizations

RNG = np.random.default_rng(1)
GAMMA = RNG.uniform(0.5, 2, 8).astype(np.float32)
BETA = RNG.standard_normal(8).astype(np.float32)
NUMBERS = {
    "two": 2.0,
    "half": 0.5,
    "minus": -0.5,
    "one": 1.0,
    "zero": 0.0,
    "eps": 1e-5,
    "eighth": 0.125,
    "eight": 8.0,
    "gam": GAMMA,
    "bet": BETA,
    "axis": np.array([-1]),
    "last": np.array([2]),
}


def apply_to(body: str, opset: int = 17, x: str = "float[2, 3, 8]", **changed: object) -> Outcome:
    return fuse(FuseNormalizations(), source(body, opset, x, **changed))


def source(
    body: str, opset: int, x: str, y: str | None = None, **changed: object
) -> onnx.ModelProto:
    names = {**NUMBERS, **changed}
    used = {n: c for n, c in names.items() if f"{n})" in body or f"{n}," in body}
    return formula(body, opset, x=x, y=y, **used)  # type: ignore[arg-type]


def attributes(outcome: Outcome) -> dict[str, float]:
    (node,) = outcome.after.graph.node
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


MEAN = "m = ReduceMean <axes = [-1]> (x) d = Sub (x, m)"
VARIANCE = "q = Pow (d, two) v = ReduceMean <axes = [-1]> (q) a = Add (v, eps)"
AFFINE = "g = Mul (n, gam) y = Add (g, bet)"
TORCH = f"{MEAN} {VARIANCE} r = Sqrt (a) n = Div (d, r) {AFFINE}"

LAYER_NORMS = {
    "torch": TORCH,
    "product": TORCH.replace("Pow (d, two)", "Mul (d, d)"),
    "reciprocal": f"{MEAN} {VARIANCE} s = Sqrt (a) r = Reciprocal (s) n = Mul (d, r) {AFFINE}",
    "one by": f"{MEAN} {VARIANCE} s = Sqrt (a) r = Div (one, s) n = Mul (r, d) {AFFINE}",
    "power": f"{MEAN} {VARIANCE} r = Pow (a, minus) n = Mul (d, r) {AFFINE}",
    "root by power": f"{MEAN} {VARIANCE} r = Pow (a, half) n = Div (d, r) {AFFINE}",
    "root of inverse": f"{MEAN} {VARIANCE} i = Reciprocal (a) r = Sqrt (i) n = Mul (d, r) {AFFINE}",
    "commuted": TORCH.replace("(g, bet)", "(bet, g)").replace("(n, gam)", "(gam, n)")
    .replace("(v, eps)", "(eps, v)"),
    "positive axis": TORCH.replace("[-1]", "[2]"),
    "moments": f"{MEAN} q = Mul (x, x) e = ReduceMean <axes = [-1]> (q) k = Mul (m, m) "
    f"v = Sub (e, k) a = Add (v, eps) r = Sqrt (a) n = Div (d, r) {AFFINE}",
    "flax": f"{MEAN} q = Mul (x, x) e = ReduceMean <axes = [-1]> (q) k = Mul (m, m) "
    "u = Sub (e, k) v = Max (zero, u) a = Add (v, eps) s = Sqrt (a) i = Reciprocal (s) "
    "r = Mul (i, gam) g = Mul (d, r) y = Add (g, bet)",
    "two means": TORCH.replace("q = Pow (d, two)", "o = ReduceMean <axes = [-1]> (x) "
    "f = Sub (x, o) q = Mul (f, f)"),
    "sums": "t = ReduceSum (x, axis) m = Mul (t, eighth) d = Sub (x, m) q = Mul (d, d) "
    f"w = ReduceSum (q, axis) v = Div (w, eight) a = Add (v, eps) r = Sqrt (a) n = Div (d, r) "
    f"{AFFINE}",
    "sum of squares": f"{MEAN} w = ReduceSumSquare <axes = [-1]> (d) v = Mul (w, eighth) "
    f"a = Add (v, eps) r = Sqrt (a) n = Div (d, r) {AFFINE}",
    "dropped dimensions": "b = ReduceMean <axes = [-1], keepdims = 0> (x) m = Unsqueeze (b, last) "
    f"d = Sub (x, m) q = Mul (d, d) c = ReduceMean <axes = [-1], keepdims = 0> (q) "
    f"f = Add (c, eps) h = Sqrt (f) r = Unsqueeze (h, axis) n = Div (d, r) {AFFINE}",
    "var of dynamo": "b = ReduceMean <axes = [-1]> (x) f = Sub (x, b) q = Mul (f, f) "
    "c = ReduceMean <axes = [-1], keepdims = 0> (q) v = Unsqueeze (c, axis) "
    "t = ReduceSum <keepdims = 0> (x, axis) u = Unsqueeze (t, axis) m = Div (u, eight) "
    f"d = Sub (x, m) a = Add (v, eps) s = Sqrt (a) r = Reciprocal (s) n = Mul (d, r) {AFFINE}",
    "expanded": "b = ReduceMean <axes = [-1]> (x) z = Shape (x) m = Expand (b, z) d = Sub (x, m) "
    f"q = Mul (d, d) c = ReduceMean <axes = [-1]> (q) v = Expand (c, z) a = Add (v, eps) "
    f"r = Sqrt (a) n = Div (d, r) {AFFINE}",
    "tensorflow": f"{MEAN} {VARIANCE} s = Sqrt (a) i = Reciprocal (s) r = Mul (i, gam) "
    "p = Mul (x, r) k = Mul (m, r) t = Sub (bet, k) y = Add (p, t)",
}  # fmt: skip


@pytest.mark.parametrize("body", LAYER_NORMS.values(), ids=LAYER_NORMS)
def test_layer_normalization(body: str) -> None:
    outcome = apply_to(body)
    assert [o for o in outcome.operators if o != "Shape"] == ["LayerNormalization"]
    node = outcome.after.graph.node[-1]
    found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    assert found == {"axis": -1, "epsilon": pytest.approx(1e-5), "stash_type": 1}
    scale, bias = (outcome.initializers[name] for name in node.input[1:])
    assert np.array_equal(scale, GAMMA)
    assert np.array_equal(bias, BETA)
    assert error(outcome, random(2, 3, 8)) < 1e-6


@pytest.mark.parametrize(
    ("rest", "scale", "inputs"),
    [
        ("y = Identity (n)", np.ones(8), 2),
        ("y = Mul (n, gam)", GAMMA, 2),
        ("y = Mul (n, two)", np.full(8, 2), 2),
        ("y = Add (n, bet)", np.ones(8), 3),
    ],
)
def test_without_scale_or_bias(rest: str, scale: np.ndarray, inputs: int) -> None:
    outcome = apply_to(TORCH.replace(AFFINE, rest))
    assert outcome.operators[0] == "LayerNormalization"
    node = outcome.after.graph.node[0]
    assert len(node.input) == inputs
    assert np.array_equal(outcome.initializers[node.input[1]], scale)
    assert error(outcome, random(2, 3, 8)) < 1e-6


@pytest.mark.parametrize("shape", [(1, 8), (1, 1, 8)])
def test_a_scale_of_higher_rank_is_reshaped(shape: tuple[int, ...]) -> None:
    outcome = apply_to(TORCH, gam=GAMMA.reshape(shape), bet=BETA.reshape(shape))
    assert outcome.operators == ["LayerNormalization"]
    assert error(outcome, random(2, 3, 8)) < 1e-6


@pytest.mark.parametrize("shape", [(3, 1), (3, 8), (2, 1, 1)])
def test_a_scale_along_other_axes_stays(shape: tuple[int, ...]) -> None:
    outcome = apply_to(TORCH, gam=np.full(shape, 3, np.float32))
    assert "Mul" in outcome.operators or "InstanceNormalization" in outcome.operators
    assert error(outcome, random(2, 3, 8)) < 1e-6


def test_a_scale_that_makes_the_output_larger_stays() -> None:
    model = source(TORCH, 17, "float[3, 8]", "float[2, 3, 8]", gam=np.ones((2, 1, 8), np.float32))
    outcome = fuse(FuseNormalizations(), model)
    assert outcome.operators == ["LayerNormalization", "Mul", "Add"]
    assert error(outcome, random(3, 8)) < 1e-6


def test_over_two_axes() -> None:
    gamma = RNG.uniform(0.5, 2, (3, 8)).astype(np.float32)
    outcome = apply_to(TORCH.replace("[-1]", "[-1, 1]"), gam=gamma)
    assert outcome.operators == ["LayerNormalization"]
    assert attributes(outcome)["axis"] == -2
    assert error(outcome, random(2, 3, 8)) < 1e-6


def test_axes_as_input() -> None:
    body = TORCH.replace("ReduceMean <axes = [-1]> (x)", "ReduceMean (x, axis)")
    body = body.replace("ReduceMean <axes = [-1]> (q)", "ReduceMean (q, axis)")
    outcome = apply_to(body, 18)
    assert outcome.operators == ["LayerNormalization"]
    assert error(outcome, random(2, 3, 8)) < 1e-6


def test_with_a_dynamic_batch() -> None:
    outcome = apply_to(TORCH, x="float[N, S, 8]")
    assert outcome.operators == ["LayerNormalization"]
    assert error(outcome, random(4, 5, 8)) < 1e-6


def test_with_parameters_that_are_fed() -> None:
    model = source(TORCH, 17, "float[2, 3, 8]")
    for tensor in [t for t in model.graph.initializer if t.name in ("gam", "bet")]:
        model.graph.initializer.remove(tensor)
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, 1, [8]))
    outcome = fuse(FuseNormalizations(), model)
    assert outcome.operators == ["LayerNormalization"]
    assert list(outcome.after.graph.node[0].input) == ["x", "gam", "bet"]


def test_a_scale_behind_a_layer_normalization_goes_into_it() -> None:
    body = "n = LayerNormalization (x, gam, bet) g = Mul (n, two) y = Add (g, one)"
    outcome = apply_to(body)
    assert outcome.operators == ["LayerNormalization"]
    node = outcome.after.graph.node[0]
    assert np.array_equal(outcome.initializers[node.input[1]], 2 * GAMMA)
    assert np.array_equal(outcome.initializers[node.input[2]], 2 * BETA + 1)
    assert error(outcome, random(2, 3, 8)) < 1e-6


LOOK_ALIKES = {
    "another axis": TORCH.replace("[-1]> (q)", "[1]> (q)"),
    "another power": TORCH.replace("two", "half"),
    "no mean": f"{MEAN} {VARIANCE} r = Sqrt (a) n = Div (x, r) {AFFINE}",
    "epsilon outside": f"{MEAN} q = Pow (d, two) v = ReduceMean <axes = [-1]> (q) a = Sqrt (v) "
    f"r = Add (a, eps) n = Div (d, r) {AFFINE}",
    "times the root": TORCH.replace("Div (d, r)", "Mul (d, r)"),
    "the inverse": TORCH.replace("Div (d, r)", "Div (r, d)"),
    "another value": TORCH.replace("Pow (d, two)", "Pow (x, two)"),
    "mean of the difference": TORCH.replace("Sub (x, m)", "Sub (m, x)"),
    "unbiased": LAYER_NORMS["sums"].replace("v = Div (w, eight)", "v = Div (w, seven)"),
    "no epsilon": TORCH.replace("a = Add (v, eps) r = Sqrt (a)", "r = Sqrt (v)"),
}  # fmt: skip


@pytest.mark.parametrize("body", LOOK_ALIKES.values(), ids=LOOK_ALIKES)
def test_look_alikes(body: str) -> None:
    outcome = apply_to(body, seven=7.0)
    assert not [o for o in outcome.operators if o.endswith("Normalization")]


def test_dropped_dimensions_that_broadcast_across_stay() -> None:
    body = TORCH.replace("axes = [-1]", "axes = [-1], keepdims = 0")
    assert not apply_to(body, x="float[8, 8]").result.modified


def test_an_epsilon_for_each_row_stays() -> None:
    outcome = apply_to(TORCH, eps=np.array([[1], [2], [3]], np.float32))
    assert not outcome.result.modified


def test_axes_that_are_not_the_last() -> None:
    outcome = apply_to(TORCH.replace("[-1]", "[1]"))
    assert not outcome.result.modified
    assert reasons(outcome) == [
        "layer-normalization: the axes are not the last ones, as LayerNormalization would have them"
    ]


def test_of_a_single_number() -> None:
    body = "m = ReduceMean (x) d = Sub (x, m) q = Mul (d, d) v = ReduceMean (q) a = Add (v, eps) "
    assert not apply_to(f"{body} r = Sqrt (a) y = Div (d, r)", x="float").result.modified


def test_an_older_opset() -> None:
    outcome = apply_to(TORCH, 16)
    assert not outcome.result.modified
    assert reasons(outcome) == [
        "layer-normalization: LayerNormalization needs opset 17 (the model has 16): "
        "run set-opset{version=17} first"
    ]


def test_a_dynamic_size_has_no_scale() -> None:
    outcome = apply_to(TORCH.replace(AFFINE, "y = Neg (n)"), x="float[2, 3, C]")
    assert not outcome.result.modified
    assert reasons(outcome) == [
        "layer-normalization: the size of the scale of LayerNormalization is not known: "
        "it is dynamic"
    ]


def test_a_large_scale_of_ones_is_not_made() -> None:
    outcome = apply_to(TORCH.replace(AFFINE, "y = Neg (n)"), x="float[2, 100000]")
    assert reasons(outcome) == [
        "layer-normalization: it would need a large scale of nothing but ones"
    ]


@pytest.mark.parametrize("name", ["m", "d", "v", "r"])
def test_a_value_that_is_seen_elsewhere_stays(name: str) -> None:
    body = f"{TORCH.replace('y =', 'u =')} o = Neg ({name}) y = Add (u, o)"
    outcome = apply_to(body)
    assert not outcome.result.modified
    assert reasons(outcome) == [
        f"layer-normalization: '{name}' in the midst of it is used elsewhere too"
    ]


def test_double_is_kept() -> None:
    constants = {n: np.asarray(NUMBERS[n], np.float64) for n in ("two", "eps", "gam", "bet")}
    outcome = apply_to(TORCH, x="double[2, 3, 8]", **constants)
    assert not outcome.result.modified
    assert reasons(outcome) == [
        "layer-normalization: LayerNormalization may compute its statistics in float32, "
        "less than double"
    ]


HALF = {n: np.asarray(NUMBERS[n], np.float16) for n in ("two", "eps", "gam", "bet", "one")}
WIDE = TORCH.replace("(x)", "(w)").replace("(x, m)", "(w, m)")
CASTS = {
    "half": TORCH,
    "statistics in float32": "w = Cast <to = 1> (x) b = ReduceMean <axes = [-1]> (w) "
    "m = Cast <to = 10> (b) d = Sub (x, m) f = Cast <to = 1> (d) q = Pow (f, wtwo) "
    "v = ReduceMean <axes = [-1]> (q) a = Add (v, weps) s = Sqrt (a) r = Cast <to = 10> (s) "
    f"n = Div (d, r) {AFFINE}",
    "in float32": "w = Cast <to = 1> (x) m = ReduceMean <axes = [-1]> (w) d = Sub (w, m) "
    "q = Pow (d, wtwo) v = ReduceMean <axes = [-1]> (q) a = Add (v, weps) r = Sqrt (a) "
    f"f = Div (d, r) n = Cast <to = 10> (f) {AFFINE}",
    "scaled in float32": "w = Cast <to = 1> (x) m = ReduceMean <axes = [-1]> (w) d = Sub (w, m) "
    "q = Pow (d, wtwo) v = ReduceMean <axes = [-1]> (q) a = Add (v, weps) r = Sqrt (a) "
    "f = Div (d, r) g = Mul (f, wgam) n = Cast <to = 10> (g) y = Add (n, bet)",
}


@pytest.mark.parametrize("body", CASTS.values(), ids=CASTS)
def test_float16(body: str) -> None:
    wide = {"wtwo": 2.0, "weps": 1e-5, "wgam": HALF["gam"].astype(np.float32)}
    outcome = apply_to(body, x="float16[2, 3, 8]", **HALF, **wide)
    assert outcome.operators == ["LayerNormalization"]
    assert attributes(outcome)["stash_type"] == 1
    assert error(outcome, random(2, 3, 8, dtype=np.float16)) < 3e-3


def test_a_scale_that_float16_cannot_hold_stays_in_float32() -> None:
    wide = {"wtwo": 2.0, "weps": 1e-5, "wgam": GAMMA}
    outcome = apply_to(CASTS["scaled in float32"], x="float16[2, 3, 8]", **HALF, **wide)
    assert outcome.operators == ["Cast", "LayerNormalization", "Cast", "Add"]


def test_statistics_in_a_narrower_type_stay() -> None:
    body = TORCH.replace("v = ReduceMean <axes = [-1]> (q)", "z = Cast <to = 10> (q) "
                         "b = ReduceMean <axes = [-1]> (z) v = Cast <to = 1> (b)")  # fmt: skip
    assert not apply_to(body).result.modified


RMS = "q = Pow (x, two) v = ReduceMean (q, axis) a = Add (v, eps)"
RMS_NORMS = {
    "llama": f"{RMS} s = Sqrt (a) r = Div (one, s) n = Mul (x, r) y = Mul (gam, n)",
    "division": f"{RMS} r = Sqrt (a) n = Div (x, r) y = Mul (n, gam)",
    "power": f"{RMS} r = Pow (a, minus) n = Mul (r, x) y = Mul (n, gam)",
    "scaled inverse": f"{RMS} s = Sqrt (a) i = Reciprocal (s) r = Mul (i, gam) y = Mul (x, r)",
    "sum": "q = ReduceSumSquare (x, axis) v = Mul (q, eighth) a = Add (v, eps) r = Sqrt (a) "
    "n = Div (x, r) y = Mul (n, gam)",
}


@pytest.mark.parametrize("body", RMS_NORMS.values(), ids=RMS_NORMS)
def test_rms_normalization(body: str) -> None:
    outcome = apply_to(body, 23)
    assert outcome.operators == ["RMSNormalization"]
    assert np.array_equal(next(iter(outcome.initializers.values())), GAMMA)
    assert error(outcome, random(2, 3, 8)) < 1e-6
    assert reasons(apply_to(body, 18)) == [
        "rms-normalization: RMSNormalization needs opset 23 (the model has 18): "
        "run set-opset{version=23} first"
    ]


def test_rms_normalization_of_float16_in_float32() -> None:
    body = (
        "w = Cast <to = 1> (x) q = Pow (w, two) v = ReduceMean (q, axis) a = Add (v, eps) "
        "s = Sqrt (a) r = Reciprocal (s) f = Mul (w, r) n = Cast <to = 10> (f) y = Mul (hgam, n)"
    )
    outcome = apply_to(body, 23, x="float16[2, 3, 8]", hgam=HALF["gam"])
    assert outcome.operators == ["RMSNormalization"]
    assert error(outcome, random(2, 3, 8, dtype=np.float16)) < 2e-3


@pytest.mark.parametrize(
    "body",
    [
        "z = Abs (x) q = Mul (x, z) v = ReduceMean (q, axis) a = Add (v, eps) r = Sqrt (a) "
        "y = Div (x, r)",
        "q = Mul (x, x) v = ReduceMax (q, axis) a = Add (v, eps) r = Sqrt (a) y = Div (x, r)",
        "q = Mul (x, x) v = ReduceMean (q, axis) a = Sub (v, eps) r = Sqrt (a) y = Div (x, r)",
    ],
)
def test_no_rms_normalization(body: str) -> None:
    assert not apply_to(body, 23).result.modified
