"""What is certain about the values of a model before it runs: types, shapes, small integers."""

from graphopt.ir.facts.dimension import Dim, Dims, Expr, product, symbol
from graphopt.ir.facts.fact import NOTHING, Fact, Item
from graphopt.ir.facts.facts import Facts

__all__ = [
    "NOTHING",
    "Dim",
    "Dims",
    "Expr",
    "Fact",
    "Facts",
    "Item",
    "product",
    "symbol",
]
