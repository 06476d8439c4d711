"""fold-constants: the model does not blow up."""

from __future__ import annotations

import numpy as np
import pytest
from folding import HEAD, fold
from rewriting import apply, both, held

from graphopt_passes.fold_constants import FoldConstants

GROWING = """g (float[1024, 1024] x, float[8, 1] v) => (float[1024, 1024] y, float[8, 8] z)
    <int64[2] large = {1024, 1024}, int64[2] small = {8, 8}> {
        a = ConstantOfShape <value = float[1] {2}> (large)
        b = Exp (a)
        y = Add (x, b)
        c = ConstantOfShape <value = float[1] {3}> (small)
        d = Exp (c)
        z = Mul (d, v)
    }"""


def test_a_value_that_grows_the_model_is_left_to_run_time() -> None:
    outcome = fold(f"{HEAD} {GROWING}")
    assert outcome.operators == ["ConstantOfShape", "Exp", "Add", "Mul"]
    assert list(outcome.initializers) == ["large", "d"]
    assert "would add" in outcome.notes
    assert len(outcome.after.SerializeToString()) < 2000


def test_max_growth_decides() -> None:
    large = apply(FoldConstants(max_growth=8 << 20), f"{HEAD} {GROWING}")
    assert large.operators == ["Add", "Mul"]
    assert large.notes == ""
    none = apply(FoldConstants(max_growth=0), f"{HEAD} {GROWING}")
    assert not none.result.modified


def test_many_values_that_grow_the_model_together_are_left_too() -> None:
    """Each of 16 adds 128 KiB: less than a MiB alone, more together."""
    makes = "\n".join(f"c{i} = Expand (w{i}, shape)" for i in range(16))
    adds = "\n".join(f"x{i + 1} = Add (x{i}, c{i})" for i in range(16))
    weights = [held(f"w{i}", np.float32([[i]])) for i in range(16)]
    outcome = fold(
        f"{HEAD} g (float[256, 128] x0) => (float[256, 128] x16) <int64[2] shape = {{256, 128}}> "
        f"{{ {makes} {adds} }}",
        both(*weights),
    )
    assert outcome.operators == ["Expand"] * 16 + ["Add"] * 16


def test_what_grows_only_in_between_is_folded() -> None:
    outcome = fold(
        f"{HEAD} g (float[1] x) => (float[1] y) <int64[2] large = {{1024, 1024}}> "
        "{ a = ConstantOfShape <value = float[1] {1}> (large) \n s = ReduceMean <keepdims = 0> (a) "
        "\n y = Add (x, s) }"
    )
    assert outcome.operators == ["Add"]
    assert outcome.agrees({"x": np.float32([1])})


@pytest.mark.parametrize("shared", [True, False])
def test_a_transposed_weight_is_folded_unless_the_original_is_needed_too(shared: bool) -> None:
    w = np.random.default_rng(2).random((600, 600), np.float32)  # 1.4 MB
    use = "MatMul (x, w)" if shared else "Relu (x)"
    outcome = fold(
        f"{HEAD} g (float[N, 600] x) => (float[N, 600] y, float[N, 600] z) "
        f"{{ t = Transpose <perm = [1, 0]> (w) \n y = MatMul (x, t) \n z = {use} }}",
        held("w", w),
    )
    assert ("Transpose" in outcome.operators) == shared
    # ONNX Runtime adds up in another order where a weight is constant.
    assert outcome.agrees({"x": np.ones((2, 600), np.float32)}, rtol=1e-6)


def test_a_weight_that_is_split_does_not_grow() -> None:
    w = np.arange(900 * 900, dtype=np.float32).reshape(900, 900)
    outcome = fold(
        f"{HEAD} g (float[N, 900] x) => (float[N, 300] p, float[N, 300] q, float[N, 300] r) "
        "{ a, b, c = Split <axis = 1> (w, parts) "
        "\n p = MatMul (x, a) \n q = MatMul (x, b) \n r = MatMul (x, c) }",
        both(held("w", w), held("parts", np.int64([300, 300, 300]))),
    )
    assert outcome.operators == ["MatMul"] * 3
    assert set(outcome.initializers) == {"a", "b", "c"}


def test_an_enormous_value_is_not_even_computed() -> None:
    outcome = fold(
        f"{HEAD} g (float[1] x) => (float[1] y) <int64[3] large = {{100000, 100000, 100}}> "
        "{ a = ConstantOfShape (large) \n s = ReduceMean <keepdims = 0> (a) \n y = Add (x, s) }"
    )
    assert not outcome.result.modified
    assert "would add 4,000,000,000,000 bytes" in outcome.notes


def test_a_size_that_depends_on_data_is_known_in_the_next_round() -> None:
    outcome = fold(
        f"{HEAD} g (int64[1] x) => (int64[A] y) <float[6] w = {{0, 1, 0, 2, 0, 3}}> "
        "{ i = NonZero (w) \n n = Neg (i) \n m = ReduceMax <keepdims = 0> (n) \n y = Add (x, m) }"
    )
    assert outcome.operators == ["Add"]
    assert outcome.agrees({"x": np.int64([1])})
