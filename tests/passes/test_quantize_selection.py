"""Which layers the options of `quantize` choose, by the names that the user knows."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from quantize_nets import net, quantize

from graphopt.errors import GraphoptError

CONV = "Conv<pads=[1,1,1,1]>"
W = (16, 4, 3, 3)
V = (16, 16, 3, 3)
ONES = {name: np.ones(16, np.float32) for name in "somv"}


def left(model: ir.Model, **options: Any) -> dict[str, str]:
    """The layers that stay float, each with the reason."""
    return {row["node"]: row["reason"] for row in quantize(model, **options).details["float"]}


def chain() -> ir.Model:
    text = "a = MatMul(x, w) b = MatMul(a, w) c = MatMul(b, w) y = Gemm(c, w)"
    return net(text, "float[N, 8] x", "float[N, 8] y", w=(8, 8))


@pytest.mark.parametrize(
    ("patterns", "included"),
    [
        (("a",), ["a"]),
        (("[bc]",), ["b", "c"]),
        (("Gemm", "a"), ["a", "y"]),
        (("Conv", "*"), ["a", "b", "c", "y"]),
        (("Conv",), []),
    ],
)
def test_only_what_is_included_is_quantized(patterns: tuple[str, ...], included: list[str]) -> None:
    found = left(chain(), include=patterns)
    assert [name for name in "abcy" if name not in found] == included
    assert set(found.values()) <= {"not included"}


def test_what_is_included_and_excluded_stays_float() -> None:
    found = left(chain(), include=("MatMul",), exclude=("b",))
    assert found == {"b": "excluded", "y": "not included"}


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_name_that_is_nowhere_is_a_mistake(option: str) -> None:
    model = net("head = MatMul(x, w) y = Relu(head)", "float[N, 8] x", "float[N, 8] y", w=(8, 8))
    for canonicalize in (False, True):
        with pytest.raises(
            GraphoptError,
            match=f"{option}: no node or operator is called 'haed'; did you mean 'head'",
        ):
            quantize(model, canonicalize=canonicalize, **{option: ("haed",)})


def fused() -> ir.Model:
    """Two Convs, each with what becomes part of it."""
    return net(
        f"first = {CONV}(x, w) norm = BatchNormalization(first, s, o, m, v) r = Relu(norm)"
        f" second = {CONV}(r, u) y = Mul(second, s4)",
        w=W,
        u=V,
        s4=np.full((16, 1, 1), 2, np.float32),
        **ONES,
    )


@pytest.mark.parametrize(
    ("pattern", "operands"),
    [
        ("first", ["r"]),
        ("norm", ["r"]),
        ("second", ["x"]),
        ("y", ["x"]),
        ("fir*", ["r"]),
        ("BatchNormalization", ["x", "r"]),  # an operator, of which none is left
        ("Conv", []),
        ("r", ["x", "r"]),
    ],
)
def test_a_node_that_was_fused_is_found_in_what_took_it_in(
    pattern: str, operands: list[str]
) -> None:
    result = quantize(fused(), canonicalize=True, exclude=(pattern,))
    tensors = [row["tensor"] for row in result.details.get("tensors", [])]
    assert tensors == operands
    gone = "exclude: nothing is left of 'BatchNormalization' once the model is simplified"
    assert (gone in result.notes) == (pattern == "BatchNormalization")


def test_a_matmul_that_became_a_gemm_is_found() -> None:
    model = net(
        "m = MatMul(x, w) a = Add(m, b) r = Relu(a) y = MatMul(r, u)",
        "float[N, 16] x",
        "float[N, 32] y",
        w=(16, 32),
        b=(32,),
        u=(32, 32),
    )
    for pattern in ("m", "a"):
        result = quantize(model, canonicalize=True, include=(pattern,))
        assert [row["tensor"] for row in result.details["tensors"]] == ["x"], pattern


@pytest.mark.parametrize(
    "text",
    [
        f"i = Identity(x) y = {CONV}(i, w)",
        f"c = {CONV}(x, w) i = Identity(c) y = Relu(i)",
        f"c = {CONV}(x, w) i = Identity(c) y = {CONV}(i, u)",
    ],
)
def test_a_node_that_is_gone_is_told_and_does_not_take_its_neighbour_with_it(text: str) -> None:
    model = net(text, w=W, **({"u": V} if "u)" in text else {}))
    result = quantize(model, canonicalize=True, exclude=("i",))
    assert result.rewrites["int8-conv"] == text.count("Conv")
    assert "exclude: nothing is left of 'i' once the model is simplified" in result.notes


# Layers between float nodes, and whether their pair pays.
ALONE = {
    "few outputs": ("t = Tanh(x) c = Conv(t, k) y = Exp(c)", {"k": (2, 4, 1, 1)}, False),
    "many outputs": ("t = Tanh(x) c = Conv(t, k) y = Exp(c)", {"k": (16, 4, 1, 1)}, True),
    "many taps": ("t = Exp(x) c = Conv(t, k) y = Exp(c)", {"k": (2, 4, 3, 3)}, True),
    "a layer above": (
        f"d = {CONV}(x, w) t = Relu(d) c = Conv(t, k) y = Exp(c)",
        {"k": (2, 16, 1, 1), "w": W},
        True,
    ),
    "a layer below": (
        f"e = Exp(x) c = Conv(e, k) r = Relu(c) d = {CONV}(r, w) y = Exp(d)",
        {"k": (4, 4, 1, 1), "w": W},
        True,
    ),
    "a layer beside it": (
        f"e = Exp(x) c = Conv(e, k) d = {CONV}(e, w) f = Exp(d) g = Exp(c) y = Add(f, g)",
        {"k": (1, 4, 1, 1), "w": W},
        True,
    ),
    "nothing at all beside it": ("y = Conv(x, k)", {"k": (2, 4, 1, 1)}, True),
    "two in a row": (
        "e = Exp(x) c = Conv(e, k) r = Relu(c) d = Conv(r, l) y = Exp(d)",
        {"k": (2, 4, 1, 1), "l": (4, 2, 1, 1)},
        True,
    ),
}


@pytest.mark.parametrize("name", ALONE)
def test_a_small_layer_alone_between_float_nodes_stays_float(name: str) -> None:
    text, weights, quantized = ALONE[name]
    found = left(net(text, **weights), islands=False)
    assert ("c" in found or "y" in found) != quantized
    if not quantized:
        assert found["c"].startswith("alone between float nodes")
        assert left(net(text, **weights), islands=True) == {}


SQUEEZE = (
    f"d = {CONV}(x, w) p = {{pool}} (d) r = Conv (p, k) {{activation}} e = Conv (s, l) "
    "g = Sigmoid (e) y = Mul (d, g)"
)
SILU = "t = Sigmoid (r) s = Mul (r, t)"


@pytest.mark.parametrize(
    ("channels", "pool", "activation", "floating"),
    [
        (4, "GlobalAveragePool", "s = Relu (r)", {"r", "e"}),
        (2, "ReduceMean <axes=[2, 3]>", SILU, {"r", "e"}),
        (5, "GlobalAveragePool", "s = Relu (r)", set()),
        (4, "MaxPool <kernel_shape=[2, 2]>", "s = Relu (r)", set()),
    ],
)
def test_a_narrow_squeeze_stays_float(
    channels: int, pool: str, activation: str, floating: set[str]
) -> None:
    text = SQUEEZE.format(pool=pool, activation=activation)
    if pool.startswith("MaxPool"):
        text = text.replace("Mul (d, g)", "Relu (g)")
    weights = {"w": W, "k": (channels, W[0], 1, 1), "l": (W[0], channels, 1, 1)}
    found = left(net(text, **weights), islands=False)
    assert set(found) == floating
    assert all(reason.startswith("squeezes what is pooled") for reason in found.values())
    assert left(net(text, **weights), islands=True) == {}
