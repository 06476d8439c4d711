"""The nets that the quantization benchmark makes hard compute what they computed before."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hard_nets import add_outliers, imbalance

import graphopt
from graphopt.runtime.session import Session

FIXTURES = Path(__file__).parents[2] / "fixtures"
Make = Callable[..., ir.Model]


def images() -> np.ndarray:
    with np.load(FIXTURES / "eval.npz") as file:
        return file["image"][:32]


def logits(model: ir.Model) -> np.ndarray:
    return Session(model, threads=1).run({"image": images()})["logits"]


def weights(model: ir.Model) -> dict[str, np.ndarray]:
    return {
        name: value.const_value.numpy()
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
    }


@pytest.mark.parametrize("passes", ["", "lossless"])
@pytest.mark.parametrize(
    ("name", "make", "changed"),
    [
        ("mobilenet", imbalance, 18),
        ("mobilenet", partial(imbalance, pairs_only=True), 14),
        ("resnet", imbalance, 10),
        ("vit", add_outliers, 16),
    ],
)
def test_outputs_are_the_same_to_the_bit(name: str, make: Make, changed: int, passes: str) -> None:
    model = graphopt.load(FIXTURES / f"{name}.onnx")
    if passes:
        model = graphopt.optimize(model, passes, verify="off").model
    before = weights(model)
    hard = make(model)
    np.testing.assert_array_equal(logits(hard), logits(model))
    after = weights(hard)
    moved = [name for name in before if not np.array_equal(before[name], after[name])]
    assert len(moved) >= changed
    assert all(np.array_equal(weights(model)[name], before[name]) for name in before)


def test_channels_become_imbalanced() -> None:
    model = graphopt.load(FIXTURES / "mobilenet.onnx")
    gains = []
    for net in (model, imbalance(model)):
        scale = np.abs(weights(net)["blocks.0.expand.0.1.weight"])
        gains.append(float(scale.max() / scale.min()))
    assert gains[1] > 10 * gains[0]


def test_the_seed_decides() -> None:
    model = graphopt.load(FIXTURES / "mobilenet.onnx")
    texts = [ir.to_proto(imbalance(model, seed)).SerializeToString() for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(("name", "make"), [("vit", imbalance), ("resnet", add_outliers)])
def test_a_net_without_such_channels_is_refused(name: str, make: Make) -> None:
    with pytest.raises(ValueError, match="no "):
        make(graphopt.load(FIXTURES / f"{name}.onnx"))
