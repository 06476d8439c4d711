"""collapse-chains: Reshape, Flatten, Squeeze, Unsqueeze and Transpose, one behind the other."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from chains import attribute, collapse, constant_input, constants, numbers
from rewriting import apply

from graphopt_passes.collapse_chains import CollapseChains


VIEWS = constants(
    i=[6, 2, 2], j=[4, 6], z=[0], o=[1], copy=[0, -1], column=[24, 1], last=[-1], two=[0, 12],
    three=[-1, 4, 3],
)  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "chain", "target"),
    [
        ([2, 3, 4], "a = Reshape (x, i) y = Reshape (a, j)", [4, 6]),
        ([2, 3, 4], "a = Flatten (x) y = Reshape (a, j)", [4, 6]),
        ([2, 3, 4], "a = Reshape (x, j) y = Unsqueeze (a, z)", [1, 4, 6]),
        ([2, 3, 4], "a = Unsqueeze (x, z) y = Flatten <axis = 2> (a)", [2, 12]),
        ([2, 1, 12], "a = Squeeze (x, o) y = Reshape (a, j)", [4, 6]),
        ([2, 1, 12], "a = Squeeze (x, o) y = Unsqueeze (a, z)", [1, 2, 12]),
        ([2, 3, 4], "a = Reshape (x, i) b = Flatten (a) y = Unsqueeze (b, z)", [1, 6, 4]),
        # 0 copies a dimension of its own input
        ([2, 3, 4], "a = Reshape (x, i) y = Reshape (a, copy)", [6, 4]),
        # a Transpose that only moves a dimension of size 1 is a view
        ([1, 24], "a = Transpose (x) y = Reshape (a, j)", [4, 6]),
        ([24], "a = Reshape (x, column) y = Transpose (a)", [1, 24]),
    ],
)
def test_one_reshape_is_left(shape: list[int], chain: str, target: list[int]) -> None:
    dims, result = (", ".join(map(str, s)) for s in (shape, target))
    outcome = collapse(f"(float[{dims}] x) => (float[{result}] y) <{VIEWS}> {{ {chain} }}")
    assert outcome.operators == ["Reshape"]
    assert constant_input(outcome, 0, 1) == target
    assert outcome.agrees({"x": numbers(*shape)})


@pytest.mark.parametrize(
    ("dims", "chain", "target"),
    [
        ("N, 3, 4", "a = Reshape (x, two) y = Reshape (a, three)", [-1, 4, 3]),
        ("N, 3, 4", "a = Flatten (x) y = Unsqueeze (a, o)", [0, 1, 12]),
        ("N, 1, M", "a = Squeeze (x, o) y = Unsqueeze (a, last)", None),
        ("N, 1, 4", "a = Squeeze (x, o) y = Unsqueeze (a, last)", [0, 4, 1]),
        ("N, M, 4", "a = Unsqueeze (x, z) y = Flatten <axis = 3> (a)", [-1, 4]),
    ],
)
@pytest.mark.parametrize("size", [0, 1, 2])
def test_dimensions_that_are_not_known(
    dims: str, chain: str, target: list[int] | None, size: int
) -> None:
    result = ", ".join("ABC"[: 2 if target is not None and len(target) == 2 else 3])
    outcome = collapse(f"(float[{dims}] x) => (float[{result}] y) <{VIEWS}> {{ {chain} }}")
    if target is None:
        assert outcome.operators == ["Squeeze", "Unsqueeze"]
    else:
        assert outcome.operators == ["Reshape"]
        assert constant_input(outcome, 0, 1) == target
    sizes = {"N": size, "M": 3, "1": 1, "3": 3, "4": 4}
    assert outcome.agrees({"x": numbers(*(sizes[dim] for dim in dims.split(", ")))})


def test_a_transpose_that_moves_elements_is_no_view() -> None:
    outcome = collapse(
        f"(float[2, 12] x) => (float[4, 6] y) <{VIEWS}> {{ a = Transpose (x) y = Reshape (a, j) }}"
    )
    assert outcome.operators == ["Transpose", "Reshape"]
    assert outcome.agrees({"x": numbers(2, 12)})


def test_an_empty_batch_stays_legal() -> None:
    """[0, -1] fails where the batch is empty; Flatten and Unsqueeze do not."""
    outcome = collapse(
        f"(float[N, M, 2] x) => (float[A, 1, B] y) <{constants(o=[1])}> "
        "{ a = Flatten (x) y = Unsqueeze (a, o) }"
    )
    assert outcome.operators == ["Flatten", "Unsqueeze"]
    assert "no constant shape" in outcome.reasons
    assert outcome.agrees({"x": np.zeros((0, 3, 2), np.float32)})


def test_a_minus_one_may_stay_where_it_failed_before() -> None:
    outcome = collapse(
        f"(float[N, M, 2] x) => (float[A, 1, B] y) <{constants(o=[1], s=[0, -1])}> "
        "{ a = Reshape (x, s) y = Unsqueeze (a, o) }"
    )
    assert outcome.operators == ["Reshape"]
    assert constant_input(outcome, 0, 1) == [0, 1, -1]
    assert outcome.agrees({"x": numbers(3, 5, 2)})


@pytest.mark.parametrize(
    "chain",
    [
        "a = Unsqueeze (x, o) y = Squeeze (a, o)",
        "a = Unsqueeze (x, o) y = Squeeze (a, neg)",
        "a = Reshape (x, s) y = Reshape (a, back)",
        "a = Transpose <perm = [1, 2, 0]> (x) y = Transpose <perm = [2, 0, 1]> (a)",
        "a = Transpose (x) y = Transpose (a)",
        "a = Unsqueeze (x, o) b = Transpose <perm = [0, 2, 1, 3]> (a) y = Squeeze (b, two)",
    ],
)
def test_what_undoes_itself(chain: str) -> None:
    """Nothing but an Identity from the input to the output is left."""
    lists = constants(o=[1], neg=[-3], two=[2], s=[4, 6], back=[2, 3, 4])
    outcome = collapse(f"(float[2, 3, 4] x) => (float[2, 3, 4] y) <{lists}> {{ {chain} }}")
    assert outcome.operators == ["Identity"]
    assert outcome.agrees({"x": numbers(2, 3, 4)})


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize(
    ("first", "second", "left", "axes"),
    [
        (("Unsqueeze", [0, 2]), ("Unsqueeze", [1, 5]), "Unsqueeze", [0, 1, 3, 5]),
        (("Unsqueeze", [-1]), ("Unsqueeze", [-3]), "Unsqueeze", [1, 3]),
        (("Unsqueeze", [0, 2]), ("Squeeze", [0]), "Unsqueeze", [1]),
    ],
)
def test_axes_of_both(
    opset: int,
    first: tuple[str, list[int]],
    second: tuple[str, list[int]],
    left: str,
    axes: list[int],
) -> None:
    """Squeezes and Unsqueezes of one another are one of them, also of unknown dimensions."""
    if opset < 13:
        chain = "".join(
            f"{to} = {op} <axes = {axes}> ({of}) "
            for (op, axes), of, to in ((first, "x", "a"), (second, "a", "y"))
        )
        lists = ""
    else:
        chain = f"a = {first[0]} (x, p) y = {second[0]} (a, q)"
        lists = f"<{constants(p=first[1], q=second[1])}>"
    rank = 2 + sum(len(a) if op == "Unsqueeze" else -len(a) for op, a in (first, second))
    outcome = collapse(
        f"(float[N, M] x) => (float[{', '.join('ABCDEF'[:rank])}] y) {lists} {{ {chain} }}",
        opset=opset,
    )
    assert outcome.operators == [left]
    found = constant_input(outcome, 0, 1) if opset >= 13 else attribute(outcome, 0, "axes")
    assert found == axes
    assert outcome.agrees({"x": numbers(2, 3)})


def test_squeezes_of_squeezes() -> None:
    outcome = collapse(
        f"(float[1, N, 1, 1] x) => (float[A] y) <{constants(p=[2], q=[0, -1])}> "
        "{ a = Squeeze (x, p) y = Squeeze (a, q) }"
    )
    assert outcome.operators == ["Squeeze"]
    assert constant_input(outcome, 0, 1) == [0, 2, 3]
    assert outcome.agrees({"x": numbers(1, 5, 1, 1)})


def test_a_shape_from_an_input() -> None:
    """It may hold zeros, which copy from what is reshaped: only with allowzero it is certain."""
    graph = (
        "(float[2, 3, 4] x, int64[2] s) => (float[A, B] y) <int64[2] i = {{6, 4}}> "
        "{{ a = Reshape (x, i) y = Reshape {} (a, s) }}"
    )
    feed = {"x": numbers(2, 3, 4), "s": np.array([0, 4], np.int64)}
    outcome = collapse(graph.format(""))
    assert outcome.operators == ["Reshape", "Reshape"]
    assert outcome.agrees(feed)
    outcome = collapse(graph.format("<allowzero = 1>"))
    assert outcome.operators == ["Reshape"]
    assert outcome.agrees(feed | {"s": np.array([4, 6], np.int64)})


def test_allowzero_belongs_to_one_reshape() -> None:
    outcome = collapse(
        f"(float[0, 3] x) => (float[0, 7] y) <{constants(s=[0, 5], t=[0, 7])}> "
        "{ a = Reshape <allowzero = 1> (x, s) y = Reshape (a, t) }"
    )
    assert outcome.operators == ["Reshape"]
    assert outcome.agrees({"x": np.zeros((0, 3), np.float32)})


@pytest.mark.parametrize(
    ("outputs", "more"), [("float[6, 4] a, float[4, 6] y", ""), ("float[4, 6] y, float[6, 4] r", "r = Relu (a)")]
)  # fmt: skip
def test_what_others_use_stays(outputs: str, more: str) -> None:
    outcome = collapse(
        f"(float[2, 3, 4] x) => ({outputs}) <{constants(i=[6, 4], j=[4, 6])}> "
        f"{{ a = Reshape (x, i) y = Reshape (a, j) {more} }}"
    )
    assert not outcome.rewrites
    assert outcome.agrees({"x": numbers(2, 3, 4)})


def test_all_users_are_views() -> None:
    outcome = collapse(
        f"(float[2, 3, 4] x) => (float[4, 6] y, float[1, 6, 4] z) "
        f"<{constants(i=[6, 4], j=[4, 6], o=[0])}> "
        "{ a = Reshape (x, i) y = Reshape (a, j) z = Unsqueeze (a, o) }"
    )
    assert outcome.operators == ["Reshape", "Reshape"]
    assert outcome.agrees({"x": numbers(2, 3, 4)})


@pytest.mark.parametrize(
    ("first", "second", "perm"),
    [
        ("<perm = [1, 0, 2]>", "<perm = [1, 2, 0]>", [0, 2, 1]),
        ("", "<perm = [1, 2, 0]>", [1, 0, 2]),
        ("<perm = [1, 2, 0]>", "", [0, 2, 1]),
    ],
)
def test_transposes(first: str, second: str, perm: list[int]) -> None:
    outcome = collapse(
        f"(float[N, 3, M] x) => (float[A, B, C] y) "
        f"{{ a = Transpose {first} (x) y = Transpose {second} (a) }}"
    )
    assert outcome.operators == ["Transpose"]
    assert attribute(outcome, 0, "perm") == perm
    assert outcome.agrees({"x": numbers(2, 3, 4)})


def test_a_transpose_that_others_use() -> None:
    outcome = collapse(
        "(float[2, 3] x) => (float[2, 3] y, float[3, 2] z) "
        "{ a = Transpose (x) y = Transpose (a) z = Relu (a) }"
    )
    assert sorted(outcome.operators) == ["Identity", "Relu", "Transpose"]
    assert outcome.agrees({"x": numbers(2, 3)})


@pytest.mark.parametrize(
    ("shape", "chain", "result"),
    [
        # swin: the bias of relative positions
        ([24, 3], "a = Reshape (x, s) b = Transpose <perm = [2, 0, 1]> (a) y = Unsqueeze (b, z)",
         [1, 3, 4, 6]),
        ([4, 18], "a = Reshape (x, w) b = Transpose <perm = [2, 1, 0]> (a) y = Squeeze (b, o)",
         [18, 4]),
        ([24, 3], "a = Unsqueeze (x, z) b = Transpose <perm = [2, 1, 0]> (a) y = Reshape (b, u)",
         [3, 4, 6]),
        ([4, 1, 18], "a = Squeeze (x, o) b = Transpose (a) y = Reshape (b, v)", [3, 6, 4]),
    ],
)  # fmt: skip
def test_across_a_transpose(shape: list[int], chain: str, result: list[int]) -> None:
    """A dimension of size 1 is put in or taken out by the view on the other side."""
    lists = constants(s=[4, 6, 3], w=[4, 1, 18], z=[0], o=[1], u=[3, 4, 6], v=[3, 6, 4])
    dims, after = (", ".join(map(str, s)) for s in (shape, result))
    outcome = collapse(f"(float[{dims}] x) => (float[{after}] y) <{lists}> {{ {chain} }}")
    assert sorted(outcome.operators) == ["Reshape", "Transpose"]
    assert outcome.agrees({"x": numbers(*shape)})


def test_in_a_function_axes_are_all_that_is_known() -> None:
    source = """
        <ir_version: 8, opset_import: ["" : 17, "f" : 1]>
        g (float[2, 3] x) => (float[2, 3] y) { y = f.there_and_back (x) }
        <opset_import: ["" : 17], domain: "f">
        there_and_back (x) => (y) {
            i = Constant <value_ints = [0, 3]> ()
            a = Unsqueeze (x, i)
            b = Squeeze (a, i)
            c = Transpose (b)
            y = Transpose (c)
        }
    """
    outcome = apply(CollapseChains(), source)
    assert not outcome.all_operators.keys() & {"Unsqueeze", "Squeeze", "Transpose"}
    assert outcome.agrees({"x": numbers(2, 3)})


def test_views_of_the_outer_graph_stay_for_a_branch() -> None:
    outcome = collapse(
        f"(float[2, 3] x, bool c) => (float[3, 2] y) <{constants(s=[6], t=[3, 2])}> "
        "{ a = Reshape (x, s) y = If (c) <"
        "then_branch = then () => (float[3, 2] p) { p = Reshape (a, t) }, "
        "else_branch = other () => (float[3, 2] q) { q = Reshape (x, t) }> }"
    )
    assert outcome.all_operators["Reshape"] == 3
    for condition in (True, False):
        assert outcome.agrees({"x": numbers(2, 3), "c": np.array(condition)})


def test_a_shape_that_a_caller_may_override() -> None:
    def overridable(model: onnx.ModelProto) -> None:
        value = onnx.helper.make_tensor_value_info("s", onnx.TensorProto.INT64, [2])
        model.graph.input.append(value)

    outcome = apply(
        CollapseChains(),
        '<ir_version: 8, opset_import: ["" : 17]> g (float[2, 3] x) => (float[A, B] y) '
        f"<{constants(s=[3, 2], t=[6])}> {{ a = Reshape (x, t) y = Reshape (a, s) }}",
        overridable,
    )
    assert outcome.operators == ["Reshape", "Reshape"]
