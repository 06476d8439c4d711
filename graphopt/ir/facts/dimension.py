"""Dimensions that are not known numbers: sums of products of symbols, in one canonical form.

Two dimensions that compare equal are the same number in every run. Symbols stand for sizes, which
are never negative; what an expression made of them stands for may be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

Monomial: TypeAlias = "tuple[str, ...]"

# Longer sums are of no use to anyone and cost time: they become a symbol of their own.
MAX_TERMS = 8

# Layers of one shape ask the same again and again: so many answers are kept.
_REMEMBERED = 1024


@dataclass(frozen=True)
class Expr:
    """A polynomial in symbols with integer coefficients; never a plain number.

    `terms` are (sorted symbols, coefficient), sorted, no coefficient 0; () is the constant term.
    """

    terms: tuple[tuple[Monomial, int], ...]

    def __str__(self) -> str:
        return "+".join(
            "*".join((str(c), *m)) if c != 1 or not m else "*".join(m) for m, c in self.terms
        )

    def is_positive_combination(self) -> bool:
        """Whether it is never negative: no coefficient is."""
        return all(coefficient > 0 for _, coefficient in self.terms)

    def number(self, values: Mapping[str, int]) -> int | None:
        """What it is where the symbols are `values`; None if one of them is missing."""
        total = 0
        for monomial, coefficient in self.terms:
            if not all(name in values for name in monomial):
                return None
            total += coefficient * math.prod(values[name] for name in monomial)
        return total


Dim: TypeAlias = "int | Expr"
Dims: TypeAlias = "tuple[Dim, ...]"


def symbol(name: str) -> Expr:
    """The dimension called `name`; equal names are equal numbers."""
    return Expr((((name,), 1),))


def add(a: Dim, b: Dim) -> Dim:
    return a + b if isinstance(a, int) and isinstance(b, int) else _sum(a, b)


@lru_cache(maxsize=_REMEMBERED)
def _sum(a: Dim, b: Dim) -> Dim:
    total = dict(_terms(a))
    for monomial, coefficient in _terms(b):
        total[monomial] = total.get(monomial, 0) + coefficient
    return _dim(total)


def subtract(a: Dim, b: Dim) -> Dim:
    return add(a, multiply(b, -1))


def multiply(a: Dim, b: Dim) -> Dim:
    return a * b if isinstance(a, int) and isinstance(b, int) else _product(a, b)


@lru_cache(maxsize=_REMEMBERED)
def _product(a: Dim, b: Dim) -> Dim:
    total: dict[Monomial, int] = {}
    for one, m in _terms(a):
        for other, n in _terms(b):
            both = tuple(sorted((*one, *other)))
            total[both] = total.get(both, 0) + m * n
    return _dim(total)


def divide(a: Dim, b: Dim) -> Dim | None:
    """The quotient of an exact division; None if it is not known to be exact.

    `b` must be a number other than 0, or one product of symbols, which divides where it is not 0:
    an integer division by 0 ends a run.
    """
    if b == 0:
        return None
    if isinstance(a, int) and isinstance(b, int):
        return a // b if a % b == 0 else None
    divisors = _terms(b)
    if len(divisors) != 1:
        return None
    factors, number = divisors[0]
    quotient: dict[Monomial, int] = {}
    for monomial, coefficient in _terms(a):
        left = list(monomial)
        for factor in factors:
            if factor not in left:
                return None
            left.remove(factor)
        if coefficient % number:
            return None
        quotient[tuple(left)] = coefficient // number
    return _dim(quotient)


def floor_divide(a: Dim, n: int) -> Dim:
    """`a` / `n`, rounded down, for a positive number `n`.

    What is not known to divide becomes a symbol; that of equal quotients is one and the same.
    """
    return a // n if isinstance(a, int) else _floor(a, n)


@lru_cache(maxsize=_REMEMBERED)
def _floor(a: Expr, n: int) -> Dim:
    whole: dict[Monomial, int] = {}
    rest: dict[Monomial, int] = {}
    for monomial, coefficient in a.terms:
        whole[monomial], rest[monomial] = divmod(coefficient, n)
    remainder = _dim(rest)
    if isinstance(remainder, int):
        return _dim(whole)
    return add(_dim(whole), symbol(f"floor(({remainder})/{n})"))


def product(dims: Dims) -> Dim:
    result: Dim = 1
    for dim in dims:
        result = multiply(result, dim)
    return result


def _terms(dim: Dim) -> tuple[tuple[Monomial, int], ...]:
    if isinstance(dim, Expr):
        return dim.terms
    return (((), dim),) if dim else ()


def _dim(total: dict[Monomial, int]) -> Dim:
    terms = tuple(sorted((m, c) for m, c in total.items() if c))
    if not terms:
        return 0
    if len(terms) == 1 and not terms[0][0]:
        return terms[0][1]
    expr = Expr(terms)
    return expr if len(terms) <= MAX_TERMS else symbol(f"({expr})")
