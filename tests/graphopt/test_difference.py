"""The numbers that the verifier goes by."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from graphopt import GraphoptError
from graphopt.runtime.difference import Difference, compare


def one(reference: object, result: object) -> Difference:
    (difference,) = compare([{"y": np.asarray(reference)}], [{"y": np.asarray(result)}])
    return difference


def test_by_hand() -> None:
    d = one(np.float32([3, 4]), np.float32([3, 4.5]))
    assert d.max_abs == 0.5
    assert d.max_rel == 0.125
    assert d.sqnr_db == pytest.approx(20.0)  # 25 / 0.25
    assert d.cosine == pytest.approx((9 + 18) / (5 * math.hypot(3, 4.5)))
    assert not d.within()
    assert d.within(0.125)
    assert not d.within(0.124)


def test_sums_run_over_all_inputs() -> None:
    reference = [{"y": np.float64([3.0])}, {"y": np.float64([4.0])}]
    result = [{"y": np.float64([3.0])}, {"y": np.float64([4.5])}]
    assert compare(reference, result)[0] == one(np.float64([3, 4]), np.float64([3, 4.5]))


def test_equal_outputs_whatever_they_hold() -> None:
    for value in ([1.0, math.nan, math.inf, -math.inf], [], [0.0], [True], ["a"], [7]):
        d = one(value, value)
        assert d.exact
        assert d.within()
        assert d.sqnr_db == math.inf


@pytest.mark.parametrize(
    ("reference", "result"),
    [([1.0, math.nan], [1.0, 2.0]), ([1.0, math.inf], [1.0, -math.inf]), ([1.0], [math.inf])],
)
def test_not_a_number_where_there_was_one_is_never_within(
    reference: list[float], result: list[float]
) -> None:
    d = one(reference, result)
    assert d.max_abs == math.inf
    assert not d.within(1e30)
    assert d.sqnr_db == -math.inf


def test_a_difference_from_all_zeros_is_infinite_relative() -> None:
    assert one([0.0, 0.0], [0.0, 1e-30]).max_rel == math.inf


def test_types_without_a_tolerance_must_agree_exactly() -> None:
    assert not one([1, 2, 3], [1, 2, 4]).within()
    assert not one([True], [False]).within()
    assert not one(["a"], ["b"]).within()
    fp8 = np.array([1.0, 1.125], ml_dtypes.float8_e4m3fn)
    assert one(fp8, fp8).within()
    assert not one(fp8, fp8[::-1]).within()


def test_tolerance_follows_the_dtype() -> None:
    for dtype, eps in ((np.float32, 5e-6), (np.float16, 5e-3), (ml_dtypes.bfloat16, 3e-2)):
        reference = np.ones(4, dtype)
        near = (np.ones(4) * (1 + eps)).astype(dtype)
        far = (np.ones(4) * (1 + 10 * eps)).astype(dtype)
        assert one(reference, near).within()
        assert not one(reference, far).within()


def test_what_cannot_be_compared_is_an_error() -> None:
    with pytest.raises(GraphoptError, match=r"output 'y': is float64\[2\] in one"):
        one([1.0, 2.0], [1.0])
    with pytest.raises(GraphoptError, match="differ by name: y and z"):
        compare([{"y": 1.0}], [{"z": 1.0}])


def test_sequences_element_by_element() -> None:
    first, second = compare(
        [{"s": [np.float32([1]), np.float32([2])]}], [{"s": [np.float32([1]), np.float32([3])]}]
    )
    assert (first.output, first.exact) == ("s[0]", True)
    assert (second.output, second.max_abs) == ("s[1]", 1.0)
    with pytest.raises(GraphoptError, match="differ in length"):
        compare([{"s": []}], [{"s": [np.float32([1])]}])
