"""eliminate-noops: operators that move elements about, where none moves."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from rewriting import Outcome, apply, held

from graphopt_passes.eliminate_noops import EliminateNoops

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 4)).astype(np.float32)


def eliminate(
    body: str,
    *,
    opset: int = 18,
    dims: str = "2, 3, 4",
    out: str = "A, B, C",
    **constants: np.ndarray,
) -> Outcome:
    """A model whose `r` is -x, and whose output y is made of it."""

    def edit(model: onnx.ModelProto) -> None:
        for name, array in constants.items():
            held(name, array)(model)

    return apply(
        EliminateNoops(),
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[{dims}] x) => (float[{out}] y) '
        f"{{ r = Neg (x) \n {body} }}",
        edit,
    )


def i64(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def goes(outcome: Outcome) -> bool:
    """Whether only the Neg is left, with the same numbers to the bit."""
    return outcome.operators == ["Neg"] and outcome.agrees({"x": X})


def stays(outcome: Outcome) -> bool:
    return not outcome.result.modified and outcome.agrees({"x": X})


@pytest.mark.parametrize(
    ("body", "c"),
    [
        ("y = Reshape (r, c)", i64(2, 3, 4)),
        ("y = Reshape (r, c)", i64(-1, 3, 4)),
        ("h = Shape (r) y = Reshape (r, h)", None),
        ("h = Shape (r) y = Expand (r, h)", None),
        ("y = Expand (r, c)", i64(1)),
        ("y = Expand (r, c)", i64(3, 4)),
        ("y = Tile (r, c)", i64(1, 1, 1)),
        ("y = Squeeze (r)", None),
        ("y = Slice (r, c, e)", i64(0, 0)),
        ("y = Slice (r, c, e, a)", i64(-3, 0)),
        ("y = Slice (r, c, e, , s)", i64(0, -9)),
        ("y = Split <axis = 1, num_outputs = 1> (r)", None),
        ("y, z = Split <axis = 1> (r, c)", i64(3, 0)),
        ("y = Transpose <perm = [0, 1, 2]> (r)", None),
        ("y = Pad (r, c)", i64(0, 0, 0, 0, 0, 0)),
        ('y = Pad <mode = "reflect"> (r, c, , a)', i64(0, 0, 0, 0)),
        ("y = Concat <axis = 1> (r)", None),
        ("y = Gather <axis = 1> (r, c)", i64(0, 1, 2)),
        ("y = Gather <axis = -1> (r, c)", i64(0, -3, 2, -1)),
    ],
)
@pytest.mark.parametrize("dims", ["2, 3, 4", "N, 3, 4"])
def test_goes(body: str, c: np.ndarray | None, dims: str) -> None:
    constants = {} if c is None else {"c": c}
    outcome = eliminate(
        body, dims=dims, e=i64(2**63 - 1, 2**31 - 1), a=i64(1, 2), s=i64(1, 1), **constants
    )
    if dims == "N, 3, 4" and ("Squeeze" in body or (c is not None and c[0] == 2)):
        assert stays(outcome)  # N may be 1 or 2, or something else
    else:
        assert goes(outcome)


@pytest.mark.parametrize(
    ("body", "c"),
    [
        ("y = Reshape (r, c)", i64(3, 2, 4)),
        ("y = Reshape (r, c)", i64(2, 12, 1)),
        ("h = Shape <end = 2> (r) t = Concat <axis = 0> (c, h) y = Reshape (r, t)", i64(4)),
        ("y = Expand (r, c)", i64(1, 2, 3, 4)),
        ("y = Tile (r, c)", i64(1, 2, 1)),
        ("y = Slice (r, c, e, , s)", i64(-1, 0)),
        ("y = Slice (r, c, e)", i64(0, 1)),
        ("y, z = Split <axis = 1> (r, c)", i64(2, 1)),
        ("y = Transpose <perm = [1, 0, 2]> (r)", None),
        ("y = Transpose (r)", None),
        ("y = Pad (r, c)", i64(0, 1, 0, 0, -1, 0)),
        ("y = Pad (r, c)", i64(0, 0, 0, 0, 0, 1)),
        ("y = Concat <axis = 1> (r, r)", None),
        ("y = Gather <axis = 1> (r, c)", i64(0, 2, 1)),
        ("y = Gather <axis = 1> (r, c)", i64(0, 1)),
        ("y = Gather <axis = 1> (r, c)", np.array([[0, 1, 2]])),
    ],
)
def test_stays(body: str, c: np.ndarray | None) -> None:
    constants = {} if c is None else {"c": c}
    out = {"Expand": "A, B, C, D", "[[": "A, B, C, D"}
    rank4 = "Expand" in body or (c is not None and c.ndim == 2)
    outcome = eliminate(
        body,
        out=out["Expand"] if rank4 else "A, B, C",
        e=i64(-9, 2**31 - 1),
        s=i64(-1, 1),
        **constants,
    )
    assert stays(outcome)


def test_a_part_that_leaves_something_to_be_used_stays() -> None:
    outcome = eliminate(
        "p, z = Split <axis = 1> (r, c) s = ReduceSum (z, a) y = Add (p, s)", c=i64(3, 0), a=i64(1)
    )
    assert "Split" in outcome.operators
    assert outcome.agrees({"x": X})


@pytest.mark.parametrize(
    ("perm", "dims", "gone"),
    [
        ("[0, 2, 1, 3]", "2, 1, 1, 4", True),
        ("[0, 2, 1, 3]", "2, 1, 3, 4", False),
        ("[1, 0, 2, 3]", "1, 1, N, 4", True),
        ("[1, 0, 2, 3]", "N, M, 3, 4", False),
        ("[1, 0, 2, 3]", "N, N, 3, 4", False),
        ("[1, 0, 2, 3]", "3, 3, 3, 4", False),
    ],
)
def test_transposes_of_axes_of_one_element(perm: str, dims: str, gone: bool) -> None:
    outcome = eliminate(f"y = Transpose <perm = {perm}> (r)", dims=dims, out="A, B, C, D")
    assert (outcome.operators == ["Neg"]) == gone
    sizes = [int(d) if d.isdigit() else 3 for d in dims.split(", ")]
    assert outcome.agrees({"x": RNG.standard_normal(sizes).astype(np.float32)})


@pytest.mark.parametrize(
    ("body", "opset"),
    [
        ("y = Slice <starts = [0], ends = [9]> (r)", 9),
        ("y = Pad <pads = [0, 0, 0, 0, 0, 0]> (r)", 10),
        ("y = Split <axis = 0, split = [2]> (r)", 11),
        ("y = Concat <axis = 0> (r)", 7),
        ("y = Reshape (r, c)", 7),
    ],
)
def test_older_opsets(body: str, opset: int) -> None:
    constants = {"c": i64(0, 0, 0)} if "(r, c)" in body else {}
    assert goes(eliminate(body, opset=opset, **constants))


@pytest.mark.parametrize("operator", ["DepthToSpace", "SpaceToDepth"])
def test_blocks(operator: str) -> None:
    x = RNG.standard_normal((1, 4, 2, 2)).astype(np.float32)
    for size, gone in ((1, True), (2, False)):
        outcome = eliminate(
            f"y = {operator} <blocksize = {size}> (r)", dims="1, 4, 2, 2", out="A, B, C, D"
        )
        assert (outcome.operators == ["Neg"]) == gone
        assert outcome.agrees({"x": x})


def test_flatten_of_a_matrix() -> None:
    outcome = eliminate("y = Flatten (r)", dims="N, 4", out="A, B")
    assert outcome.operators == ["Neg"]
    assert not eliminate("y = Flatten <axis = 0> (r)", dims="N, 4", out="A, B").result.modified


# --- Concat ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "left"), [("e, r", 1), ("r, e", 1), ("r, e, r", 2), ("e, e", 1), ("r, r", 2)]
)
def test_empty_inputs_of_a_concat(inputs: str, left: int) -> None:
    outcome = eliminate(
        f"y = Concat <axis = -2> ({inputs})", dims="N, 3, 4", e=np.zeros((2, 0, 4), np.float32)
    )
    concats = [node for node in outcome.after.graph.node if node.op_type == "Concat"]
    # What is left of nothing but constants cannot be an output.
    assert len(concats) == (left > 1 or inputs == "e, e")
    if left > 1:
        assert len(concats[0].input) == left
    assert outcome.agrees({"x": X})


def test_what_may_be_empty_is_kept() -> None:
    outcome = eliminate("n = Neg (x) y = Concat <axis = 0> (n, r)", dims="N, 3, 4")
    assert not outcome.result.modified


# --- scatters -------------------------------------------------------------------------------------

ALL = np.arange(2).reshape(2, 1)


@pytest.mark.parametrize(
    ("attribute", "indices", "gone"),
    [
        ("", ALL, True),
        ("", np.stack(np.meshgrid([0, 1], [0, 1, 2], indexing="ij"), -1), True),
        ("", ALL[::-1].copy(), False),
        ("", np.array([[0], [0]]), False),
        ('<reduction = "add">', ALL, False),
    ],
)
def test_scatter_nd(attribute: str, indices: np.ndarray, gone: bool) -> None:
    outcome = eliminate(f"y = ScatterND {attribute} (w, c, r)", c=indices, w=np.ones_like(X))
    assert (outcome.operators == ["Neg"]) == gone
    assert outcome.agrees({"x": X})


@pytest.mark.parametrize(
    ("axis", "indices", "gone"),
    [
        (1, np.indices((2, 3, 4))[1], True),
        (-1, np.indices((2, 3, 4))[2], True),
        (1, np.indices((2, 3, 4))[1][:, ::-1].copy(), False),
    ],
)
def test_scatter_elements(axis: int, indices: np.ndarray, gone: bool) -> None:
    outcome = eliminate(
        f"y = ScatterElements <axis = {axis}> (w, c, r)", c=indices, w=np.ones_like(X)
    )
    assert (outcome.operators == ["Neg"]) == gone
    assert outcome.agrees({"x": X})


# --- interfaces -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    ["y = Reshape (x, c)", "y = Transpose <perm = [0, 1, 2]> (x)", "y = Concat <axis = 0> (x)"],
)
def test_between_input_and_output_it_stays(body: str) -> None:
    outcome = apply(
        EliminateNoops(),
        f'<ir_version: 8, opset_import: ["" : 18]> g (float[2, 3, 4] x) => (float[2, 3, 4] y) '
        f"<int64[3] c = {{2, 3, 4}}> {{ {body} }}",
    )
    assert not outcome.result.modified
