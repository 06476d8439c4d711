"""eliminate-noops: arithmetic, choices and windows that change nothing, to the bit."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from noops import F32, KINDS, eliminate, goes, stays

# --- neutral elements -----------------------------------------------------------------------------

ARITHMETIC = [
    ("Mul (x, c)", 1),
    ("Mul (c, x)", 1),
    ("Div (x, c)", 1),
    ("Add (x, c)", -0.0),
    ("Add (c, x)", -0.0),
    ("Sub (x, c)", 0.0),
]


@pytest.mark.parametrize("kind", ["float", "double", "float16", "int64"])
@pytest.mark.parametrize(("node", "number"), ARITHMETIC)
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_neutral_elements(node: str, number: float, kind: str, shape: tuple[int, ...]) -> None:
    x = KINDS[kind]
    assert goes(eliminate(f"m = {node}", kind=kind, c=np.full(shape, number, x.dtype)), x)


@pytest.mark.parametrize(
    ("node", "number"),
    [("Add (x, c)", 0.0), ("Sub (x, c)", -0.0)],
)
def test_zeros_of_the_wrong_sign_stay(node: str, number: float) -> None:
    outcome = eliminate(f"m = {node}", c=np.float32(number))
    assert stays(outcome, KINDS["float"])
    assert "+0.0 of -0.0" in outcome.reasons


@pytest.mark.parametrize(
    ("node", "c"),
    [
        ("Mul (x, c)", np.float32([1, 1, 1, 1, 2])),
        ("Div (c, x)", np.float32(1)),
        ("Sub (c, x)", np.float32(0)),
        ("Mul (x, c)", np.ones((1, 1, 1), np.float32)),
        ("Mul (x, c)", np.ones((2, 5), np.float32)),  # N and M may be 1
        ("Sub (x, c)", np.float32([0, 0, 0, 0, -0.0])),
        ("Mul (x, c)", np.ones((2, 0), np.float32)[:, :0].reshape(0, 1)),
    ],
)
def test_what_is_not_neutral_stays(node: str, c: np.ndarray) -> None:
    result = "A, B, C" if c.ndim == 3 else "A, B"
    assert not eliminate(f"m = {node}", c=c, result=result).result.modified


def test_neutral_elements_of_the_same_shape_go() -> None:
    x = KINDS["float"]
    assert goes(eliminate("m = Mul (x, c)", dims="N, 5", c=np.ones(5, np.float32)), x)
    assert goes(eliminate("m = Mul (x, c)", dims="2, 5", c=np.ones((2, 5), np.float32)), x)


def test_a_constant_that_is_spread_over_an_unknown_shape() -> None:
    outcome = eliminate("s = Shape (x) o = Expand (c, s) m = Mul (x, o)", c=np.float32([1]))
    assert goes(outcome, KINDS["float"])
    filled = "s = Shape (x) o = ConstantOfShape <value = float[1] {1}> (s) m = Mul (o, x)"
    assert goes(eliminate(filled), KINDS["float"])
    zeros = "s = Shape (x) o = ConstantOfShape (s) m = Sub (x, o)"
    assert goes(eliminate(zeros), KINDS["float"])


def test_powers() -> None:
    x = np.float32([[0.0, -0.0, -2.25, np.inf, -np.inf, 1e-45, 0.1, 3.4e38]])
    assert goes(eliminate("m = Pow (x, c)", c=np.float32(1)), x)
    assert goes(eliminate("m = Pow (x, c)", c=np.array(1)), x)
    integers = eliminate("m = Pow (x, c)", kind="int64", c=np.float32(1))
    assert stays(integers, np.array([[2**53 + 1]]))


def test_bfloat16() -> None:
    outcome = eliminate("m = Mul (x, c)", kind="bfloat16", c=np.array(1, ml_dtypes.bfloat16))
    assert outcome.operators == ["Transpose"]
    outcome = eliminate("m = Add (x, c)", kind="bfloat16", c=np.array(0, ml_dtypes.bfloat16))
    assert outcome.operators == ["Add", "Transpose"]


@pytest.mark.parametrize(
    ("node", "gone"),
    [
        ("And (x, t)", True),
        ("And (x, f)", False),
        ("Or (f, x)", True),
        ("Or (x, t)", False),
        ("Xor (x, f)", True),
        ("Xor (x, t)", False),
        ("And (x, x)", True),
        ("Or (x, x)", True),
        ("Xor (x, x)", False),
    ],
)
def test_logic(node: str, gone: bool) -> None:
    outcome = eliminate(f"m = {node}", kind="bool", t=np.array(True), f=np.array(False))
    assert (goes if gone else stays)(outcome, KINDS["bool"])


def test_slopes_of_one() -> None:
    x = KINDS["float"]
    assert goes(eliminate("m = PRelu (x, c)", c=np.float32([1])), x)
    assert goes(eliminate("m = LeakyRelu <alpha = 1.0> (x)"), x)
    assert stays(eliminate("m = LeakyRelu (x)"), x)


def test_broadcasting_on_request_stays() -> None:
    outcome = eliminate("m = Mul <broadcast = 1> (x, c)", opset=6, c=np.float32([1]))
    assert not outcome.result.modified


# --- choices --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "gone"),
    [
        ("Where (t, x, c)", True),
        ("Where (f, c, x)", True),
        ("Where (f, x, x)", True),
        ("Where (f, x, c)", False),
        ("Where (t, x, w)", False),  # N and M may be 1
        ("Where (b, x, c)", False),
    ],
)
def test_where(node: str, gone: bool) -> None:
    """Without -0.0, of which ONNX Runtime makes +0.0 in some of them."""
    outcome = eliminate(
        f"m = {node}",
        t=np.array([True]),
        f=np.array([[False]]),
        b=np.array([True, False, True, True, False]),
        c=np.float32(5),
        w=np.ones((2, 5), np.float32),
    )
    assert (goes if gone else stays)(outcome, np.abs(KINDS["float"]))


@pytest.mark.parametrize("kind", ["float", "double", "float16"])
@pytest.mark.parametrize("operator", ["Max", "Min", "Sum", "Mean"])
def test_single_operands(operator: str, kind: str) -> None:
    outcome = eliminate(f"m = {operator} (x)", kind=kind)
    assert outcome.operators == ["Transpose"]
    assert (operator, kind) == ("Mean", "double") or outcome.agrees({"x": KINDS[kind]})
    twice = eliminate(f"m = {operator} (x, x)", kind=kind)
    assert twice.result.modified == (operator in ("Max", "Min"))


def test_clips_without_effect() -> None:
    outcome = eliminate("m = Clip (x)")
    assert stays(outcome, KINDS["float"])  # of an infinity, ONNX Runtime makes 3.4e38
    assert "infinity" in outcome.reasons
    assert goes(eliminate("m = Clip (x)", kind="int64"), KINDS["int64"])
    low, high = np.array(0, np.uint8), np.array(255, np.uint8)
    outcome = eliminate("m = Clip (x, low, high)", kind="uint8", low=low, high=high)
    assert goes(outcome, KINDS["uint8"])
    outcome = eliminate("m = Clip (x, low, high)", kind="uint8", low=low, high=high - 1)
    assert stays(outcome, KINDS["uint8"])
    assert not eliminate("m = Clip (x)", opset=10).result.modified


# --- windows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("operator", ["ReduceMax", "ReduceMin", "ReduceProd"])
@pytest.mark.parametrize("kind", ["float", "double", "float16", "int32"])
def test_reductions_of_one_element(operator: str, kind: str) -> None:
    x = KINDS[kind].reshape(1, -1, 1)
    sizes = {"kind": kind, "dims": "1, N, 1", "result": "A, B, C"}
    for axes in ([0], [0, -1]):
        assert goes(eliminate(f"m = {operator} (x, a)", a=np.array(axes), **sizes), x)
    assert operator in eliminate(f"m = {operator} (x, a)", a=np.array([1]), **sizes).operators
    sizes["result"] = "A, B"
    body = f"m = {operator} <keepdims = 0> (x, a)"
    squeezed = eliminate(body, a=np.array([0]), **sizes)
    assert ("Squeeze" in squeezed.operators) == (operator != "ReduceProd")
    assert squeezed.agrees({"x": x})


@pytest.mark.parametrize("operator", ["ReduceMean", "ReduceSum"])
def test_sums_of_one_float_stay(operator: str) -> None:
    sizes = {"dims": "1, N", "a": np.array([0])}
    outcome = eliminate(f"m = {operator} (x, a)", **sizes)
    assert stays(outcome, KINDS["float"].reshape(1, -1))
    assert "sign of a -0.0" in outcome.reasons
    whole = eliminate(f"m = {operator} (x, a)", kind="int32", **sizes)
    assert goes(whole, KINDS["int32"].reshape(1, -1))
    long = eliminate(f"m = {operator} (x, a)", kind="int64", **sizes)
    assert stays(long, KINDS["int64"].reshape(1, -1))  # of 2**53 + 1, ONNX Runtime makes 2**53


@pytest.mark.parametrize(
    "operator", ["ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"]
)
def test_reductions_over_no_axes(operator: str) -> None:
    x = KINDS["float"]
    body = f"m = {operator} <noop_with_empty_axes = 1>"
    assert goes(eliminate(f"{body} (x)"), x)
    assert goes(eliminate(f"{body} (x, a)", a=np.zeros(0, np.int64)), x)
    assert operator in eliminate(f"{body} (x, a)", a=np.array([1])).operators
    assert operator in eliminate(f"m = {operator} (x)").operators


def test_squares_over_no_axes_stay() -> None:
    body = "m = ReduceSumSquare <noop_with_empty_axes = 1> (x)"
    assert not eliminate(body).result.modified


# --- what has been done already -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "gone"),
    [
        *((first, "Relu", True) for first in ("Relu", "Sigmoid", "Exp", "Softmax", "Sqrt", "Abs")),
        ("Neg", "Relu", False),
        ("Relu", "Abs", False),  # a Relu keeps -0.0
        ("Abs", "Abs", True),
        ("Sign", "Sign", True),
        ("Ceil", "Floor", True),
        ("Floor", "Round", True),
        ("Round", "Ceil", True),
        ("Sign", "Round", True),
        ("Neg", "Round", False),
    ],
)
@pytest.mark.parametrize("kind", ["float", "double", "float16"])
def test_repetitions(first: str, second: str, gone: bool, kind: str) -> None:
    outcome = eliminate(f"a = {first} (x) m = {second} (a)", kind=kind)
    assert outcome.operators == [first, *([] if gone else [second]), "Transpose"]
    assert outcome.agrees({"x": KINDS[kind]})


def test_relu_behind_what_moves_elements() -> None:
    body = "a = Relu (x) b = Transpose (a) c = Unsqueeze (b, z) m = Relu (c)"
    outcome = eliminate(body, result="A, B, C", z=np.array([0]))
    assert outcome.operators == ["Relu", "Transpose", "Unsqueeze", "Transpose"]
    assert outcome.agrees({"x": KINDS["float"]})


def test_relu_behind_a_pooling_stays() -> None:
    """Of NaN, a MaxPool of one dimension makes the least number."""
    body = "a = Relu (x) b = MaxPool <kernel_shape = [2]> (a) m = Relu (b)"
    outcome = eliminate(body, dims="1, 1, 10", result="A, B, C")
    assert stays(outcome, F32.reshape(1, 1, 10))


def test_relu_of_the_magnitude_of_integers_stays() -> None:
    x = np.array([[-(2**31), 5]], np.int32)
    assert stays(eliminate("a = Abs (x) m = Relu (a)", kind="int32"), x)


# --- sequences and optionals ----------------------------------------------------------------------


@pytest.mark.parametrize(("index", "left"), [(0, ["Transpose"]), (-1, ["Neg", "Transpose"])])
def test_elements_of_sequences(index: int, left: list[str]) -> None:
    body = "n = Neg (x) s = SequenceConstruct (x, n) m = SequenceAt (s, i)"
    outcome = eliminate(body, i=np.array(index))
    assert outcome.operators == left
    assert outcome.agrees({"x": KINDS["float"]})
    assert not eliminate(body, i=np.array(2)).result.modified


def test_optionals() -> None:
    outcome = eliminate("o = Optional (x) m = OptionalGetElement (o)")
    assert goes(outcome, KINDS["float"])
    assert goes(eliminate("m = OptionalGetElement (x)"), KINDS["float"])
