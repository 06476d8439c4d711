"""fuse-pad: which Pads go into a Conv or a pooling, and which must not."""

from __future__ import annotations

import numpy as np
import pytest
from rewriting import Outcome, apply, held

from graphopt_passes.fuse_pad import FusePad

RNG = np.random.default_rng(0)
IMAGE = "float[N, 3, H, W] x"


def fuse(
    body: str, amounts: list[int] | None = None, *, opset: int = 17, inputs: str = IMAGE
) -> Outcome:
    """A model with `w`, the weight of a Conv, and `p`, the amounts of a Pad."""
    weight = held("w", RNG.standard_normal((4, 3, 3, 3)).astype(np.float32))

    def edit(model):  # type: ignore[no-untyped-def]
        weight(model)
        if amounts is not None:
            held("p", np.array(amounts, np.int64))(model)

    text = (
        f'<ir_version: 8, opset_import: ["" : {opset}]> '
        f"g ({inputs}) => (float[A, B, C, D] y) <float zero = {{0}}, float one = {{1}}> "
        f"{{ {body} }}"
    )
    return apply(FusePad(), text, edit)


def agrees(outcome: Outcome) -> bool:
    """Within 1e-6, on data of both signs: sums over zeros may be formed in another order."""
    x = RNG.standard_normal((2, 3, 9, 8)).astype(np.float32)
    return outcome.agrees({"x": x}, rtol=1e-6, atol=1e-6)


ASYMMETRIC = [0, 0, 1, 0, 0, 0, 2, 3]


@pytest.mark.parametrize(
    "pad", ["Pad (x, p)", "Pad (x, p, zero)", 'Pad <mode = "constant"> (x, p)']
)
@pytest.mark.parametrize(
    ("conv", "pads"),
    [
        ("Conv (q, w)", [1, 0, 2, 3]),
        ("Conv <pads = [0, 1, 2, 0], strides = [2, 1]> (q, w)", [1, 1, 4, 3]),
        ('Conv <auto_pad = "VALID", dilations = [2, 2]> (q, w)', [1, 0, 2, 3]),
    ],
)
def test_into_a_conv(pad: str, conv: str, pads: list[int]) -> None:
    outcome = fuse(f"q = {pad} \n y = {conv}", ASYMMETRIC)
    assert outcome.operators == ["Conv"]
    (node,) = outcome.after.graph.node
    assert next(list(a.ints) for a in node.attribute if a.name == "pads") == pads
    assert not any(a.name == "auto_pad" for a in node.attribute)
    assert agrees(outcome)


@pytest.mark.parametrize("opset", [7, 10])
def test_amounts_as_attributes(opset: int) -> None:
    outcome = fuse("q = Pad <pads = [0, 0, 1, 0, 0, 0, 2, 3]> (x) \n y = Conv (q, w)", opset=opset)
    assert outcome.operators == ["Conv"]
    assert agrees(outcome)
    other = "q = Pad <pads = [0, 0, 1, 0, 0, 0, 2, 3], value = 1.0> (x) \n y = Conv (q, w)"
    assert not fuse(other, opset=opset).result.modified


@pytest.mark.parametrize("axes", ["{2, 3}", "{-2, -1}", "{3, 2}"])
def test_axes(axes: str) -> None:
    body = f"a = Constant <value = int64[2] {axes}> () \n q = Pad (x, p, , a) \n y = Conv (q, w)"
    outcome = fuse(body, [1, 0, 2, 3], opset=18)
    assert outcome.operators == ["Conv"]
    assert agrees(outcome)


@pytest.mark.parametrize(
    "pool",
    [
        "AveragePool <kernel_shape = [3, 4]> (q)",
        "AveragePool <kernel_shape = [3, 4], count_include_pad = 1, strides = [2, 2]> (q)",
        "AveragePool <kernel_shape = [4, 4], count_include_pad = 1, pads = [1, 1, 1, 0]> (q)",
    ],
)
def test_into_an_average_pool(pool: str) -> None:
    outcome = fuse(f"q = Pad (x, p) \n y = {pool}", ASYMMETRIC)
    assert outcome.operators == ["AveragePool"]
    assert agrees(outcome)


@pytest.mark.parametrize(
    "source", ["Relu (x)", "Abs (x)", "Sigmoid (x)", "Clip (x, zero, one)", "Clip (x, one)"]
)
def test_zeros_into_a_max_pool_of_what_is_not_negative(source: str) -> None:
    outcome = fuse(
        f"r = {source} \n q = Pad (r, p) \n y = MaxPool <kernel_shape = [3, 4]> (q)", ASYMMETRIC
    )
    assert outcome.operators == [source.split()[0], "MaxPool"]
    assert agrees(outcome)


def test_minus_infinity_into_a_max_pool() -> None:
    body = (
        "i = Constant <value_float = -inf> () \n q = Pad (x, p, i) "
        "\n y = MaxPool <kernel_shape = [3, 4], strides = [2, 2]> (q)"
    )
    outcome = fuse(body.replace("<value_float = -inf>", "<value = float {-inf}>"), ASYMMETRIC)
    assert outcome.operators == ["MaxPool"]
    assert agrees(outcome)


@pytest.mark.parametrize(
    ("body", "amounts", "reason"),
    [
        ('q = Pad <mode = "edge"> (x, p) \n y = Conv (q, w)', ASYMMETRIC, "in mode 'edge'"),
        ('q = Pad <mode = "reflect"> (x, p) \n y = Conv (q, w)', ASYMMETRIC, "in mode 'reflect'"),
        ("q = Pad (x, p, one) \n y = Conv (q, w)", ASYMMETRIC, "it pads with 1"),
        ("q = Pad (x, p) \n y = Conv (q, w)", [0, 0, -1, 0, 0, 0, 2, 3], "it crops"),
        ("q = Pad (x, p) \n y = Conv (q, w)", [1, 0, 0, 0, 0, 0, 0, 0], "batch or the channels"),
        (
            'q = Pad (x, p) \n y = Conv <auto_pad = "SAME_UPPER"> (q, w)',
            ASYMMETRIC,
            "auto_pad SAME",
        ),
        (
            "q = Pad (x, p) \n c = Conv (q, w) \n m = ReduceMax (q) \n y = Add (c, m)",
            ASYMMETRIC,
            "is used elsewhere too",
        ),
        ("q = Pad (x, p) \n y = MaxPool <kernel_shape = [3, 4]> (q)", ASYMMETRIC, "may be less"),
        (
            "r = Clip (x, , one) \n q = Pad (r, p) \n y = MaxPool <kernel_shape = [3, 4]> (q)",
            ASYMMETRIC,
            "may be less",
        ),
        (
            "r = Relu (x) \n q = Pad (r, p) \n y = MaxPool <kernel_shape = [2, 2]> (q)",
            ASYMMETRIC,
            "would pad a whole window",
        ),
        (
            "r = Relu (x) \n q = Pad (r, p) "
            "\n y = MaxPool <kernel_shape = [3, 4], strides = [2, 2], ceil_mode = 1> (q)",
            ASYMMETRIC,
            "rounds its size up",
        ),
        (
            "r = Relu (x) \n q = Pad (r, p) "
            "\n y = MaxPool <kernel_shape = [3, 4], dilations = [2, 1]> (q)",
            ASYMMETRIC,
            "is dilated",
        ),
        (
            "q = Pad (x, p) \n y = AveragePool <kernel_shape = [4, 4], pads = [1, 1, 1, 0]> (q)",
            ASYMMETRIC,
            "not those of its own pads",
        ),
        (
            "q = Pad (x, p, one) \n y = AveragePool <kernel_shape = [4, 4]> (q)",
            ASYMMETRIC,
            "it pads with 1",
        ),
    ],
)
def test_what_stays(body: str, amounts: list[int], reason: str) -> None:
    outcome = fuse(body, amounts)
    assert not outcome.result.modified
    assert reason in outcome.reasons


def test_amounts_and_values_that_are_not_constant() -> None:
    for inputs, pad, reason in (
        (f"{IMAGE}, int64[8] p", "Pad (x, p)", "how much it pads is not constant"),
        (f"{IMAGE}, float v", "Pad (x, k, v)", "what it pads with is not constant"),
    ):
        body = (
            "k = Constant <value = int64[8] {0, 0, 1, 1, 0, 0, 1, 1}> () "
            f"\n q = {pad} \n y = Conv (q, w)"
        )
        outcome = fuse(body, inputs=inputs)
        assert not outcome.result.modified
        assert reason in outcome.reasons


def test_indices_of_a_max_pool_stay_with_their_pad() -> None:
    outcome = fuse(
        "r = Relu (x) \n q = Pad (r, p) \n m, i = MaxPool <kernel_shape = [3, 4]> (q) "
        "\n j = Cast <to = 1> (i) \n y = Add (m, j)",
        ASYMMETRIC,
    )
    assert not outcome.result.modified


def test_integer_convolutions_stay() -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> '
        "g (uint8[1, 1, 4, 4] x) => (int32[A, B, C, D] y) "
        "<int64[8] p = {0, 0, 1, 1, 0, 0, 1, 1}, uint8[1, 1, 2, 2] w = {1, 2, 3, 4}, "
        "uint8 z = {3}> { q = Pad (x, p) \n y = ConvInteger (q, w, z) }"
    )
    assert not apply(FusePad(), text).result.modified
