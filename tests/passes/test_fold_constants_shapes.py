"""fold-constants: what follows from shapes, and what only seems to."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from folding import HEAD, fold, overridable
from onnx import TensorProto, helper
from rewriting import Outcome, run

from graphopt.ir.facts.data_rules import sliced
from graphopt_passes.fold_constants.reshape import equal_target

# --- Shape and arithmetic ------------------------------------------------------------------------


def shape_of_x(body: str, outputs: str = "int64[A] y", x: str = "float[N, 3, 8] x") -> Outcome:
    return fold(f"{HEAD} g ({x}) => ({outputs}) {{ {body} }}")


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ("<start = 1>", [3, 8]),
        ("<start = 1, end = 2>", [3]),
        ("<start = -2>", [3, 8]),
        ("<start = -1, end = -2>", []),
        ("<start = 2, end = 99>", [8]),
        ("<end = -99>", []),
    ],
)
def test_shape_with_start_and_end(attributes: str, expected: list[int]) -> None:
    outcome = shape_of_x(f"s = Shape {attributes} (x) \n y = Abs (s)")
    assert outcome.operators == ["Constant"]
    (y,) = run(outcome.after, {"x": np.zeros((2, 3, 8), np.float32)})
    assert y.tolist() == expected
    assert outcome.agrees({"x": np.zeros((2, 3, 8), np.float32)})


@pytest.mark.parametrize("attributes", ["", "<start = 0, end = 1>", "<start = -3>", "<end = 2>"])
def test_a_shape_with_a_dynamic_dimension_stays(attributes: str) -> None:
    outcome = shape_of_x(f"s = Shape {attributes} (x) \n y = Abs (s)")
    assert outcome.operators == ["Shape", "Abs"]


@pytest.mark.parametrize(
    "body",
    [
        "s = Shape (x) \n i = Constant <value_int = 1> () \n z = Gather (s, i) "
        "\n y = Unsqueeze (z, zero)",
        "s = Shape (x) \n i = Constant <value_ints = [-1, 1]> () \n y = Gather (s, i)",
        "s = Shape (x) \n y = Slice (s, one, two)",
        "s = Shape (x) \n y = Slice (s, two, one, zero, minus)",
        "s = Shape (x) \n t = Slice (s, one, two) \n y = Concat <axis = 0> (t, two, t)",
        "s = Shape <start = 1> (x) \n t = Mul (s, two) \n u = Sub (t, one) \n v = Div (u, two) "
        "\n y = Add (v, minus)",
        "s = Shape <start = 1> (x) \n p = ReduceProd <keepdims = 0> (s) \n q = Cast <to = 6> (p) "
        "\n r = Cast <to = 7> (q) \n y = Unsqueeze (r, zero)",
        "s = Shape (x) \n e = Equal (s, minus) \n c = Shape (s) "
        "\n o = ConstantOfShape <value = int64[1] {1}> (c) \n y = Where (e, s, o)",
        "s = Shape (x) \n t = Slice (s, one, two) \n u = Squeeze (t, zero) "
        "\n y = Reshape (u, minus)",
        "z = Size (fixed) \n y = Unsqueeze (z, zero)",
    ],
)
def test_arithmetic_on_what_is_static_of_a_dynamic_shape(body: str) -> None:
    constants = "\n".join(
        f"{name} = Constant <value = int64[1] {{{value}}}> ()"
        for name, value in (("zero", 0), ("one", 1), ("two", 2), ("minus", -1))
    )
    outcome = fold(
        f"{HEAD} g (float[N, 3, 8] x, float[2, 5] fixed) => (int64[A] y) {{ {constants} {body} }}"
    )
    assert outcome.operators in (["Constant"], ["Shape", "Constant"])  # the Shape is not used
    for batch in (1, 4, 0):
        feed = {"x": np.zeros((batch, 3, 8), np.float32), "fixed": np.zeros((2, 5), np.float32)}
        assert outcome.agrees(feed)


def test_slices_take_what_the_runtime_takes() -> None:
    model = onnx.parser.parse_model(
        f"{HEAD} g (int64[N] x, int64[1] start, int64[1] end, int64[1] step) => (int64[M] y) "
        "<int64[1] axis = {0}> { y = Slice (x, start, end, axis, step) }"
    )
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    bounds = [-(2**63), -5, -3, -2, -1, 0, 1, 2, 3, 5, 2**63 - 1]
    for count, step in itertools.product([1, 2, 3], [-3, -1, 1, 2]):
        for start, end in itertools.product(bounds, bounds):
            names = {"start": start, "end": end, "step": step}
            feed = {name: np.array([value]) for name, value in names.items()}
            (y,) = session.run(None, {"x": np.arange(count), **feed})
            indices = sliced(count, start, end, step)
            assert (indices is None) == (step < 0 and end > 100)
            assert indices is None or y.tolist() == list(indices), (count, names)


def test_integer_arithmetic_that_overflows_is_left_to_the_runtime() -> None:
    outcome = shape_of_x(
        "s = Shape <start = 2> (x) \n m = Constant <value = int64[1] {4611686018427387904}> () "
        "\n p = Mul (s, m) \n y = Abs (p)",
    )
    assert outcome.agrees({"x": np.zeros((1, 3, 8), np.float32)})
    narrow = shape_of_x(
        "s = Shape <start = 2> (x) \n m = Constant <value = int64[1] {1073741824}> () "
        "\n p = Mul (s, m) \n i = Cast <to = 6> (p) \n y = Cast <to = 7> (i)"
    )
    assert narrow.agrees({"x": np.zeros((1, 3, 8), np.float32)})


def test_recorded_shapes_of_intermediate_values_are_not_trusted() -> None:
    """After a batch has been made dynamic by hand, a file still records the old one inside."""

    def stale(model: onnx.ModelProto) -> None:
        model.graph.value_info.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, [1, 3]))

    outcome = fold(
        f"{HEAD} g (float[N, 3] x) => (float[M, 3] y, int64[2] s) "
        "{ r = Relu (x) \n t = Shape (r) \n s = Abs (t) \n y = Reshape (r, t) }",
        stale,
    )
    for batch in (1, 5):
        assert outcome.agrees({"x": np.ones((batch, 3), np.float32)})


def test_equal_names_of_dimensions_are_not_trusted() -> None:
    """Exporters write one name, such as "None", for all that is dynamic."""
    outcome = fold(
        f"{HEAD} g (float[None, None, 2] x) => (float[A, B] y) <int64[1] one = {{1}}, "
        "int64[1] two = {2}, int64[1] rest = {-1}> "
        "{ s = Shape (x) \n t = Slice (s, one, two) \n u = Concat <axis = 0> (t, rest) "
        "\n y = Reshape (x, u) }"
    )
    assert "constant-reshape" not in outcome.rewrites
    assert outcome.agrees({"x": np.ones((3, 4, 2), np.float32)})


def test_shapes_of_a_loop_body_that_change_are_not_folded() -> None:
    outcome = fold(
        f"""{HEAD} g (int64 n, float[1] x) => (float[A] y, int64[B, 1] sizes) <bool c = {{1}}> {{
            y, sizes = Loop (n, c, x) <body = b (int64 i, bool go, float[1] h)
                => (bool again, float[A] g, int64[1] s) {{
                again = Identity (go)
                g = Concat <axis = 0> (h, h)
                s = Shape (h)
            }}>
        }}"""
    )
    feed = {"n": np.array(3), "x": np.ones(1, np.float32)}
    assert run(outcome.before, feed)[1].reshape(-1).tolist() == [1, 2, 4]
    assert outcome.agrees(feed)


# --- Reshape --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tail", "expected"),
    [("minus", [0, 24]), ("twentyfour", [0, 24])],
)
def test_flatten_written_out(tail: str, expected: list[int]) -> None:
    outcome = fold(
        f"""{HEAD} g (float[N, 3, 8] x) => (float[N, M] y)
        <int64[1] zero = {{0}}, int64[1] minus = {{-1}}, int64[1] twentyfour = {{24}},
         int64 first = {{0}}> {{
            s = Shape (x)
            b = Gather (s, first)
            u = Unsqueeze (b, zero)
            t = Concat <axis = 0> (u, {tail})
            y = Reshape (x, t)
        }}"""
    )
    assert outcome.rewrites["constant-reshape"] == 1
    assert outcome.initializers["y_shape"].tolist() == expected
    for batch in (1, 4):
        assert outcome.agrees({"x": np.ones((batch, 3, 8), np.float32)})
    if tail == "twentyfour":  # with -1, ONNX Runtime refuses the original too
        assert outcome.agrees({"x": np.ones((0, 3, 8), np.float32)})


def test_the_batch_of_another_value_is_what_remains() -> None:
    outcome = fold(
        f"""{HEAD} g (float[N, 6] x, float[K] z) => (float[A, 2, 3] y)
        <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[2] rest = {{2, 3}}> {{
            s = Shape (z)
            b = Slice (s, zero, one)
            t = Concat <axis = 0> (b, rest)
            y = Reshape (x, t)
        }}"""
    )
    assert outcome.initializers["y_shape"].tolist() == [-1, 2, 3]
    for batch in (0, 3):
        feed = {"x": np.ones((batch, 6), np.float32), "z": np.ones(batch, np.float32)}
        assert outcome.agrees(feed)


def test_two_dimensions_that_are_not_known_to_be_the_data_s_own_stay() -> None:
    outcome = fold(
        f"""{HEAD} g (float[N] x, float[A, B] z) => (float[A, B] y)
        {{ s = Shape (z) \n y = Reshape (x, s) }}"""
    )
    assert not outcome.result.modified


def meaning(shape: list[int], data: tuple[int, ...], copies: bool) -> tuple[int, ...] | None:
    """What Reshape makes of `data` (ONNX operator Reshape, version 14); None for an error."""
    if any(dim < -1 for dim in shape) or shape.count(-1) > 1:
        return None
    if copies:
        if any(dim == 0 and axis >= len(data) for axis, dim in enumerate(shape)):
            return None
        shape = [data[axis] if dim == 0 else dim for axis, dim in enumerate(shape)]
    elif 0 in shape and -1 in shape:
        return None
    count = int(np.prod(data))
    if -1 in shape:
        others = int(np.prod([dim for dim in shape if dim != -1]))
        if others == 0 or count % others:
            return None
        shape = [count // others if dim == -1 else dim for dim in shape]
    return tuple(shape) if int(np.prod(shape)) == count else None


@pytest.mark.parametrize("copies", [True, False])
def test_an_equal_target_means_the_same_for_every_input(copies: bool) -> None:
    """All shapes of up to three items, over all small values of what is not known."""
    tried = found = 0
    for length in (1, 2, 3):
        for items in itertools.product([-1, 0, 1, 2, "a", "b", None], repeat=length):
            for data in itertools.product([1, 2, "a", "b"], repeat=2):
                target = equal_target(items, data, copies=copies)
                if target is None:
                    continue
                found += 1
                for a, b, other in itertools.product([0, 1, 2], [0, 1, 2], [-1, 0, 1, 2]):
                    known = {"a": a, "b": b, None: other}
                    shape = [known.get(item, item) for item in items]
                    actual = tuple(known.get(dim, dim) for dim in data)
                    expected = meaning(shape, actual, copies)
                    if expected is not None:
                        tried += 1
                        assert meaning(target, actual, copies) == expected, (items, data, known)
    assert found > 500
    assert tried > 2000


def test_a_default_shape_tells_nothing_about_shapes() -> None:
    outcome = fold(
        f"{HEAD} g (float[6] x) => (float[A, B] y, int64[2] s) "
        "{ y = Reshape (x, target) \n s = Shape (y) }",
        overridable("target", np.int64([2, 3])),
    )
    assert not outcome.result.modified
    feed = {"x": np.arange(6, dtype=np.float32), "target": np.int64([3, 2])}
    np.testing.assert_array_equal(run(outcome.after, feed)[1], [3, 2])
