"""push-transposes: where Transposes stay; branches, functions, old models."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from pushing import FIRST, LAST, X, numbers, push, transposes
from rewriting import apply, both, held

from graphopt_passes.push_transposes import PushTransposes


@pytest.mark.parametrize(
    "nodes",
    [
        # nothing to meet
        f"t = Transpose {LAST} (x) r = Relu (t) y = Add (r, vector)",
        f"r = Relu (x) t = Transpose {LAST} (r) y = Softmax (t)",
        # sums that are added up in another order may be rounded otherwise
        f"t = Transpose {LAST} (x) s = ReduceMean <axes = [1, 2]> (t) y = Transpose {FIRST} (s)",
        # which zero is the greatest depends on which comes first
        f"t = Transpose {LAST} (x) s = ReduceMax <axes = [1, 2]> (t) y = Transpose {FIRST} (s)",
        # operators that are not known to do the same in another layout
        f"t = Transpose {LAST} (x) s = CumSum (t, at1) y = Transpose {FIRST} (s)",
        f"t = Transpose {LAST} (x) s = Trilu (t) y = Transpose {FIRST} (s)",
        f"t = Transpose {LAST} (x) s = MatMul (t, square) y = Transpose {FIRST} (s)",
    ],
)
def test_nothing_to_gain(nodes: str) -> None:
    as_x = held("as_x", np.array([2, 5, 3, 4], np.int64))
    outcome = push(nodes, edit=both(as_x, held("square", numbers(5, 5))))
    assert not outcome.rewrites
    assert outcome.agrees(X)


def test_softmax_of_old_takes_all_axes_from_one_on() -> None:
    outcome = push(
        f"t = Transpose {LAST} (x) s = Softmax <axis = 2> (t) y = Transpose {FIRST} (s)", opset=11
    )
    assert outcome.operators == ["Transpose", "Softmax", "Transpose"]


@pytest.mark.parametrize("node", ["Pad (t, p)", "Add (t, w)", "Slice (t, i1, e, a)", "Tile (t, r)"])
def test_parameters_that_are_not_known(node: str) -> None:
    outcome = push(
        f"t = Transpose {LAST} (x) s = {node} y = Transpose {FIRST} (s)",
        inputs="float[2, 5, 3, 4] x, int64[1] e, int64[1] a, int64[8] p, int64[4] r, float[5] w",
    )
    assert not outcome.rewrites
    lists = {"e": [2], "a": [3], "p": [1] * 8, "r": [1, 1, 1, 2]}
    feed = {name: np.array(items) for name, items in lists.items()}
    assert outcome.agrees(X | feed | {"w": numbers(5)})


def test_bounds_of_a_slice_need_not_be_known() -> None:
    outcome = push(
        f"t = Transpose {LAST} (x) s = Slice (t, i1, e, i2) y = Transpose {FIRST} (s)",
        inputs="float[2, 5, 3, 4] x, int64[1] e",
    )
    assert outcome.operators == ["Slice"]
    assert outcome.agrees(X | {"e": np.array([3])})


def test_a_large_constant_that_others_use_too() -> None:
    big = held("big", numbers(1, 64, 64, 5))
    body = f"t = Transpose {LAST} (x) s = Add (t, big) y = Transpose {FIRST} (s) "
    more = {"inputs": "float[1, 5, 64, 64] x", "edit": big}
    feed = {"x": numbers(1, 5, 64, 64)}
    alone = push(body, **more)
    assert alone.operators == ["Add"]
    assert alone.agrees(feed)
    shared = push(
        body + "z = Exp (big)", outputs="float[a, b, c, d] y, float[e, f, g, h] z", **more
    )
    assert not shared.rewrites
    assert shared.agrees(feed)


def test_a_value_as_data_and_as_parameter() -> None:
    """The second Transpose makes the limit of a Clip, which has no layout."""
    outcome = push(
        "t = Transpose <perm = [1, 0]> (x) r = Relu (t) s = Squeeze (r) c = Clip (r, s) "
        "y = Transpose <perm = [1, 0]> (c)",
        inputs="float[1, 1] x",
        outputs="float[1, 1] y",
    )
    assert transposes(outcome) <= 1
    assert outcome.agrees({"x": numbers(1, 1)})


def test_inside_a_branch_and_for_a_branch() -> None:
    """A branch uses a value of the region, and has a region of its own."""
    outcome = push(
        f"t = Transpose {LAST} (x) r = Relu (t) u = Transpose {FIRST} (r) v = Exp (u) "
        "y = If (k) <then_branch = then () => (float[a, b, c, d] p) { p = Neg (r) }, "
        "else_branch = other () => (float[e, f, g, h] q) "
        f"{{ m = Transpose {LAST} (v) n = Neg (m) o = Transpose {FIRST} (n) "
        f"q = Transpose {LAST} (o) }}>",
        inputs="float[2, 5, 3, 4] x, bool k",
    )  # fmt: skip
    assert transposes(outcome) == 2
    for choice in (True, False):
        assert outcome.agrees(X | {"k": np.array(choice)})


def test_in_a_function() -> None:
    """Nothing is known there but what Transposes and constants say."""
    source = f"""
        <ir_version: 8, opset_import: ["" : 17, "f" : 1]>
        g (float[2, 5, 3, 4] x) => (float[a, b, c, d] y) {{ y = f.act (x) }}
        <opset_import: ["" : 17], domain: "f">
        act (x) => (y) {{
            k = Constant <value_floats = [1.0, 2.0, 3.0, 4.0, 5.0]> ()
            t = Transpose {LAST} (x)
            a = Mul (t, k)
            r = Relu (a)
            y = Transpose {FIRST} (r)
        }}
    """
    outcome = apply(PushTransposes(), source)
    assert transposes(outcome) == 0
    assert outcome.agrees(X)


def test_old_models_get_constants_as_nodes() -> None:
    """Below IR version 4, an initializer would be an input too."""
    outcome = apply(
        PushTransposes(),
        '<ir_version: 3, opset_import: ["" : 8]> g (float[2, 5, 3, 4] x) => (float[a, b, c, d] y) '
        f"{{ k = Constant <value = float[5] {{1, 2, 3, 4, 5}}> () t = Transpose {LAST} (x) "
        f"a = Mul (t, k) y = Transpose {FIRST} (a) }}",
    )
    assert outcome.operators == ["Constant", "Mul"]
    assert not outcome.after.graph.initializer
    assert outcome.agrees(X)


def test_what_a_node_says_of_itself_is_kept() -> None:
    def describe(model: onnx.ModelProto) -> None:
        node = model.graph.node[1]
        node.doc_string = "activation"
        node.metadata_props.add(key="layer", value="stem")

    outcome = push(
        f"t = Transpose {LAST} (x) o = Relu (t) y = Transpose {FIRST} (o)", edit=describe
    )
    (node,) = outcome.after.graph.node
    assert node.doc_string == "activation"
    assert [(entry.key, entry.value) for entry in node.metadata_props] == [("layer", "stem")]


@pytest.mark.parametrize("sizes", [(0, 5, 3, 4), (1, 5, 1, 1), (2, 5, 0, 7)])
def test_sizes_are_not_known(sizes: tuple[int, ...]) -> None:
    outcome = push(
        f"t = Transpose {LAST} (x) a = Add (t, vector) b = Concat <axis = 1> (a, t) "
        f"y = Transpose {FIRST} (b)",
        inputs="float[n, 5, h, w] x",
    )
    assert outcome.operators == ["Add", "Concat"]
    assert outcome.agrees({"x": numbers(*sizes)})
