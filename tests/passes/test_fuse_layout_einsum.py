"""fuse-layout: Einsum by simpler operators."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rewriting import Outcome, apply, held

from graphopt_passes.fuse_layout import FuseLayout

SIZES = {"b": 2, "h": 3, "i": 4, "j": 5, "k": 6}


def numbers(labels: str, seed: int, dtype: Any = np.float32) -> np.ndarray:
    shape = [SIZES[label] for label in labels]
    return (np.random.default_rng(seed).standard_normal(shape) * 4).astype(dtype)


def fuse(
    equation: str, *, held_second: bool = False, dtype: str = "float", opset: int = 17
) -> Outcome:
    """An Einsum of inputs x and z, or of x and the constant z."""
    left, _, result = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not result and "->" not in equation:
        labels = "".join(terms)
        result = "".join(sorted(label for label in set(labels) if labels.count(label) == 1))

    def typed(labels: str, name: str) -> str:
        dims = ", ".join(str(SIZES[label]) for label in labels)
        return f"{dtype}[{dims}] {name}" if labels else f"{dtype} {name}"

    inputs = [typed(term, name) for term, name in zip(terms, "xz", strict=False)]
    edit = held("z", numbers(terms[1], 2)) if held_second else None
    source = (
        f'<ir_version: 8, opset_import: ["": {opset}]> '
        f"g ({', '.join(inputs[:1] if held_second else inputs)}) => ({typed(result, 'y')}) "
        f'{{ y = Einsum <equation = "{equation}"> ({", ".join("xz"[: len(terms)])}) }}'
    )
    return apply(FuseLayout(), source, edit)


def agrees(outcome: Outcome, equation: str, dtype: Any = np.float32) -> bool:
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    names = [value.name for value in outcome.before.graph.input]
    feed = {
        name: numbers(term, seed, dtype)
        for seed, (name, term) in enumerate(zip("xz", terms, strict=False))
        if name in names
    }
    return outcome.agrees(feed, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("equation", "operators"),
    [
        ("ij->ji", ["Transpose"]),
        ("bhij -> bihj", ["Transpose"]),
        ("ba", ["Transpose"]),
        ("bij->bj", ["ReduceSum"]),
        ("bij->", ["ReduceSum"]),
        ("ij,ij->ij", ["Mul"]),
        ("bij,ij->bij", ["Mul"]),
        ("j,bij->bij", ["Mul"]),
        ("ij,jk->ik", ["MatMul"]),
        ("ij,jk", ["MatMul"]),
        ("jk,ij->ik", ["MatMul"]),
        ("bhij,bhjk->bhik", ["MatMul"]),
        ("bij,jk->bik", ["MatMul"]),
        ("ij,bjk->bik", ["MatMul"]),
        ("bij,j->bi", ["MatMul"]),
        ("j,bjk->bk", ["MatMul"]),
        ("j,j->", ["MatMul"]),
        ("ij,kj->ik", ["Gemm"]),
        ("ji,jk->ik", ["Gemm"]),
        ("ji,kj->ik", ["Gemm"]),
        ("ij,kj->ki", ["Gemm"]),
    ],
)
def test_equations_of_one_operator(equation: str, operators: list[str]) -> None:
    if equation == "ba":
        equation = "kb"
    outcome = fuse(equation)
    assert outcome.operators == operators
    assert agrees(outcome, equation)


@pytest.mark.parametrize(
    ("equation", "reason"),
    [
        ("bij->ji", "it takes both a Transpose and a ReduceSum"),
        ("bihj,bkhj->bhik", "no single operator gives the same"),
        ("bij,bij->b", "it sums over more than one label, or over one of a single input"),
        ("ij,jk->i", "it sums over more than one label, or over one of a single input"),
        ("i,j->ij", "it takes an Unsqueeze or a Transpose as well"),
        ("bi,bij->bij", "it takes an Unsqueeze or a Transpose as well"),
        ("ij,ij->ji", "it takes an Unsqueeze or a Transpose as well"),
        ("bij,bj->bi", "no single operator gives the same"),
        ("bi,hij->bhj", "no single operator gives the same"),
        ("bij,bjk->ibk", "no single operator gives the same"),
    ],
)
def test_equations_of_more_operators(equation: str, reason: str) -> None:
    outcome = fuse(equation)
    assert outcome.operators == ["Einsum"]
    assert outcome.declined == [reason]


@pytest.mark.parametrize("equation", ["ij->ij", "...ij->...ji", "bii->bi"])
def test_equations_that_are_left_alone(equation: str) -> None:
    source = (
        '<ir_version: 8, opset_import: ["": 17]> g (float[4, 5, 5] x) => (float[a, b, c] y) '
        f'{{ y = Einsum <equation = "{equation}"> (x) }}'
    )
    if equation == "bii->bi":
        source = source.replace("[a, b, c]", "[a, b]")
    if equation == "ij->ij":
        source = source.replace("[4, 5, 5]", "[4, 5]").replace("[a, b, c]", "[a, b]")
    assert apply(FuseLayout(), source).operators == ["Einsum"]


@pytest.mark.parametrize("equation", ["bij,kj->bik", "bhij,kj->bhik", "ij,bkj->bik"])
def test_a_constant_is_transposed(equation: str) -> None:
    outcome = fuse(equation, held_second=True)
    assert outcome.operators == ["MatMul"]
    assert agrees(outcome, equation)


def test_integers() -> None:
    outcome = fuse("ij,jk->ik", dtype="int64")
    assert outcome.operators == ["MatMul"]
    assert agrees(outcome, "ij,jk->ik", np.int64)
    assert fuse("ij,kj->ik", dtype="int64").operators == ["Einsum"]


def test_axes_as_an_attribute_in_opset_12() -> None:
    outcome = fuse("bij->bj", opset=12)
    assert [a.name for a in outcome.after.graph.node[0].attribute] == ["axes", "keepdims"]
    assert agrees(outcome, "bij->bj")


def test_sizes_that_may_differ() -> None:
    outcome = apply(
        FuseLayout(),
        '<ir_version: 8, opset_import: ["": 17]> g (float[4, n] x, float[m, 6] z) => '
        '(float[4, 6] y) { y = Einsum <equation = "ij,jk->ik"> (x, z) }',
    )
    assert outcome.operators == ["Einsum"]
    assert outcome.declined == ["the axes 'j' may differ in size"]
