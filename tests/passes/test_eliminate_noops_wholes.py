"""eliminate-noops: limits, same operands, Ranges over everything, sequences and optionals."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from rewriting import Outcome, apply, held

from graphopt_passes.eliminate_noops import EliminateNoops

EDGES = np.float32([-0.0, 0.0, np.nan, np.inf, -np.inf, 1e-45, -1e-45, 3.4e38, -3.4e38, 1.5])


def eliminate(
    interface: str, body: str, constants: str = "", opset: int = 18, more: object = None
) -> Outcome:
    text = f'<ir_version: 9, opset_import: ["" : {opset}]> g {interface} {constants} {{ {body} }}'
    return apply(EliminateNoops(), text, more)  # type: ignore[arg-type]


V = "(float[10] x) => (float[10] y)"


@pytest.mark.parametrize(
    ("node", "goes"),
    [
        ("Max (r, low)", True),
        ("Max (low, r)", True),
        ("Min (r, high)", True),
        ("Max (r, high)", False),
        ("Min (r, low)", False),
        ("Max (r, least)", False),  # the least finite number
        ("Max (r, r)", True),
        ("Min (r, r, r)", True),
        ("Max (r, low, s)", False),
        ("Clip (r, low, high)", True),
        ("Clip (r, low)", False),  # the greatest finite number is the other bound
        ("Clip (r, low, s0)", False),
        ("Clip (r, least, high)", False),
    ],
)
def test_limits_of_floats(node: str, goes: bool) -> None:
    constants = "<float low = {-inf}, float high = {inf}, float least = {-3.4028234663852886e38}>"
    outcome = eliminate(
        V, f"r = Neg (x) s0 = ReduceMax <keepdims = 0> (x) s = Exp (x) q = {node} y = Neg (q)",
        constants, 17,
    )  # fmt: skip
    assert (node.split()[0] not in outcome.operators) == goes
    assert outcome.agrees({"x": EDGES})


@pytest.mark.parametrize(
    ("dtype", "node", "constant", "goes"),
    [
        (np.int8, "Max (r, c)", -128, True),
        (np.int8, "Max (r, c)", -127, False),
        (np.int8, "Min (r, c)", 127, True),
        (np.uint8, "Max (r, c)", 0, True),
        (np.uint8, "Min (r, c)", 255, True),
        (np.uint8, "Min (r, c)", 254, False),
        (np.int64, "Max (r, c)", -(2**63), True),
        (np.int64, "Min (r, c)", 2**63 - 1, True),
        (np.int64, "Min (r, c)", 2**63 - 2, False),
        (np.uint64, "Min (r, c)", 2**64 - 1, True),
        (np.uint8, "Abs (r)", 0, True),
        (np.int8, "Abs (r)", 0, False),
        (np.uint8, "BitwiseAnd (r, c)", 255, True),
        (np.uint8, "BitwiseAnd (c, r)", 255, True),
        (np.uint8, "BitwiseAnd (r, c)", 127, False),
        (np.int64, "BitwiseAnd (r, c)", -1, True),
        (np.int32, "BitwiseAnd (r, c)", 2**31 - 1, False),
        (np.uint64, "BitwiseAnd (r, c)", 2**64 - 1, False),  # not told from its neighbours
        (np.int32, "BitwiseOr (r, r)", 0, True),
        (np.int32, "BitwiseAnd (r, r)", 0, True),
    ],
)
def test_limits_of_integers(dtype: type, node: str, constant: int, goes: bool) -> None:
    name = np.dtype(dtype).name
    outcome = eliminate(
        f"({name}[3] x) => ({name}[3] y)", f"r = Mul (x, x) q = {node} y = Add (q, x)",
        more=held("c", np.array(constant, dtype)),
    )  # fmt: skip
    assert (node.split()[0] not in outcome.operators) == goes
    if dtype not in (np.uint8, np.int8, np.uint64):  # ONNX Runtime has no Mul of those
        assert outcome.agrees({"x": np.array([0, -5, 7], dtype)})


def test_limits_of_bfloat16() -> None:
    low = np.array(-np.inf).astype(ml_dtypes.bfloat16)
    outcome = eliminate(
        "(bfloat16[3] x) => (bfloat16[3] y)", "r = Neg (x) q = Max (r, c) y = Neg (q)",
        more=held("c", low),
    )  # fmt: skip
    assert outcome.operators == ["Neg", "Neg"]


def test_limits_that_raise_the_rank_stay() -> None:
    outcome = eliminate(
        "(float[3] x) => (float[1, 3] y)", "r = Neg (x) y = Max (r, c)", "<float[1, 1] c = {-inf}>"
    )
    assert not outcome.result.modified


@pytest.mark.parametrize(
    ("node", "goes"),
    [
        ("Equal (b, yes)", True),
        ("Equal (yes, b)", True),
        ("Equal (b, no)", False),
        ("Equal (b, b)", False),
        ("Equal (b, both)", False),
    ],
)
def test_truth(node: str, goes: bool) -> None:
    outcome = eliminate(
        "(float[2] x) => (bool[2] y)", f"b = Less (x, x) q = {node} y = Not (q)",
        "<bool yes = {1}, bool no = {0}, bool[2] both = {1, 0}>",
    )  # fmt: skip
    assert ("Equal" not in outcome.operators) == goes
    assert outcome.agrees({"x": np.float32([1, np.nan])})


def test_equal_to_the_number_one_stays() -> None:
    outcome = eliminate(
        "(int64[2] x) => (bool[2] y)", "q = Equal (x, one) y = Not (q)", "<int64 one = {1}>"
    )
    assert not outcome.result.modified


# --- all of a tensor ------------------------------------------------------------------------------

RANGE = "s = Shape (x) n = Gather (s, i0) r = Range (i0, n, i1) c = Unsqueeze (r, a0)"
NUMBERS = "<int64 i0 = {0}, int64 i1 = {1}, int64[1] a0 = {0}, int64[1] a1 = {1}, int64 two = {2}>"


@pytest.mark.parametrize(
    ("body", "goes"),
    [
        (f"{RANGE} q = Gather (x, r)", True),
        (f"{RANGE} q = Gather <axis = 1> (x, r)", False),
        (f"{RANGE} o = Range (i1, n, i1) q = Gather (x, o)", False),
        (f"{RANGE} o = Range (i0, n, two) q = Gather (x, o)", False),
        (f"{RANGE} k = Unsqueeze (r, a1) e = Exp (x) q = ScatterND (x, k, e)", True),
        (f'{RANGE} k = Unsqueeze (r, a1) e = Exp (x) q = ScatterND <reduction = "add"> (x, k, e)',
         False),
    ],
)  # fmt: skip
def test_ranges_over_an_axis(body: str, goes: bool) -> None:
    outcome = eliminate("(float[n, 3] x) => (float[k, 3] y)", f"{body} y = Neg (q)", NUMBERS)
    assert (not {"Gather", "ScatterND"} & set(outcome.operators[-2:])) == goes
    assert outcome.agrees({"x": np.float32([[1, 2, 3], [-0.0, np.nan, 4]])})


STRIDED = """s = Shape <end = 1> (e) n = Squeeze (s) r = Range (i0, n, i1) {scaled}
    u = Unsqueeze (m, a12) t = Add (u, inner) p = Add (t, zero) f = Reshape (e, all)"""
SCALED = STRIDED.format(scaled="m = Mul (r, stride)")


@pytest.mark.parametrize(
    ("body", "inner", "stride", "goes"),
    [
        (f"{SCALED} q = Gather (f, p)", "0, 1, 2, 3, 4, 5", 6, True),
        (f"{SCALED} q = Gather <axis = -1> (f, p)", "0, 1, 2, 3, 4, 5", 6, True),
        (f"{SCALED} q = Gather (f, p)", "0, 2, 4, 1, 3, 5", 6, False),  # transposed
        (f"{SCALED} q = Gather (f, p)", "0, 1, 2, 3, 5, 4", 6, False),
        (f"{SCALED} q = Gather (f, p)", "0, 1, 2, 3, 4, 5", 3, False),  # rows overlap
        (f"{SCALED} q = Gather (f, p)", "-1, 0, 1, 2, 3, 4", 6, False),
        (f"{SCALED} w = Add (p, p) q = Gather (f, w)", "0, 0, 1, 1, 2, 2", 3, False),
        (f"{SCALED} w = Mul (p, p) q = Gather (f, w)", "0, 0, 0, 1, 1, 1", 0, False),
        (f"{SCALED} q = Gather (f, u)", "0, 1, 2, 3, 4, 5", 6, False),  # one column
        (f"{STRIDED.format(scaled='m = Mul (stride, r)')} q = Gather (f, p)",
         "0, 1, 2, 3, 4, 5", 6, True),
    ],
)  # fmt: skip
def test_places_in_a_flattened_tensor(body: str, inner: str, stride: int, goes: bool) -> None:
    """torch.as_strided with the strides that a tensor has anyway, its batch free."""
    constants = (
        f"<int64 i0 = {{0}}, int64 i1 = {{1}}, int64 stride = {{{stride}}}, int64[1] all = {{-1}}, "
        f"int64[2] a12 = {{1, 2}}, int64[1, 2, 3] inner = {{{inner}}}, int64[1, 1, 1] zero = {{0}}>"
    )
    outcome = eliminate(
        "(float[n, 2, 3] x) => (float[n, k, l] y)", f"e = Exp (x) {body} y = Neg (q)", constants
    )
    assert (outcome.operators == ["Exp", "Neg"]) == goes
    for rows in (1, 4):
        assert outcome.agrees({"x": np.random.default_rng(0).random((rows, 2, 3), np.float32)})


@pytest.mark.parametrize(
    ("indices", "goes"),
    [
        (np.arange(6).reshape(1, 2, 3), True),
        (np.arange(6).reshape(2, 1, 3), False),  # another shape
        (np.arange(6)[::-1].reshape(1, 2, 3), False),
        (np.arange(6, dtype=np.int32).reshape(1, 2, 3), False),  # not followed
        (np.array([[[0, 1, 2], [3, 4, 4]]]), False),
        (np.zeros((1, 2, 3), np.int64), False),
    ],
)
def test_constant_places_in_a_flattened_tensor(indices: np.ndarray, goes: bool) -> None:
    outcome = eliminate(
        "(float[1, 2, 3] x) => (float[j, k, 3] y)",
        "e = Exp (x) f = Reshape (e, all) q = Gather (f, p) y = Neg (q)",
        "<int64[1] all = {-1}>", more=held("p", indices),
    )  # fmt: skip
    assert ("Gather" not in outcome.operators) == goes
    assert outcome.agrees({"x": np.arange(6, dtype=np.float32).reshape(1, 2, 3)})


def test_a_range_that_may_have_one_element_is_not_followed_where_it_would_be_repeated() -> None:
    """With one row the Range is 0, which the Add repeats three times."""
    outcome = eliminate(
        "(float[n] z, float[3] x) => (float[3] y)",
        "s = Shape (z) n = Squeeze (s) r = Range (i0, n, i1) p = Add (r, zeros) "
        "f = Reshape (x, all) q = Gather (f, p) y = Neg (q)",
        "<int64 i0 = {0}, int64 i1 = {1}, int64[1] all = {-1}, int64[3] zeros = {0, 0, 0}>",
    )
    assert "Gather" in outcome.operators
    for rows in (1, 3):
        x = np.float32([1, 2, 3])
        assert outcome.agrees({"z": np.zeros(rows, np.float32), "x": x})


@pytest.mark.parametrize(
    ("indices", "goes"),
    [
        ([[0], [1]], True),
        ([[1], [0]], False),
        ([[0], [0]], False),
        ([[0]], False),
        ([[[0, 0], [0, 1], [0, 2]], [[1, 0], [1, 1], [1, 2]]], True),
        ([[[0, 0], [0, 2], [0, 1]], [[1, 0], [1, 1], [1, 2]]], False),
    ],
)
def test_gather_nd(indices: list[object], goes: bool) -> None:
    outcome = eliminate(
        "(float[2, 3] x) => (float[k, 3] y)", "r = Exp (x) q = GatherND (r, i) y = Neg (q)",
        more=held("i", np.array(indices, np.int64)),
    )  # fmt: skip
    assert ("GatherND" not in outcome.operators) == goes
    assert outcome.agrees({"x": np.float32([[1, 2, 3], [4, 5, 6]])})


@pytest.mark.parametrize(
    ("node", "goes"),
    [
        ("Trilu (r, k)", False),
        ("Trilu <upper = 1> (r, low)", True),
        ("Trilu <upper = 1> (r, most)", False),
        ("Trilu <upper = 0> (r, k)", False),
        ("Trilu <upper = 0> (r, high)", True),
        ("Trilu (r)", False),
    ],
)
def test_trilu(node: str, goes: bool) -> None:
    constants = "<int64 k = {0}, int64 low = {-1}, int64 most = {0}, int64 high = {2}>"
    outcome = eliminate(
        "(float[n, 2, 3] x) => (float[n, 2, 3] y)", f"r = Exp (x) q = {node} y = Neg (q)", constants
    )
    assert ("Trilu" not in outcome.operators) == goes
    assert outcome.agrees({"x": np.arange(12, dtype=np.float32).reshape(2, 2, 3)})


@pytest.mark.parametrize(
    ("equation", "goes"),
    [
        ("ij->ij", True),
        ("i j -> i j", True),
        ("...j->...j", True),
        ("ij->ji", False),
        ("ii->ii", False),
        ("ij->i", False),
        ("ji", False),  # sorted: a transposition
    ],
)
def test_einsum(equation: str, goes: bool) -> None:
    outcome = eliminate(
        "(float[2, 2] x) => (float[k, l] y)" if equation != "ij->i" else "(float[2, 2] x) => "
        "(float[k] y)", f'r = Neg (x) q = Einsum <equation = "{equation}"> (r) y = Neg (q)',
    )  # fmt: skip
    assert ("Einsum" not in outcome.operators) == goes
    if equation != "ii->ii":  # which ONNX Runtime refuses
        assert outcome.agrees({"x": np.float32([[-0.0, 1], [np.nan, np.inf]])})


@pytest.mark.parametrize(
    ("axis", "attributes", "goes"),
    [
        (1, "", True),
        (-1, "<reverse = 1>", True),
        (0, "", False),
        (1, "<exclusive = 1>", False),
    ],
)
def test_cumsum(axis: int, attributes: str, goes: bool) -> None:
    outcome = eliminate(
        "(float[10, 1] x) => (float[10, 1] y)", f"r = Neg (x) q = CumSum {attributes} (r, a) "
        "y = Neg (q)", f"<int64 a = {{{axis}}}>",
    )  # fmt: skip
    assert ("CumSum" not in outcome.operators) == goes
    assert outcome.agrees({"x": EDGES.reshape(10, 1)})


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize(
    ("axes", "keepdims", "goes"),
    [((1,), 0, True), ((-1, 1), 0, False), ((0,), 0, False)],
)
def test_the_greatest_of_one(opset: int, axes: tuple[int, ...], keepdims: int, goes: bool) -> None:
    listed = ", ".join(map(str, axes))
    node = f"ReduceMax <keepdims = 0, axes = [{listed}]> (r)"
    if opset >= 18:
        node = "ReduceMax <keepdims = 0> (r, a)"
    outcome = eliminate(
        "(float[5, 1, 2] x) => (" + ("float[5, 2]" if len(axes) == 1 and goes else "float[k, l]"
        if len(axes) == 1 else "float[k]") + " y)", f"r = Neg (x) q = {node} y = Neg (q)",
        f"<int64[{len(axes)}] a = {{{listed}}}>", opset,
    )  # fmt: skip
    assert ("Squeeze" in outcome.operators) == goes
    assert outcome.agrees({"x": EDGES.reshape(5, 1, 2)})


# --- sequences and optionals ----------------------------------------------------------------------


def test_the_length_of_a_sequence() -> None:
    outcome = eliminate(
        "(float[2] x) => (int64 y, int64 z)",
        "s = SequenceConstruct (x, x, x) n = SequenceLength (s) y = Neg (n) "
        "t = SequenceConstruct (x) z = SequenceLength (t)",
    )
    # The second length is an output: a constant cannot be one.
    assert outcome.operators == ["Neg", "SequenceConstruct", "SequenceLength"]
    assert outcome.agrees({"x": np.float32([1, 2])})


@pytest.mark.parametrize(
    ("attributes", "result", "goes"),
    [("axis = 0", "4", True), ("axis = -1", "4", True), ("axis = 0, new_axis = 1", "2, 2", False)],
)
def test_a_sequence_that_is_joined(attributes: str, result: str, goes: bool) -> None:
    outcome = eliminate(
        f"(float[2] x) => (float[{result}] y)",
        f"e = Exp (x) s = SequenceConstruct (x, e) y = ConcatFromSequence <{attributes}> (s)",
    )
    assert (outcome.operators == ["Exp", "Concat"]) == goes
    assert outcome.agrees({"x": np.float32([1, 2])})


@pytest.mark.parametrize(
    ("body", "known"),
    [
        ("o = Optional (x) h = OptionalHasElement (o)", True),
        ("h = OptionalHasElement (x)", True),
        ("h = OptionalHasElement ()", True),
        ("h = OptionalHasElement (f)", False),
    ],
)
def test_optionals(body: str, known: bool) -> None:
    def optional_input(model: onnx.ModelProto) -> None:
        tensor = onnx.helper.make_tensor_type_proto(1, [2])
        model.graph.input.append(
            onnx.helper.make_value_info("f", onnx.helper.make_optional_type_proto(tensor))
        )

    outcome = eliminate("(float[2] x) => (bool y)", f"{body} y = Not (h)", more=optional_input)
    assert (outcome.operators == ["Not"]) == known
    assert outcome.agrees({"x": np.float32([1, 2]), "f": np.float32([1, 2])})
