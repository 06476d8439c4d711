"""fuse-layout: slices, gathers, broadcasting, initial states."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rewriting import Outcome, apply, both, held, numbers

from graphopt_passes.fuse_layout import FuseLayout


def fuse(graph: str, *, opset: int = 17, ir_version: int = 8, edit: Any = None) -> Outcome:
    source = f'<ir_version: {ir_version}, opset_import: ["": {opset}]> g {graph}'
    return apply(FuseLayout(), source, edit)


def slices(*bounds: tuple[int, int], axis: int = 1, steps: str = "one") -> str:
    """Each slice of x has its Neg as an output."""
    held_ints = [f"int64[1] ax = {{{axis}}}", "int64[1] one = {1}", "int64[1] two = {2}"]
    nodes, outputs = [], []
    for number, (start, end) in enumerate(bounds):
        held_ints += [f"int64[1] s{number} = {{{start}}}", f"int64[1] e{number} = {{{end}}}"]
        nodes.append(f"p{number} = Slice (x, s{number}, e{number}, ax, {steps}) ")
        nodes.append(f"y{number} = Neg (p{number}) ")
        outputs.append(f"float[a, b{number}, c] y{number}")
    return (
        f"(float[n, 6, 4] x) => ({', '.join(outputs)}) <{', '.join(held_ints)}> "
        f"{{ {''.join(nodes)} }}"
    )


@pytest.mark.parametrize(
    ("bounds", "opset", "attributes", "inputs"),
    [
        (((0, 3), (3, 6)), 17, {"axis": 1}, 1),
        (((0, 3), (3, 6)), 18, {"axis": 1, "num_outputs": 2}, 1),
        (((0, 2), (2, 6)), 17, {"axis": 1}, 2),
        (((0, 2), (2, 6)), 18, {"axis": 1}, 2),
        (((0, 1), (1, 2), (2, 2**63 - 1)), 13, {"axis": 1}, 2),
        (((-2, 6), (0, -2)), 13, {"axis": 1}, 2),
        (((0, 3), (3, 6)), 11, {"axis": 1}, 1),
        (((0, 2), (2, 6)), 11, {"axis": 1, "split": [2, 4]}, 1),
    ],
)
def test_split_of_slices(
    bounds: tuple[tuple[int, int], ...], opset: int, attributes: dict[str, Any], inputs: int
) -> None:
    outcome = fuse(slices(*bounds), opset=opset)
    assert outcome.operators == ["Split", *["Neg"] * len(bounds)]
    node = outcome.after.graph.node[0]
    assert {a.name: list(a.ints) or a.i for a in node.attribute} == attributes
    assert len(node.input) == inputs
    assert outcome.agrees({"x": numbers(2, 6, 4)})


def test_slices_that_are_outputs_and_of_a_value_in_the_middle() -> None:
    outcome = fuse(
        "(float[2, 6] x) => (float[2, 2] a, float[2, 4] b, float[2, 6] c) <int64[1] z = {0}, "
        "int64[1] one = {1}, int64[1] two = {2}, int64[1] six = {6}> { r = Relu (x) "
        "c = Neg (r) b = Slice (r, two, six, one) a = Slice (r, z, two, one) }"
    )
    assert outcome.operators == ["Relu", "Split", "Neg"]
    assert outcome.agrees({"x": numbers(2, 6)})


def test_slices_in_old_models() -> None:
    outcome = fuse(
        "(float[2, 6] x) => (float[2, 2] a, float[2, 4] b) "
        "{ a = Slice <starts = [0], ends = [2], axes = [1]> (x) "
        "b = Slice <starts = [2], ends = [6], axes = [1]> (x) }",
        opset=9,
        ir_version=3,
    )
    assert outcome.operators == ["Split"]
    assert outcome.agrees({"x": numbers(2, 6)})


@pytest.mark.parametrize(
    ("bounds", "axis", "steps"),
    [
        (((0, 2), (3, 6)), 1, "one"),  # a gap
        (((0, 3), (2, 6)), 1, "one"),  # twice
        (((0, 3), (3, 5)), 1, "one"),  # not to the end
        (((1, 3), (3, 6)), 1, "one"),
        (((0, 6),), 1, "one"),  # all of it is no part
        (((0, 6), (6, 6)), 1, "one"),  # nothing is no part
        (((0, 3), (3, 6)), 1, "two"),
        (((0, 1), (1, 2)), 0, "one"),  # of a size that is not known
    ],
)
def test_slices_that_are_no_split(
    bounds: tuple[tuple[int, int], ...], axis: int, steps: str
) -> None:
    outcome = fuse(slices(*bounds, axis=axis, steps=steps))
    assert "Split" not in outcome.operators


def test_slices_with_bounds_that_are_computed() -> None:
    outcome = fuse(
        "(float[2, 6] x, int64[1] k) => (float[2, a] y, float[2, b] z) <int64[1] o = {0}, "
        "int64[1] six = {6}, int64[1] one = {1}> "
        "{ y = Slice (x, o, k, one) z = Slice (x, k, six, one) }"
    )
    assert outcome.operators == ["Slice", "Slice"]


@pytest.mark.parametrize(
    ("selection", "squeeze"),
    [
        ("Gather <axis = 1> (x, i)", "Squeeze (s, one)"),
        ("Gather <axis = 1> (x, i)", "Reshape (s, shape)"),
        ("Slice (x, i, three, one)", "Squeeze (s, one)"),
        ("Slice (x, i, three, one)", "Reshape (s, shape)"),
        ("Slice (x, minus, big, one)", "Squeeze (s, one)"),
    ],
)
def test_one_element_along_an_axis(selection: str, squeeze: str) -> None:
    outcome = fuse(
        "(float[n, 5, 3] x) => (float[n, 3] y) <int64[1] i = {2}, int64[1] three = {3}, "
        "int64[1] one = {1}, int64[1] minus = {-1}, int64[1] big = {9223372036854775807}, "
        f"int64[2] shape = {{-1, 3}}> {{ s = {selection} y = {squeeze} }}"
    )
    assert outcome.operators == ["Gather"]
    assert outcome.agrees({"x": numbers(2, 5, 3)})


@pytest.mark.parametrize(
    ("selection", "squeeze"),
    [
        ("Slice (x, i, four, one)", "Reshape (s, wide)"),  # two elements
        ("Slice (x, minus, zero, one)", "Reshape (s, wide)"),  # none
        ("Gather <axis = 1> (x, i)", "Squeeze (s, zero)"),  # another axis
    ],
)
def test_more_or_less_than_one_element(selection: str, squeeze: str) -> None:
    outcome = fuse(
        "(float[1, 5, 3] x) => (float[a, b] y) <int64[1] i = {2}, int64[1] four = {4}, "
        "int64[1] one = {1}, int64[1] minus = {-1}, int64[1] zero = {0}, "
        f"int64[2] wide = {{-1, 3}}> {{ s = {selection} y = {squeeze} }}"
    )
    assert len(outcome.operators) == 2


SPLIT = "a, b, c = Split <axis = 1> (x) "
SLICES = "a = Slice (x, o0, o1, o1) b = Slice (x, o1, o2, o1) c = Slice (x, o2, o3, o1) "


@pytest.mark.parametrize("parts", [SPLIT, SLICES])
@pytest.mark.parametrize(
    ("last", "operators"),
    [
        ("z = Squeeze (c, o1)", ["Gather"] * 3),
        ("z = Identity (w)", ["Gather"] * 2),  # the last is not used
        ("z = Neg (c)", None),
    ],
)
def test_parts_that_are_all_squeezed(parts: str, last: str, operators: list[str] | None) -> None:
    outcome = fuse(
        "(float[n, 3, 4] x, float[n, 4] w) => (float[n, 4] u, float[n, 4] v, "
        f"float[n, {'m, 4' if 'Neg' in last else '4'}] z) <int64[1] o0 = {{0}}, "
        "int64[1] o1 = {1}, int64[1] o2 = {2}, int64[1] o3 = {3}> "
        f"{{ {parts} u = Squeeze (a, o1) v = Squeeze (b, o1) {last} }}"
    )
    if operators is None:
        assert outcome.operators[0] == "Split"
    else:
        assert [op for op in outcome.operators if op not in ("Identity", "Slice")] == operators
    assert outcome.agrees({"x": numbers(2, 3, 4), "w": numbers(2, 4)})


@pytest.mark.parametrize("axis", [1, -2])
@pytest.mark.parametrize(("index", "dtype"), [(2, np.int64), (-1, np.int32)])
def test_unsqueeze_of_gather(axis: int, index: int, dtype: Any) -> None:
    outcome = fuse(
        "(float[n, 5, 3] x) => (float[n, 1, 3] y) <int64[1] one = {1}> "
        f"{{ s = Gather <axis = {axis}> (x, i) y = Unsqueeze (s, one) }}",
        edit=held("i", np.array(index, dtype)),
    )
    assert outcome.operators == ["Gather"]
    assert outcome.agrees({"x": numbers(2, 5, 3)})


@pytest.mark.parametrize(
    ("opset", "part", "start", "end"),
    [
        (15, "Gather (s, one)", 1, 2),
        (15, "Gather (s, last)", 2, 4),
        (15, "Slice (s, one, three)", 1, 3),
        (15, "Slice (s, minus, big)", 3, 4),
    ],
)
def test_part_of_shape(opset: int, part: str, start: int, end: int) -> None:
    outcome = fuse(
        "(float[n, 3, h, w] x) => (int64[k] y) <int64[1] one = {1}, int64[1] three = {3}, "
        "int64[2] last = {-2, -1}, int64[1] minus = {-1}, int64[1] big = {9223372036854775807}> "
        f"{{ s = Shape (x) y = {part} }}",
        opset=opset,
    )
    assert outcome.operators == ["Shape"]
    assert {a.name: a.i for a in outcome.after.graph.node[0].attribute} == {
        "start": start,
        "end": end,
    }
    assert outcome.agrees({"x": numbers(2, 3, 4, 5)})


@pytest.mark.parametrize(
    ("opset", "shape", "part"),
    [
        (14, "Shape (x)", "Gather (s, one)"),
        (15, "Shape (x)", "Gather (s, swapped)"),
        (15, "Shape (x)", "Slice (s, four, four)"),  # nothing
    ],
)
def test_no_part_of_a_shape(opset: int, shape: str, part: str) -> None:
    outcome = fuse(
        "(float[n, 3, h, w] x) => (int64[k] y) <int64[1] one = {1}, int64[1] four = {4}, "
        f"int64[2] swapped = {{3, 2}}> {{ s = {shape} y = {part} }}",
        opset=opset,
    )
    assert len(outcome.operators) == 2


def test_part_of_a_part_of_a_shape() -> None:
    outcome = fuse(
        "(float[n, 3, h, w] x) => (int64[1] y) <int64[1] one = {1}> "
        "{ s = Shape <start = -3, end = -1> (x) y = Gather (s, one) }"
    )
    assert [(a.name, a.i) for a in outcome.after.graph.node[0].attribute] == [
        ("start", 2),
        ("end", 3),
    ]
    assert outcome.agrees({"x": numbers(2, 3, 4, 5)})


@pytest.mark.parametrize("repeat", ["Expand (z, s)", "Tile (z, t)"])
@pytest.mark.parametrize("operator", ["Add (x, e)", "Sub (e, x)", "Where (b, x, e)", "Less (e, x)"])
def test_broadcasting_needs_no_expand(repeat: str, operator: str) -> None:
    result = "bool" if "Less" in operator else "float"
    outcome = fuse(
        f"(float[n, 3, 4] x, float[1, 4] z, bool[3, 1] b) => ({result}[n, 3, 4] y) "
        "<int64[2] s = {3, 4}, int64[2] t = {3, 1}> "
        f"{{ e = {repeat} y = {operator} }}"
    )
    assert outcome.operators == [operator.split()[0]]
    mask = np.array([[True], [False], [True]])
    assert outcome.agrees({"x": numbers(2, 3, 4), "z": numbers(1, 4), "b": mask})


@pytest.mark.parametrize(
    ("repeat", "reason"),
    [
        ("Expand (z, s)", "the result is larger than the other operand"),
        ("Expand (z, k)", "what the shape says is not known"),
        ("Tile (x, t)", "more than broadcasting does"),
    ],
)
def test_an_expand_that_is_needed(repeat: str, reason: str) -> None:
    outcome = fuse(
        "(float[1, 4] x, float[1, 4] z, int64[2] k) => (float[a, b] y) "
        "<int64[2] s = {3, 4}, int64[2] t = {3, 1}, int64[2] u = {1, 2}> "
        f"{{ e = {repeat} y = Add (x, e) }}"
    )
    assert len(outcome.operators) == 2, reason


PLACES = 'mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"'


@pytest.mark.parametrize(
    ("resize", "gate", "operators"),
    [
        (PLACES, "n, 3, 1, 1", ["Mul"]),
        (PLACES, "n, 3, 1, 5", ["Mul"]),
        (PLACES, "n, 3, 2, 1", ["Resize", "Mul"]),  # which is no broadcasting
        (PLACES.replace("nearest", "linear", 1), "n, 3, 1, 1", ["Resize", "Mul"]),
        (PLACES.replace("floor", "ceil"), "n, 3, 1, 1", ["Resize", "Mul"]),
    ],
)
def test_a_nearest_resize_of_one_pixel(resize: str, gate: str, operators: list[str]) -> None:
    scales = [1, 1, *(n // int(d) for n, d in zip((4, 5), gate.split(", ")[2:], strict=True))]
    outcome = fuse(
        f"(float[n, 3, 4, 5] x, float[{gate}] g) => (float[n, 3, 4, 5] y) "
        f"<float[4] f = {{{', '.join(map(str, scales))}}}> "
        f"{{ r = Resize <{resize}> (g, , f) y = Mul (x, r) }}"
    )
    assert outcome.operators == operators
    shape = [2, 3, *map(int, gate.split(", ")[2:])]
    assert outcome.agrees({"x": numbers(2, 3, 4, 5), "g": numbers(*shape)})


@pytest.mark.parametrize(
    ("resize", "operators"),
    [
        ("(g, , by)", ["Resize", "Mul"]),  # 5 columns, of which the last is not that of `g`
        ("(g, , , to)", ["Mul"]),
    ],
)
def test_a_nearest_resize_of_a_row(resize: str, operators: list[str]) -> None:
    outcome = fuse(
        "(float[2, 3, 4, 5] x, float[2, 3, 1, 5] g) => (float[2, 3, 4, 5] y) "
        "<float[4] by = {1, 1, 4, 1.1}, int64[4] to = {2, 3, 4, 5}> "
        f"{{ r = Resize <{PLACES}> {resize} y = Mul (x, r) }}"
    )
    assert outcome.operators == operators
    assert outcome.agrees({"x": numbers(2, 3, 4, 5), "g": numbers(2, 3, 1, 5)})


def test_indices_need_no_expand() -> None:
    outcome = fuse(
        "(int64[n, 5] ids, int64[1, 5] types) => (float[n, 5, 3] y) "
        "{ s = Shape (ids) e = Expand (types, s) a = Gather (table, ids) b = Gather (table, e) "
        "y = Add (a, b) }",
        edit=held("table", numbers(7, 3)),
    )
    assert outcome.operators == ["Gather", "Gather", "Add"]
    rng = np.random.default_rng(3)
    assert outcome.agrees({"ids": rng.integers(0, 7, (2, 5)), "types": rng.integers(0, 7, (1, 5))})


@pytest.mark.parametrize("operator", ["Add (r, c)", "Sub (c, r)"])
@pytest.mark.parametrize("shape", [(1, 4, 1, 5), (1, 1, 4, 1, 5), (5,)])
def test_a_constant_between_reshapes(operator: str, shape: tuple[int, ...]) -> None:
    outcome = fuse(
        "(float[4, 3, 5] x) => (float[4, 3, 5] y) <int64[5] a = {1, 1, 4, 3, 5}, "
        f"int64[3] b = {{-1, 3, 5}}> {{ r = Reshape (x, a) o = {operator} y = Reshape (o, b) }}",
        edit=held("c", numbers(*shape)),
    )
    assert outcome.operators == [operator.split()[0]]
    assert outcome.agrees({"x": numbers(4, 3, 5)})


@pytest.mark.parametrize("shape", [(2, 4, 1, 5), (1, 3, 5)])
def test_a_constant_that_does_more_than_reshapes_undo(shape: tuple[int, ...]) -> None:
    outcome = fuse(
        "(float[4, 3, 5] x) => (float[a, b, c] y) <int64[4] s = {4, 1, 3, 5}, "
        "int64[3] t = {-1, 3, 5}> { r = Reshape (x, s) o = Add (r, k) y = Reshape (o, t) }",
        edit=held("k", numbers(*shape)),
    )
    expected = ["Reshape", "Add", "Reshape"] if shape[0] == 2 else ["Add"]
    assert outcome.operators == expected
    assert shape[0] == 2 or outcome.agrees({"x": numbers(4, 3, 5)})


def lstm(state: str, held_values: str = "") -> str:
    return (
        "(float[s, n, 3] x) => (float[s, 1, n, 2] y, float[1, n, 2] h) "
        f"<int64[1] one = {{1}}, int64[1] two = {{2}}{held_values}> "
        "{ n = Shape <start = 1, end = 2> (x) d = Concat <axis = 0> (one, n, two) "
        f"{state} y, h = LSTM <hidden_size = 2> (x, w, r, , , h0, c0) }}"
    )


WEIGHTS = both(held("w", numbers(1, 8, 3)), held("r", numbers(1, 8, 2)))
ZEROS = "z = ConstantOfShape <value = float[1] {%s}> (d) "


@pytest.mark.parametrize(
    "state",
    [
        ZEROS % "0.0" + "h0 = Identity (z) c0 = Transpose <perm = [0, 1, 2]> (z)",
        "h0 = ConstantOfShape (d) c0 = Expand (f, d)",
    ],
)
def test_initial_states_of_zeros(state: str) -> None:
    outcome = fuse(lstm(state, ", float f = {0}"), edit=WEIGHTS)
    assert outcome.operators == ["LSTM"]
    assert not any(outcome.after.graph.node[0].input[5:])
    assert outcome.agrees({"x": numbers(4, 2, 3)})


@pytest.mark.parametrize("fill", ["0.5", "-0.0"])
def test_initial_states_of_other_numbers(fill: str) -> None:
    outcome = fuse(
        lstm(f"{ZEROS % fill} h0 = Identity (z) c0 = Identity (z)"),
        edit=WEIGHTS,
    )
    assert outcome.operators[-1] == "LSTM"
    assert all(outcome.after.graph.node[-1].input[5:])
