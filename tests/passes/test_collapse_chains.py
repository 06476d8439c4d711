"""collapse-chains: casts, signs, ranges, repeats, quantization."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rewriting import Outcome, apply, both, held, ints, numbers, run, with_shapes

from graphopt_passes.collapse_chains import CollapseChains

EDGES = np.array(
    [np.nan, -0.0, 0.0, np.inf, -np.inf, -1, 1, 7, -3, 2.5, -0.5, 6, 1e-40], np.float32
)


def collapse(graph: str, *, opset: int = 17, ir_version: int = 8, edit: Any = None) -> Outcome:
    source = f'<ir_version: {ir_version}, opset_import: ["": {opset}]> g {graph}'
    return apply(CollapseChains(), source, edit)


# Casts

TYPES = {
    "float": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7, "bool": 9,
    "float16": 10, "double": 11, "uint32": 12, "uint64": 13,
}  # fmt: skip


@pytest.mark.parametrize(
    ("chain", "left"),
    [
        ("int32 int64 int32", []),
        ("float16 float float16", []),
        ("float double float", []),
        ("bool int64 bool", []),
        ("bool float bool", []),
        ("uint8 float uint8", []),
        ("int32 double int32", []),
        ("int8 int32 int64", ["int64"]),
        ("int64 int32 int8", ["int8"]),
        ("int32 int64 float", ["float"]),
        ("float16 float double", ["double"]),
        ("float double bool", ["bool"]),
        ("uint8 int32 bool", ["bool"]),
        ("int64 int32 int64", ["int32", "int64"]),
        ("float int32 float", ["int32", "float"]),
        ("float float16 float", ["float16", "float"]),
        ("int32 float int32", ["float", "int32"]),
        ("int64 double int64", ["double", "int64"]),
        ("double float float16", ["float", "float16"]),
        ("float double float16", ["double", "float16"]),
        ("float double int32", ["double", "int32"]),
        ("int64 int32 bool", ["int32", "bool"]),
        ("float bool float", ["bool", "float"]),
        ("int8 uint8 int8", ["uint8", "int8"]),
        ("int8 uint8 int32", ["uint8", "int32"]),
        ("uint16 float16 uint16", ["float16", "uint16"]),
        ("int16 int32 float16", ["int32", "float16"]),
    ],
)
def test_casts(chain: str, left: list[str]) -> None:
    one, two, three = chain.split()
    to, back = TYPES[two], TYPES[three]
    outcome = collapse(
        f"({one}[n] x) => ({three}[n] y) "
        f"{{ i = Identity (x) a = Cast <to = {to}> (i) y = Cast <to = {back}> (a) }}"
    )
    casts = [n.attribute[0].i for n in outcome.after.graph.node if n.op_type == "Cast"]
    assert casts == [TYPES[name] for name in left]
    assert outcome.agrees({"x": _all_over(one)})


def _all_over(name: str) -> np.ndarray:
    dtype = np.dtype({"float": "float32", "double": "float64"}.get(name, name))
    if name == "bool":
        return np.array([True, False, True])
    if dtype.kind == "f":
        return EDGES[1:3].repeat(5).astype(dtype) + np.arange(10, dtype=dtype) / 3
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    return np.array([low, high, 0, 1, high // 3, low // 3, high - 1], dtype)


def test_casts_with_another_user_between() -> None:
    outcome = collapse(
        "(int8[n] x) => (int64[n] y, int32[n] z) "
        "{ a = Cast <to = 6> (x) y = Cast <to = 7> (a) z = Neg (a) }"
    )
    assert outcome.operators == ["Cast", "Cast", "Neg"]


# Signs


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("a = Neg (x) b = Neg (a) y = Exp (b)", ["Exp"]),
        ("a = Neg (x) y = Abs (a)", ["Abs"]),
        ("a = Abs (x) y = Abs (a)", ["Abs"]),
        ("a = Relu (x) y = Relu (a)", ["Relu"]),
        ("a = Ceil (x) y = Floor (a)", ["Ceil"]),
        ("a = Sign (x) b = Sign (a) y = Round (b)", ["Sign", "Round"]),
        ("a = Neg (x) y = Add (a, w)", ["Sub"]),
        ("a = Neg (x) y = Add (w, a)", ["Sub"]),
        ("a = Neg (x) y = Sub (w, a)", ["Add"]),
        ("a = Neg (x) y = Sub (a, w)", ["Neg", "Sub"]),
        ("a = Neg (x) b = Neg (w) y = Mul (a, b)", ["Mul"]),
        ("a = Neg (x) b = Neg (w) y = Div (a, b)", ["Div"]),
        ("a = Neg (x) y = Mul (a, a)", ["Neg", "Mul"]),
        ("c = Less (x, w) d = Not (c) y = Where (d, x, w)", ["Less", "Not", "Where"]),
        ("c = Less (x, w) d = Not (c) e = Not (d) y = Where (e, x, w)", ["Less", "Where"]),
    ],
)
def test_signs(nodes: str, expected: list[str]) -> None:
    outcome = collapse(f"(float[13] x, float[13] w) => (float[13] y) {{ {nodes} }}")
    assert outcome.operators == expected
    for roll in range(13):
        feed = {"x": EDGES, "w": np.roll(EDGES, roll)}
        for old, new in zip(run(outcome.before, feed), run(outcome.after, feed), strict=True):
            assert np.array_equal(old, new, equal_nan=True)
            number = ~np.isnan(old)
            assert np.array_equal(np.signbit(old[number]), np.signbit(new[number]))


def test_where_of_integers() -> None:
    outcome = collapse(
        "(bool[3] c, int64[3] x, int64[3] w) => (int64[3] y) { d = Not (c) y = Where (d, x, w) }"
    )
    assert outcome.operators == ["Where"]
    feed = {"x": np.arange(3), "w": np.arange(3) - 7, "c": np.array([True, False, True])}
    assert outcome.agrees(feed)


# Ranges


def clips(*nodes: str, limits: str, opset: int = 17) -> Outcome:
    names = ["x", *"abcd"[: len(nodes) - 1], "y"]
    body = " ".join(
        f"{names[i + 1]} = {node.replace('$', names[i])}" for i, node in enumerate(nodes)
    )
    return collapse(f"(float[13] x) => (float[13] y) <{limits}> {{ {body} }}", opset=opset)


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        (("Clip ($, m3, p2)", "Clip ($, m1, p6)"), "Clip -1 2"),
        (("Clip ($, m1, p1)", "Clip ($, m3, p2)"), "Clip -1 1"),
        (("Clip ($, m1, p1)", "Clip ($, p2, p6)"), "Clip 2 2"),
        (("Clip ($, p2, p6)", "Clip ($, m1, p1)"), "Clip 1 1"),
        (("Clip ($, z)", "Clip ($, , p6)"), "Clip 0 6"),
        (("Clip ($, , p6)", "Clip ($, z)"), "Clip 0 6"),
        (("Relu ($)", "Clip ($, z, p6)"), "Clip 0 6"),
        (("Relu ($)", "Clip ($, m1, p6)"), "Clip 0 6"),
        (("Relu ($)", "Clip ($, p1, p6)"), "Clip 1 6"),
        (("Relu ($)", "Clip ($, , p6)"), "Clip 0 6"),
        (("Clip ($, m1, p6)", "Relu ($)"), "Clip 0 6"),
        (("Clip ($, z, p6)", "Relu ($)"), "Clip 0 6"),
        (("Clip ($, p1)", "Relu ($)"), "Clip 1"),
        (("Relu ($)", "Clip ($, m3, m1)"), "Clip -1 -1"),
        (("Max ($, p1)", "Min ($, p2)"), "Clip 1 2"),
        (("Min (p6, $)", "Max (m3, $)"), "Clip -3 6"),
    ],
)
def test_ranges(nodes: tuple[str, ...], expected: str) -> None:
    limits = "float z = {0}, float m1 = {-1}, float m3 = {-3}, float p1 = {1}, float p2 = {2}, "
    outcome = clips(*nodes, limits=limits + "float p6 = {6}")
    (node,) = outcome.after.graph.node
    found = [f"{outcome.initializers[name]:g}" for name in node.input[1:]]
    assert f"{node.op_type} {' '.join(found)}" == expected
    assert outcome.agrees({"x": EDGES})


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        (("Clip ($, m3, m1)", "Relu ($)"), "-0"),
        (("Clip ($, p1, m1)", "Clip ($, m3, p6)"), "not constants that can be merged"),
        (("Relu ($)", "Clip ($, z)"), ""),
        (("Max ($, z)", "Min ($, p6)"), "another sign"),
        (("Max ($, p6)", "Min ($, p1)"), ""),
        (("Clip ($, neg, p1)", "Clip ($, m1, p1)"), "not constants that can be merged"),
    ],
)
def test_ranges_that_stay(nodes: tuple[str, ...], reason: str) -> None:
    limits = "float z = {0}, float m1 = {-1}, float m3 = {-3}, float p1 = {1}, float p6 = {6}"
    outcome = clips(*nodes, limits=limits + ", float neg = {-0.0}")
    assert len(outcome.operators) == 2
    assert reason in outcome.reasons
    assert bool(reason) == bool(outcome.reasons)


@pytest.mark.parametrize(("opset", "expected"), [(11, ["Max", "Min"]), (12, ["Clip"])])
def test_clip_of_doubles_came_late_to_onnx_runtime(opset: int, expected: list[str]) -> None:
    outcome = collapse(
        "(double[n] x) => (double[n] y) <double lo = {-1}, double hi = {6}> "
        "{ a = Max (x, lo) y = Min (a, hi) }",
        opset=opset,
    )
    assert outcome.operators == expected
    assert outcome.agrees({"x": EDGES.astype(np.float64)})


def test_relu_of_half_precision_makes_one_zero_or_the_other() -> None:
    outcome = collapse(
        "(float16[n] x) => (float16[n] y) <float16 lo = {48128}, float16 hi = {17920}> "
        "{ a = Relu (x) y = Clip (a, lo, hi) }"
    )
    assert outcome.operators == ["Relu", "Clip"]
    assert "half precision" in outcome.reasons
    assert outcome.agrees({"x": np.array([-0.0], np.float16)})


def test_ranges_in_old_models_and_of_integers() -> None:
    outcome = collapse(
        "(float[13] x) => (float[13] y) { a = Relu (x) y = Clip <min = -1.0, max = 6.0> (a) }",
        opset=6,
        ir_version=3,
    )
    assert outcome.operators == ["Clip"]
    assert outcome.agrees({"x": EDGES})
    outcome = collapse(
        "(int8[5] x) => (int8[5] y) <int8 a = {-128}, int8 b = {100}, int8 c = {-2}, int8 d = {3}>"
        " { s = Clip (x, a, b) y = Clip (s, c, d) }"
    )
    assert outcome.operators == ["Clip"]
    assert outcome.agrees({"x": np.array([-128, 127, -2, 3, 0], np.int8)})


# Repeats


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("a = Pad (x, p) y = Pad (a, q)", ["Pad"]),
        ("a = Pad (x, p, v) y = Pad (a, q, w)", ["Pad"]),
        ("a = Pad (x, p, z) y = Pad (a, q)", ["Pad"]),
        ("a = Pad (x, p, v) y = Pad (a, q)", ["Pad", "Pad"]),
        ("a = Pad (x, p) y = Pad (a, n)", ["Pad", "Pad"]),
        ("a = Pad <mode = 'edge'> (x, p) y = Pad (a, q)", ["Pad", "Pad"]),
        ("a = Tile (x, r) y = Tile (a, r)", ["Tile"]),
        ("a = Expand (x, e) y = Expand (a, f)", ["Expand"]),
    ],
)
def test_repeats(nodes: str, expected: list[str]) -> None:
    constants = ints(
        p=[1, 0, 0, 2], q=[0, 3, 1, 1], n=[-1, 0, 0, 0], r=[2, 3], e=[4, 1], f=[5, 1, 3]
    )
    floats = "float v = {2}, float w = {2}, float z = {0}"
    outcome = collapse(
        f"(float[1, 3] x) => (float[] y) <{constants}, {floats}> {{ {nodes} }}".replace("'", '"'),
        edit=with_shapes,
    )
    assert outcome.operators == expected
    assert outcome.agrees({"x": numbers(1, 3)})


# Quantization


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("scale", [0.1, 3e-5, 1.7e10, 0.00390625])
def test_quantize_of_dequantize(dtype: str, scale: float) -> None:
    outcome = collapse(
        f"({dtype}[256] x) => ({dtype}[256] y) "
        f"{{ a = DequantizeLinear (x, s, z) b = QuantizeLinear (a, s, z) y = Identity (b) }}",
        edit=both(held("s", np.array(scale, np.float32)), held("z", np.array(7, dtype))),
    )
    assert outcome.operators == ["Identity"]
    low = np.iinfo(dtype).min
    assert outcome.agrees({"x": (np.arange(256) + low).astype(dtype)})


@pytest.mark.parametrize(
    ("scales", "points", "reason"),
    [
        ((0.1, 0.2), (7, 7), "different scales"),
        ((0.1, 0.1), (7, 8), "different zero points"),
        ((1e-40, 1e-40), (7, 7), "does not let every integer come back"),
        ((1e37, 1e37), (7, 7), "does not let every integer come back"),
    ],
)
def test_quantize_with_other_parameters(
    scales: tuple[float, float], points: tuple[int, int], reason: str
) -> None:
    outcome = collapse(
        "(uint8[4] x) => (uint8[4] y) "
        "{ a = DequantizeLinear (x, s0, z0) y = QuantizeLinear (a, s1, z1) }",
        edit=both(
            *(held(f"s{i}", np.array(v, np.float32)) for i, v in enumerate(scales)),
            *(held(f"z{i}", np.array(v, np.uint8)) for i, v in enumerate(points)),
        ),
    )
    assert outcome.operators == ["DequantizeLinear", "QuantizeLinear"]
    assert reason in outcome.reasons


def test_a_double_pair_becomes_one() -> None:
    outcome = collapse(
        "(float[13] x) => (float[13] y) <float s = {0.1}, uint8 z = {128}> "
        "{ q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) "
        "r = QuantizeLinear (d, s, z) y = DequantizeLinear (r, s, z) }"
    )
    assert outcome.operators == ["QuantizeLinear", "DequantizeLinear"]
    assert outcome.agrees({"x": EDGES[1:].repeat(2)[:13]})
