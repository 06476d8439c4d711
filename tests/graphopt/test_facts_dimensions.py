"""Symbolic dimensions: polynomials and their quotients, compared with plain numbers."""

from __future__ import annotations

import pytest

from graphopt.ir.facts import Expr, symbol
from graphopt.ir.facts.dimension import add, divide, floor_divide, multiply, product, subtract

# --- dimensions -----------------------------------------------------------------------------------

N, M = symbol("n"), symbol("m")


def test_equal_polynomials_are_equal() -> None:
    assert add(N, M) == add(M, N)
    assert multiply(add(N, 1), 2) == add(add(N, N), 2)
    assert subtract(add(N, M), N) == M
    assert subtract(N, N) == 0
    assert product((N, 2, M)) == product((M, N, 2))
    assert multiply(add(N, 1), subtract(N, 1)) == subtract(multiply(N, N), 1)


def test_division() -> None:
    assert divide(multiply(N, 6), 3) == multiply(N, 2)
    assert divide(multiply(N, M), N) == M
    assert divide(add(multiply(N, 4), 2), 2) == add(multiply(N, 2), 1)
    assert divide(N, 2) is None
    assert divide(add(N, M), N) is None
    assert divide(N, 0) is None
    assert divide(6, 4) is None


@pytest.mark.parametrize("n", [0, 1, 2, 3, 6, 7, 100])
@pytest.mark.parametrize("step", [1, 2, 3, 7])
@pytest.mark.parametrize("offset", [-9, -1, 0, 1, 5])
def test_floor_division(n: int, step: int, offset: int) -> None:
    quotient = floor_divide(add(multiply(N, 3), offset), step)
    assert isinstance(quotient, Expr)
    symbols = {name for monomial, _ in quotient.terms for name in monomial} - {"n"}
    rest = {name: _floor(name, n) for name in symbols}
    assert quotient.number({"n": n, **rest}) == (3 * n + offset) // step


def _floor(name: str, n: int) -> int:
    """The number of a symbol such as "floor((1+2*n)/3)"."""
    return int(eval(name.replace("floor(", "(").replace("/", "//"), {"n": n}))


def test_equal_quotients_are_one_symbol() -> None:
    assert floor_divide(subtract(N, 1), 2) == subtract(floor_divide(add(N, 1), 2), 1)
    assert floor_divide(N, 2) != floor_divide(add(N, 1), 2)


def test_a_long_sum_is_a_symbol() -> None:
    total = product((add(N, 1), add(M, 1), add(symbol("k"), 1), add(symbol("l"), 1)))
    assert isinstance(total, Expr)
    assert len(total.terms) == 1
