"""quantize: fused projections are taken apart, so that TensorRT computes them in integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from models import serialized
from quantize_nets import data, net, runtime

import graphopt
from graphopt.ir import check
from graphopt.pipeline.base import PassContext
from graphopt_passes.quantize.projections import take_projections_apart

FIXTURES = Path(__file__).parents[2] / "fixtures"

SEQUENCE = "float[N, 5, 8] x"
HEADS = "r = Reshape(p, s) t = Transpose<perm=[2,0,3,1,4]>(r) "
PICKED = HEADS + "q = Gather<axis=0>(t, i0) k = Gather<axis=0>(t, i1) v = Gather<axis=0>(t, i2) "
THREE = "a = Mul(q, k) y = Add(a, v)"
INDICES = {f"i{i}": np.array(i if i < 2 else -1) for i in range(3)}

# By name: the body, the initializers, and how many products there are afterwards.
CUT = {
    "split": ("p = MatMul(x, w) q, k, v = Split<axis=-1>(p, n) " + THREE, {"n": [4, 4, 4]}, 3),
    "equal split": ("p = MatMul(x, w) q, k, v = Split<axis=2>(p) " + THREE, {}, 3),
    "biased": (
        "m = MatMul(x, w) p = Add(b, m) q, k, v = Split<axis=-1>(p, n) " + THREE,
        {"n": [4, 4, 4], "b": (12,)},
        3,
    ),
    "one number for a bias": (
        "m = MatMul(x, w) p = Add(m, b) q, k, v = Split<axis=-1>(p, n) " + THREE,
        {"n": [4, 4, 4], "b": (1,)},
        3,
    ),
    "unequal split": (
        "p = MatMul(x, w) q, v = Split<axis=-1>(p, n) k = Relu(v) y = Concat<axis=2>(q, k)",
        {"n": [3, 9]},
        2,
    ),
    "heads": (
        "m = MatMul(x, w) p = Add(m, b) " + PICKED + THREE,
        {"b": (12,), "s": [0, 5, 3, 2, 2], **INDICES},
        3,
    ),
    "heads of a stated batch": (
        "p = MatMul(x, w) " + PICKED + THREE,
        {"s": [-1, 5, 3, 2, 2], **INDICES},
        3,
    ),
    "heads of a Reshape that copies nothing": (
        "p = MatMul(x, w) " + PICKED.replace("Reshape(", "Reshape<allowzero=1>(") + THREE,
        {"s": [-1, 5, 3, 2, 2], **INDICES},
        3,
    ),
    "heads that are split": (
        "p = MatMul(x, w) " + HEADS + "q, k, v = Split<axis=0>(t, n) " + THREE,
        {"s": [0, 5, 3, 2, 2], "n": [1, 1, 1]},
        3,
    ),
    "an unused part": (
        "p = MatMul(x, w) q, k, v = Split<axis=-1>(p, n) y = Mul(q, v)",
        {"n": [4, 4, 4]},
        2,
    ),
}
# What stays: the body and the initializers.
KEPT = {
    "another axis": (
        "p = MatMul(x, w) q, k = Split<axis=1>(p, n) y = Concat<axis=1>(k, q)",
        {"n": [2, 3]},
    ),
    "a second reader": (
        "p = MatMul(x, w) q, k, v = Split<axis=-1>(p, n) a = Mul(q, k) r = ReduceMax<axes=[2]>(p) "
        "c = Add(a, v) y = Add(c, r)",
        {"n": [4, 4, 4]},
    ),
    "heads outermost": (
        "p = MatMul(x, w) r = Reshape(p, s) q = Gather<axis=3>(r, i0) k = Gather<axis=3>(r, i1) "
        "y = Add(q, k)",
        {"s": [0, 5, 2, 3, 2], **INDICES},
    ),
    "a list of indices": (
        "p = MatMul(x, w) "
        + HEADS
        + "q = Gather<axis=0>(t, i) k = Gather<axis=0>(t, j) y = Add(q, k)",
        {"s": [0, 5, 3, 2, 2], "i": [0, 1], "j": [1, 2]},
    ),
    "a weight that is computed": (
        "u = Relu(w) p = MatMul(x, u) q, k, v = Split<axis=-1>(p, n) " + THREE,
        {"n": [4, 4, 4]},
    ),
    "an activation between": (
        "m = MatMul(x, w) p = Relu(m) q, k, v = Split<axis=-1>(p, n) " + THREE,
        {"n": [4, 4, 4]},
    ),
}


def output(constants: dict) -> str:
    """The output: of the rank of the sequence, of heads, or of several heads at once."""
    rank = 3 + ("s" in constants) + bool({"n", "i"} & set(constants) and "s" in constants)
    return f"float[{', '.join('ABCDE'[:rank])}] y"


@pytest.mark.parametrize("case", CUT)
def test_fused_projections_become_products_side_by_side(case: str) -> None:
    text, constants, products = CUT[case]
    model = net(text, SEQUENCE, output(constants), w=(8, 12), **constants)
    feed = data(model)
    (before,) = runtime(model, feed)
    assert take_projections_apart(model, PassContext()) == 1
    check(model)
    operators = [node.op_type for node in model.graph]
    assert operators.count("MatMul") == products
    assert not {"Split", "Gather"} & set(operators)
    (after,) = runtime(model, feed)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-6 * np.abs(before).max())
    assert take_projections_apart(model, PassContext()) == 0


@pytest.mark.parametrize("case", KEPT)
def test_others_stay(case: str) -> None:
    text, constants = KEPT[case]
    model = net(text, SEQUENCE, output(constants), w=(8, 12), **constants)
    before = serialized(model)
    assert take_projections_apart(model, PassContext()) == 0
    assert serialized(model) == before


def test_a_gemm_is_cut_with_its_bias() -> None:
    model = net(
        "p = Gemm<transB=1>(x, w, b) q, k, v = Split<axis=1>(p, n) " + THREE,
        "float[N, 8] x",
        "float[A, B] y",
        w=(12, 8),
        b=(12,),
        n=[4, 4, 4],
    )
    feed = data(model)
    (before,) = runtime(model, feed)
    assert take_projections_apart(model, PassContext()) == 1
    assert [n.op_type for n in model.graph] == ["Gemm", "Gemm", "Gemm", "Mul", "Add"]
    (after,) = runtime(model, feed)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-6 * np.abs(before).max())


@pytest.mark.parametrize(("batch", "products"), [("z", 3), ("n", 3), ("o", 1)])
def test_heads_of_a_length_that_is_read_elsewhere(batch: str, products: int) -> None:
    """It must be the sequence's, if the batch is known to be: `o` is read elsewhere as well."""
    model = net(
        "n = Shape<start=0,end=1>(x) o = Shape<start=0,end=1>(u) l = Shape<start=1>(u) "
        f"s = Concat<axis=0>({batch}, l, h) p = MatMul(x, w) " + PICKED + THREE,
        "float[N, T, 8] x, float[K, U] u",
        "float[A, B, C, D] y",
        w=(8, 12),
        z=[0],
        h=[3, 2, 2],
        **INDICES,
    )
    feed = {"x": np.ones((2, 5, 8), np.float32), "u": np.zeros((2, 5), np.float32)}
    (before,) = runtime(model, feed)
    assert take_projections_apart(model, PassContext()) == (products == 3)
    (after,) = runtime(model, feed)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-6 * np.abs(before).max())
    assert [node.op_type for node in model.graph].count("MatMul") == products


def test_a_trained_transformer() -> None:
    source = graphopt.load(FIXTURES / "vit.onnx")
    model = graphopt.optimize(source, "lossless", verify="off").model
    images = np.load(FIXTURES / "calib.npz")["image"][:16]
    (before,) = runtime(model, {"image": images})
    assert take_projections_apart(model, PassContext()) == 4
    (after,) = runtime(model, {"image": images})
    np.testing.assert_allclose(after, before, rtol=0, atol=2e-6 * np.abs(before).max())
