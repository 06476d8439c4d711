"""fuse-affine: every reason to leave a BatchNormalization, and that it is told."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from norms import CONV, IMAGE, fuse, head, norm, weight
from onnx import helper
from rewriting import Outcome, held


def declined(outcome: Outcome, reason: str) -> bool:
    return not outcome.result.modified and reason in outcome.reasons


@pytest.mark.parametrize(
    ("opset", "node"),
    [
        (6, "y = BatchNormalization (c, s, b, m, v)"),
        (6, "y = BatchNormalization <is_test = 0> (c, s, b, m, v)"),
        (9, "y, p, q, t, u = BatchNormalization (c, s, b, m, v)"),
        (14, "y = BatchNormalization <training_mode = 1> (c, s, b, m, v)"),
        (17, "y, p, q = BatchNormalization <training_mode = 1> (c, s, b, m, v)"),
    ],
)
def test_training_mode(opset: int, node: str) -> None:
    outcome = fuse(
        f"{head(opset)} g ({IMAGE}) => (float[A, B, C, D] y) {{ c = Conv (x, w) \n {node} }}",
        norm(4),
        weight(4, 3, 3, 3),
    )
    assert declined(outcome, "it is in training mode")


def test_statistics_per_element() -> None:
    outcome = fuse(
        f"{head(7)} g ({IMAGE}) => (float[A, B, C, D] y) "
        "{ c = Conv (x, w) \n y = BatchNormalization <spatial = 0> (c, s, b, m, v) }",
        *(weight(4, 6, 6, name=name) for name in "sbmv"),
        weight(4, 3, 3, 3),
    )
    assert declined(outcome, "spatial=0")


@pytest.mark.parametrize(
    ("body", "outputs", "reason"),
    [
        (f"{CONV} \n z = Relu (c)", "float[A, B, C, D] z", "is used elsewhere too"),
        (CONV, "float[A, B, C, D] c", "is an output of the graph"),
        (
            f"{CONV} \n z = If (t) <then_branch = p () => (float[A, B, C, D] u) {{ u = Neg (c) }}, "
            "else_branch = q () => (float[A, B, C, D] r) { r = Neg (x) }>",
            "float[A, B, C, D] z",
            "is used elsewhere too",
        ),
    ],
)
def test_the_value_before_is_needed(body: str, outputs: str, reason: str) -> None:
    outcome = fuse(
        f"{head()} g ({IMAGE}) => (float[A, B, C, D] y, {outputs}) <bool t = {{1}}> {{ {body} }}",
        norm(4),
        weight(4, 3, 3, 3),
    )
    assert declined(outcome, reason)


@pytest.mark.parametrize("name", ["w", "k", "s", "v"])
@pytest.mark.parametrize("default", [True, False])
def test_parameters_that_are_inputs(name: str, default: bool) -> None:
    def as_input(model: onnx.ModelProto) -> None:
        (index,) = [i for i, t in enumerate(model.graph.initializer) if t.name == name]
        tensor = model.graph.initializer[index]
        model.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
        if not default:
            del model.graph.initializer[index]

    outcome = fuse(
        f"{head()} g ({IMAGE}) => (float[A, B, C, D] y) "
        "{ c = Conv (x, w, k) \n y = BatchNormalization (c, s, b, m, v) }",
        norm(4),
        weight(4, 3, 3, 3),
        weight(4, name="k"),
        as_input,
    )
    assert declined(outcome, "is a graph input with a default" if default else "is a graph input")


def test_quantized_weights() -> None:
    outcome = fuse(
        f"{head()} g ({IMAGE}) => (float[A, B, C, D] y) <float q = {{0.5}}> "
        f"{{ w = DequantizeLinear (i, q) \n {CONV} }}",
        norm(4),
        held("i", np.ones((4, 3, 3, 3), np.int8)),
    )
    assert declined(outcome, "the quantized weight has no scale for each channel")


def test_bfloat16() -> None:
    outcome = fuse(
        f"{head(22)} g (bfloat16[N, 3, 8, 8] x) => (bfloat16[A, B, C, D] y) {{ {CONV} }}",
        norm(4, ml_dtypes.bfloat16),
        weight(4, 3, 3, 3, dtype=ml_dtypes.bfloat16),
    )
    assert declined(outcome, "bfloat16")


@pytest.mark.parametrize(
    ("scale", "reason"), [(1e5, "not be finite in float16"), (1e-6, "too small for float16")]
)
def test_folded_weights_that_do_not_fit(scale: float, reason: str) -> None:
    outcome = fuse(
        f"{head()} g (float16[N, 3, 8, 8] x) => (float16[A, B, C, D] y) {{ {CONV} }}",
        held("s", np.full(4, scale, np.float32)),
        *(held(name, np.ones(4, np.float32)) for name in "bmv"),
        weight(4, 3, 3, 3, dtype=np.float16),
    )
    assert declined(outcome, reason)


@pytest.mark.parametrize("variance", [-1.0, np.nan])
def test_a_variance_that_is_none(variance: float) -> None:
    outcome = fuse(
        f"{head()} g ({IMAGE}) => (float[A, B, C, D] y) {{ {CONV} }}",
        *(held(name, np.ones(4, np.float32)) for name in "sbm"),
        held("v", np.full(4, variance, np.float32)),
        weight(4, 3, 3, 3),
    )
    assert declined(outcome, "variance plus epsilon is not positive")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("y = BatchNormalization (x, s, b, m, v)", "there is no node before it"),
        ("c = Relu (x) \n y = BatchNormalization (c, s, b, m, v)", "the Relu before it"),
        (
            "c = Add (x, x) \n y = BatchNormalization (c, s, b, m, v)",
            "the Add before it cannot take it over",
        ),
    ],
)
def test_nothing_to_fuse_with(body: str, reason: str) -> None:
    outcome = fuse(f"{head()} g ({IMAGE}) => (float[A, B, C, D] y) {{ {body} }}", norm(3))
    assert declined(outcome, reason)


@pytest.mark.parametrize("node", ["MatMul (x, w)", "Add (p, k)"])
def test_a_product_whose_columns_are_not_the_channels(node: str) -> None:
    outcome = fuse(
        f"{head()} g (float[N, 4, 6] x) => (float[N, 4, 4] y) "
        f"{{ p = MatMul (x, w) \n c = {node} \n y = BatchNormalization (c, s, b, m, v) }}"
        if node.startswith("Add")
        else f"{head()} g (float[N, 4, 6] x) => (float[N, 4, 4] y) "
        f"{{ c = {node} \n y = BatchNormalization (c, s, b, m, v) }}",
        norm(4),
        weight(6, 4),
        weight(4, name="k"),
    )
    assert declined(outcome, "its channels are not the columns")


def test_a_product_of_unknown_rank() -> None:
    outcome = fuse(
        '<ir_version: 8, opset_import: ["" : 17, "own" : 1]> g (float[N, 6] x) => (float[A, B] y) '
        "{ p = own.f (x) \n c = MatMul (p, w) \n y = BatchNormalization (c, s, b, m, v) }",
        norm(4),
        weight(6, 4),
    )
    assert declined(outcome, "rank of the matrix product before it is not known")


def test_a_bias_per_row() -> None:
    outcome = fuse(
        f"{head()} g (float[2, 6] x) => (float[2, 4] y) "
        "{ c = Gemm (x, w, k) \n y = BatchNormalization (c, s, b, m, v) }",
        norm(4),
        weight(6, 4),
        weight(2, 1, name="k"),
    )
    assert declined(outcome, "the bias is not one row")


def test_custom_operators_of_known_names() -> None:
    custom = '<ir_version: 8, opset_import: ["" : 17, "own" : 1]>'
    for body, note in (
        ("c = own.Conv (x, w) \n y = BatchNormalization (c, s, b, m, v)", "the Conv before it"),
        ("c = Conv (x, w) \n y = own.BatchNormalization (c, s, b, m, v)", ""),
    ):
        outcome = fuse(
            f"{custom} g ({IMAGE}) => (float[A, B, C, D] y) {{ {body} }}",
            norm(4),
            weight(4, 3, 3, 3),
        )
        assert declined(outcome, note)


def test_functions_of_known_names() -> None:
    for name, note in (
        ("Conv", "the Conv before it cannot take it over"),
        ("BatchNormalization", ""),
    ):
        inputs = "a, b" if name == "Conv" else "a, b, c, d, e"
        outcome = fuse(
            f"{head()} g ({IMAGE}) => (float[A, B, C, D] y) {{ {CONV} }} "
            f'<domain: "ai.onnx", opset_import: ["" : 17]> {name} ({inputs}) => (r) '
            "{ r = Neg (a) }",
            norm(4),
            weight(4, 3, 3, 3),
        )
        assert declined(outcome, note)


def test_a_norm_in_a_function() -> None:
    outcome = fuse(
        f'<ir_version: 8, opset_import: ["" : 17, "own" : 1]> g ({IMAGE}) => (float[A, B, C, D] y) '
        "{ y = own.block (x, w, s, b, m, v) } "
        '<domain: "own", opset_import: ["" : 17]> block (x, w, s, b, m, v) => (y) '
        f"{{ {CONV} }}",
        norm(4),
        weight(4, 3, 3, 3),
    )
    assert declined(outcome, "its scale is a graph input")


def test_a_convolution_outside_of_the_branch() -> None:
    outcome = fuse(
        f"""{head()} g (bool t, {IMAGE}) => (float[A, B, C, D] y) {{
            c = Conv (x, w)
            y = If (t) <
                then_branch = p () => (float[A, B, C, D] u) {{
                    u = BatchNormalization (c, s, b, m, v)
                }},
                else_branch = q () => (float[A, B, C, D] r) {{ r = Neg (x) }}
            >
        }}""",
        norm(4),
        weight(4, 3, 3, 3),
    )
    assert declined(outcome, "the node before it is in another graph")


@pytest.mark.parametrize(
    ("gate", "factor", "stays"),
    [("Erf", 0.5, True), ("Tanh", 0.5, True), ("Erf", 0.25, False), ("Sigmoid", 0.5, False)],
)
def test_a_half_that_makes_gelu(gate: str, factor: float, stays: bool) -> None:
    """ONNX Runtime has one kernel for all of it."""
    outcome = fuse(
        f"{head(17)} g (float[N, 4] x) => (float[N, 5] y) <float one = {{1}}, "
        f"float f = {{{factor}}}> {{ e = {gate} (x) \n a = Add (e, one) \n p = Mul (x, a) \n "
        "h = Mul (p, f) \n y = MatMul (h, w) }",
        weight(4, 5),
    )
    assert outcome.operators == [gate, "Add", "Mul", *(["Mul"] if stays else []), "MatMul"]
    if stays:
        assert declined(outcome, "it is a part of Gelu, which runtimes compute in one")
    x = np.random.default_rng(4).standard_normal((3, 4)).astype(np.float32)
    assert outcome.agrees({"x": x}, rtol=1e-5, atol=1e-6)
