"""fuse-affine: what it fuses, and that the numbers stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from norms import CONV, IMAGE, RNG, close, fuse, head, norm, weight
from onnx import helper
from onnx.reference import ReferenceEvaluator
from rewriting import run

from graphopt.ir import load
from graphopt.pipeline.base import PassContext
from graphopt.runtime.session import Session
from graphopt_passes.eliminate_dead import EliminateDead
from graphopt_passes.fold_constants import FoldConstants
from graphopt_passes.fuse_affine import FuseAffine


@pytest.mark.parametrize(
    ("node", "x", "shapes"),
    [
        ("Conv (x, w)", (2, 3, 8), [(4, 3, 3)]),
        ("Conv (x, w)", (2, 3, 8, 8), [(4, 3, 3, 3)]),
        (
            "Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w, k)",
            (2, 3, 8, 8),
            [(4, 3, 3, 3), (4,)],
        ),
        ("Conv (x, w, k)", (1, 2, 5, 5, 5), [(4, 2, 3, 3, 3), (4,)]),
        ("Conv <group = 2> (x, w, k)", (2, 4, 8, 8), [(4, 2, 3, 3), (4,)]),
        ("Conv <group = 4> (x, w)", (2, 4, 8, 8), [(4, 1, 3, 3)]),
        ("ConvTranspose (x, w)", (2, 3, 8), [(3, 4, 3)]),
        ("ConvTranspose (x, w, k)", (2, 3, 8, 8), [(3, 4, 3, 3), (4,)]),
        ("ConvTranspose <group = 2> (x, w, k)", (2, 6, 8, 8), [(6, 2, 3, 3), (4,)]),
        (
            "ConvTranspose <group = 2, strides = [2, 2, 2]> (x, w)",
            (1, 4, 3, 3, 3),
            [(4, 2, 2, 2, 2)],
        ),
    ],
)
def test_convolutions(node: str, x: tuple[int, ...], shapes: list[tuple[int, ...]]) -> None:
    dims = ", ".join(map(str, x))
    free = ", ".join("ABCDE"[: len(x)])
    outcome = fuse(
        f"{head()} g (float[{dims}] x) => (float[{free}] y) "
        f"{{ c = {node} \n y = BatchNormalization <epsilon = 0.01> (c, s, b, m, v) }}",
        norm(4),
        *(weight(*shape, name=name) for shape, name in zip(shapes, "wk", strict=False)),
    )
    assert outcome.operators == [node.split()[0]]
    assert list(outcome.rewrites) == ["batch-norm"]
    assert set(outcome.initializers) == {"w", "k" if len(shapes) > 1 else "w_bias"}
    assert close(outcome, *x)


@pytest.mark.parametrize(
    ("node", "shapes"),
    [
        ("Gemm (x, w)", [(6, 4)]),
        ("Gemm (x, w, k)", [(6, 4), (4,)]),
        ("Gemm (x, w, k)", [(6, 4), (1, 4)]),
        ("Gemm (x, w, k)", [(6, 4), ()]),
        ("Gemm <transB = 1, alpha = 0.5, beta = 2.0> (x, w, k)", [(4, 6), (4,)]),
        ("Gemm <beta = 0.0> (x, w, k)", [(6, 4), (4,)]),
        ("MatMul (x, w)", [(6, 4)]),
    ],
)
def test_matrix_products(node: str, shapes: list[tuple[int, ...]]) -> None:
    outcome = fuse(
        f"{head()} g (float[N, 6] x) => (float[N, 4] y) "
        f"{{ c = {node} \n r = BatchNormalization (c, s, b, m, v) \n y = Relu (r) }}",
        norm(4),
        *(weight(*shape, name=name) for shape, name in zip(shapes, "wk", strict=False)),
    )
    operator = node.split()[0]
    assert outcome.operators == [operator, *(["Add"] if operator == "MatMul" else []), "Relu"]
    assert close(outcome, 3, 6)


@pytest.mark.parametrize("add", ["Add (c, k)", "Add (k, c)"])
@pytest.mark.parametrize("bias", [(4,), (1, 4), (1,), ()])
def test_matmul_and_add(add: str, bias: tuple[int, ...]) -> None:
    outcome = fuse(
        f"{head()} g (float[N, 6] x) => (float[N, 4] y) "
        f"{{ c = MatMul (x, w) \n a = {add} \n y = BatchNormalization (a, s, b, m, v) }}",
        norm(4),
        weight(6, 4),
        weight(*bias, name="k"),
    )
    assert outcome.operators == ["MatMul", "Add"]
    assert set(outcome.initializers) == {"w", "k"}
    assert close(outcome, 3, 6)


@pytest.mark.parametrize(
    ("opset", "attributes"),
    [
        (1, "<is_test = 1, consumed_inputs = [0, 0, 0, 1, 1]>"),
        (6, "<is_test = 1>"),
        (7, "<spatial = 1>"),
        (8, ""),
        (9, "<momentum = 0.5>"),
        (14, "<training_mode = 0>"),
        (15, ""),
        (22, ""),
        (23, ""),
    ],
)
def test_opsets(opset: int, attributes: str) -> None:
    outcome = fuse(
        f"{head(opset)} g ({IMAGE}) => (float[A, B, C, D] y) "
        f"{{ c = Conv (x, w) \n y = BatchNormalization {attributes} (c, s, b, m, v) }}",
        norm(4),
        weight(4, 3, 3, 3),
    )
    assert outcome.operators == ["Conv"]
    if opset >= 7:
        assert close(outcome, 2, 3, 8, 8)


def test_two_norms_in_a_row() -> None:
    outcome = fuse(
        f"{head()} g ({IMAGE}) => (float[A, B, C, D] y) {{ c = Conv (x, w) "
        "\n d = BatchNormalization (c, s, b, m, v) \n y = BatchNormalization (d, s, b, m, v) }",
        norm(4),
        weight(4, 3, 3, 3),
    )
    assert outcome.operators == ["Conv"]
    assert outcome.rewrites == {"batch-norm": 2}
    assert close(outcome, 2, 3, 8, 8)


def test_parameters_written_as_constant_nodes() -> None:
    """As files of IR version 3 have them, where an initializer would have to be an input."""

    def as_nodes(model: onnx.ModelProto) -> None:
        for tensor in reversed(model.graph.initializer):
            node = helper.make_node("Constant", [], [tensor.name], value=tensor)
            model.graph.node.insert(0, node)
        del model.graph.initializer[:]

    for ir_version, opset in ((3, 8), (8, 17)):
        outcome = fuse(
            f"{head(opset, ir_version)} g ({IMAGE}) => (float[A, B, C, D] y) {{ {CONV} }}",
            norm(4),
            weight(4, 3, 3, 3),
            as_nodes,
        )
        kept = ["Constant"] * 2 if ir_version == 3 else []
        assert outcome.operators == [*kept, "Conv"]
        assert close(outcome, 2, 3, 8, 8)


def test_float16_keeps_its_precision() -> None:
    outcome = fuse(
        f"{head()} g (float16[N, 3, 8, 8] x) => (float16[A, B, C, D] y) {{ {CONV} }}",
        norm(4, np.float16),
        weight(4, 3, 3, 3, dtype=np.float16),
    )
    assert outcome.operators == ["Conv"]
    assert {array.dtype for array in outcome.initializers.values()} == {np.dtype(np.float16)}
    x = RNG.standard_normal((2, 3, 8, 8)).astype(np.float16)
    (before,), (after,) = run(outcome.before, {"x": x}), run(outcome.after, {"x": x})
    # float16 has an eps of 1e-3; both round a sum of 27 products.
    np.testing.assert_allclose(after, before, rtol=5e-3, atol=5e-3)


def test_double() -> None:
    outcome = fuse(
        f"{head()} g (double[N, 3, 8, 8] x) => (double[A, B, C, D] y) {{ {CONV} }}",
        norm(4, np.float64),
        weight(4, 3, 3, 3, dtype=np.float64),
    )
    x = RNG.standard_normal((2, 3, 8, 8))
    (before,) = ReferenceEvaluator(outcome.before).run(None, {"x": x})
    (after,) = ReferenceEvaluator(outcome.after).run(None, {"x": x})
    np.testing.assert_allclose(after, before, rtol=1e-13, atol=1e-13)


def test_mixed_types_of_opset_15() -> None:
    outcome = fuse(
        f"{head()} g (float16[N, 3, 8, 8] x) => (float16[A, B, C, D] y) {{ {CONV} }}",
        norm(4, np.float32),
        weight(4, 3, 3, 3, dtype=np.float16),
    )
    assert outcome.operators == ["Conv"]
    x = RNG.standard_normal((2, 3, 8, 8)).astype(np.float16)
    (before,) = ReferenceEvaluator(outcome.before).run(None, {"x": x})
    (after,) = run(outcome.after, {"x": x})
    np.testing.assert_allclose(after, before, rtol=5e-3, atol=5e-3)


def test_a_shared_weight_gets_a_copy() -> None:
    outcome = fuse(
        f"{head()} g ({IMAGE}) => (float[A, B, C, D] y, float[A, B, C, D] z) "
        f"{{ {CONV} \n z = Conv (x, w, k) }}",
        norm(4),
        weight(4, 3, 3, 3),
        weight(4, name="k"),
    )
    assert outcome.operators == ["Conv", "Conv"]
    assert set(outcome.initializers) == {"w", "w_scaled", "w_bias", "k"}
    assert outcome.after.graph.node[1].input == ["x", "w", "k"]
    assert close(outcome, 2, 3, 8, 8)


def test_a_weight_that_is_an_output_gets_a_copy() -> None:
    outcome = fuse(
        f"{head()} g ({IMAGE}) => (float[A, B, C, D] y, float[4, 3, 3, 3] w) {{ {CONV} }}",
        norm(4),
        weight(4, 3, 3, 3),
    )
    assert outcome.operators == ["Conv"]
    assert close(outcome, 2, 3, 8, 8)


def test_two_convolutions_with_one_weight_and_one_norm_s_parameters() -> None:
    outcome = fuse(
        f"""{head()} g ({IMAGE}) => (float[A, B, C, D] y, float[A, B, C, D] z) {{
            c = Conv (x, w)
            y = BatchNormalization (c, s, b, m, v)
            n = Abs (x)
            d = Conv (n, w)
            z = BatchNormalization (d, s, b, m, v)
        }}""",
        norm(4),
        weight(4, 3, 3, 3),
    )
    assert outcome.operators == ["Conv", "Abs", "Conv"]
    assert close(outcome, 2, 3, 8, 8)


def test_a_norm_inside_a_branch() -> None:
    outcome = fuse(
        f"""{head()} g (bool t, {IMAGE}) => (float[A, B, C, D] y) {{
            y = If (t) <
                then_branch = p () => (float[A, B, C, D] u) {{
                    c = Conv (x, w)
                    u = BatchNormalization (c, s, b, m, v)
                }},
                else_branch = q () => (float[A, B, C, D] r) {{ r = Conv (x, w) }}
            >
        }}""",
        norm(4),
        weight(4, 3, 3, 3),
    )
    assert outcome.all_operators == {"If": 1, "Conv": 2}
    for chosen in (True, False):
        x = RNG.standard_normal((2, 3, 8, 8)).astype(np.float32)
        assert outcome.agrees({"t": np.array(chosen), "x": x}, rtol=1e-5, atol=1e-5)


def test_a_function_with_constants_of_its_own() -> None:
    outcome = fuse(
        f"""<ir_version: 8, opset_import: ["" : 17, "own" : 1]> g ({IMAGE}) =>
        (float[A, B, C, D] y) {{ y = own.block (x) }}
        <domain: "own", opset_import: ["" : 17]> block (x) => (y) {{
            w = Constant <value = float[2, 3, 1, 1] {{1, 2, 3, 4, 5, 6}}> ()
            s = Constant <value = float[2] {{1.5, 2}}> ()
            b = Constant <value = float[2] {{1, 2}}> ()
            v = Constant <value = float[2] {{1, 3}}> ()
            k = Constant <value = float {{2}}> ()
            c = Conv (x, w)
            n = BatchNormalization (c, s, b, b, v)
            y = Mul (n, k)
        }}"""
    )
    assert outcome.all_operators == {"block": 1, "Constant": 2, "Conv": 1}
    assert close(outcome, 2, 3, 8, 8)


def test_names_of_what_survives() -> None:
    def name_nodes(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.name = f"my_{node.op_type}"

    outcome = fuse(
        f"{head()} g (float[N, 6] x) => (float[N, 4] y) "
        "{ c = MatMul (x, w) \n y = BatchNormalization (c, s, b, m, v) }",
        norm(4),
        weight(6, 4),
        name_nodes,
    )
    assert [n.name for n in outcome.after.graph.node] == ["my_MatMul", "my_BatchNormalization"]
    assert outcome.operators == ["MatMul", "Add"]


# --- the fixtures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet", "mobilenet", "vit"])
def test_fixtures_keep_their_outputs_within_1e_5_and_no_norm(name: str, fixtures: Path) -> None:
    before = onnx.load_model(fixtures / f"{name}.onnx")
    model = load(before)
    for step in (FoldConstants(), EliminateDead(), FuseAffine()):
        assert not step.run(model, PassContext()).notes
    assert all(node.op_type != "BatchNormalization" for node in model.graph)
    sessions = [Session(load(before), threads=1), Session(model, threads=1)]
    images = np.random.default_rng(0).random((256, 1, 28, 28), np.float32)
    for size in (1, 8):
        for start in range(0, 256, size):
            batch = {sessions[0].inputs[0]: images[start : start + size]}
            (expected,), (actual,) = (session.run(batch).values() for session in sessions)
            assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()
