"""keep-blocked: channels that are added so that images stay in blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from quantize_nets import kernels
from rewriting import Outcome, apply, both, held, run

import graphopt
from graphopt.pipeline.base import PassContext
from graphopt.targets import get_target
from graphopt_passes.keep_blocked import KeepBlocked

FIXTURES = Path(__file__).parents[2] / "fixtures"
CPU = "onnxruntime-cpu"
RNG = np.random.default_rng(6)
HEAD = "y0 = Conv (z, o) y = Conv (y0, big)"
SUMS = {"rtol": 1e-5, "atol": 1e-5}
"""Adding zeros may change the order of sums, and nothing else."""


def weight(name: str, *shape: int) -> Any:
    return held(name, (RNG.standard_normal(shape) / 3).astype(np.float32))


def padded(
    body: str,
    *,
    channels: int = 24,
    others: Any = (),
    declared: str = "",
    head: str = HEAD,
    out: str = "float[n, 64, c, d] y",
    opset: int = 17,
    pad: bool = True,
) -> Outcome:
    """A Conv makes `a` of an image, `body` makes `z` of it, and Convs of 64 channels read that.

    The last of these, `big`, has so many weights that the others may grow.
    """
    edits = [
        weight("w", channels, 3, 3, 3),
        weight("b", channels),
        weight("o", 64, channels, 1, 1),
        weight("big", 64, 64, 3, 3),
        *others,
    ]
    source = (
        f'<ir_version: 8, opset_import: ["" : {opset}]> '
        f"g (float[n, 3, 10, 8] x{declared}) => ({out}) {{ "
        f"a = Conv <pads = [1, 1, 1, 1]> (x, w, b) {body} {head} }}"
    )
    return apply(KeepBlocked(pad=pad), source, both(*edits), target=CPU)


def image() -> dict[str, np.ndarray]:
    return {"x": RNG.standard_normal((2, 3, 10, 8)).astype(np.float32)}


POOL = "MaxPool <kernel_shape = [2, 2], strides = [2, 2]>"
BODIES = {
    "pool": (f"z = {POOL} (a)", ()),
    "mean": ("z = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (a)", ()),
    "activations": (
        f"r = Relu (a) h = HardSigmoid (r) t = Tanh (h) c = Clip (t) z = {POOL} (c)",
        (),
    ),
    "depthwise": (
        f"e = Conv <group = 24, pads = [1, 1, 1, 1]> (a, dw, db) z = {POOL} (e)",
        (weight("dw", 24, 1, 3, 3), weight("db", 24)),
    ),
    "gate": (
        "p = GlobalAveragePool (a) r = Conv (p, s) q = Relu (r) f = Conv (q, e) g = Sigmoid (f) "
        "z = Mul (a, g)",
        (weight("s", 18, 24, 1, 1), weight("e", 24, 18, 1, 1)),
    ),
    "sum": (
        f"e = Conv (a, v) m = Add (a, e) z = {POOL} (m)",
        (weight("v", 24, 24, 1, 1),),
    ),
    "norm": (
        f"e = BatchNormalization (a, scale, shift, scale, scale) z = {POOL} (e)",
        (held("scale", np.linspace(1, 2, 24, dtype=np.float32)), weight("shift", 24)),
    ),
    "resize": (
        f'e = Resize <mode = "linear"> (a, none, scales) z = {POOL} (e)',
        (
            held("none", np.zeros(0, np.float32)),
            held("scales", np.array([1, 1, 2, 3], np.float32)),
        ),
    ),
    "constants": (
        f"e = Mul (a, k) f = Add (l, e) h = Add (f, half) z = {POOL} (h)",
        (weight("k", 24, 1, 1), weight("l", 1, 24, 1, 1), held("half", np.full(1, 0.5, "f"))),
    ),
}


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("body", list(BODIES))
def test_what_carries_channels(body: str, opset: int) -> None:
    outcome = padded(BODIES[body][0], others=BODIES[body][1], opset=opset)
    assert outcome.rewrites["padded-group"] == (2 if body == "gate" else 1)
    sizes = {name: array.shape for name, array in outcome.initializers.items()}
    assert (sizes["w"][0], sizes["o"][1]) == (32, 32)
    assert outcome.agrees(image(), **SUMS)


@pytest.mark.parametrize(
    ("vector", "head", "shape", "opset"),
    [
        ("Flatten (p)", "Gemm (v, m)", (24, 5), 17),
        ("Reshape (p, sizes)", "Gemm <transB = 1> (v, m)", (5, 24), 17),
        ("Squeeze (p, axes)", "MatMul (v, m)", (24, 5), 17),
        ("Squeeze <axes = [2, 3]> (p)", "Gemm (v, m)", (24, 5), 11),
    ],
)
@pytest.mark.parametrize("pool", ["GlobalAveragePool", "ReduceMean <axes = [2, 3]>"])
def test_a_classifier(
    pool: str, vector: str, head: str, shape: tuple[int, int], opset: int
) -> None:
    outcome = padded(
        f"p = {pool} (a) v = {vector}",
        others=(
            weight("m", *shape),
            held("sizes", np.array([-1, 24])),
            held("axes", np.array([2, 3])),
            weight("v2", 5, 3, 30, 30),
        ),
        head=f"l = {head} f = Conv <pads = [10, 11, 10, 11]> (x, v2) y = Add (l, l)",
        out="float[n, 5] y",
        opset=opset,
    )
    assert outcome.rewrites["padded-group"] == 1
    assert 32 in outcome.initializers["m"].shape
    assert outcome.agrees(image(), **SUMS)


def test_squeezed_channels_need_less(tmp_path: Path) -> None:
    """A multiple of 4 is enough for a Conv, and the gate that it makes can be repeated then."""
    body = "p = GlobalAveragePool (a) r = Conv (p, s) f = Conv (r, e) z = Mul (a, f)"
    others = (weight("s", 18, 32, 1, 1), weight("e", 32, 18, 1, 1))
    outcome = padded(body, channels=32, others=others)
    assert outcome.rewrites == {"padded-group": 1, "repeated-gate": 1}
    assert outcome.initializers["s"].shape == (20, 32, 1, 1)
    assert outcome.initializers["e"].shape == (32, 20, 1, 1)
    assert outcome.agrees(image(), **SUMS)
    found = [kernels(ir.from_proto(m), tmp_path) for m in (outcome.before, outcome.after)]
    assert [names.count("ReorderInput") for names in found] == [1, 0]
    assert "padded to fill blocks: +0.3% weights" in outcome.notes


BARRIERS = {
    "concatenated": ("c = Concat <axis = 1> (p, p) z = Conv (c, f)", [weight("f", 24, 48, 1, 1)]),
    "reshaped": ("r = Reshape (p, s) z = Neg (r)", [held("s", np.array([0, 24, 4, 5]))]),
    "transposed": ("z = Transpose <perm = [0, 1, 3, 2]> (p)", []),
    "grouped": ("z = Conv <group = 2> (p, f)", [weight("f", 24, 12, 1, 1)]),
    "not finite of zero": ("r = Abs (p) l = Log (r) z = Neg (l)", []),
    "divided": ("e = Exp (p) z = Div (p, e)", []),
    "an infinite constant": (
        "i = Add (p, k) z = Sigmoid (i)",
        [held("k", np.full(1, np.inf, np.float32))],
    ),
    "a constant for each pixel": ("z = Add (p, k)", [weight("k", 24, 5, 4)]),
    "summed over": ("m = ReduceMean <axes = [1]> (p) z = Mul (p, m)", []),
    "a size of channels": (
        "z = Resize (p, none, none, s)",
        [held("none", np.zeros(0, np.float32)), held("s", np.array([2, 24, 10, 8]))],
    ),
    "read by a branch": (
        "t = Size (x) u = Cast <to = 9> (t) "
        "z = If (u) <then_branch = one () => (float[n, 24, h, i] o1) { o1 = Relu (p) }, "
        "else_branch = two () => (float[n, 24, h, i] o2) { o2 = Tanh (p) }>",
        [],
    ),
    "quantized": (
        "q = QuantizeLinear (p, k, zero) z = DequantizeLinear (q, k, zero)",
        [held("k", np.array(0.1, np.float32)), held("zero", np.array(0, np.int8))],
    ),
    "a quantized weight": (
        "d = DequantizeLinear (k, scale) z = Conv (p, d)",
        [held("k", np.ones((24, 24, 1, 1), np.int8)), held("scale", np.array(0.1, np.float32))],
    ),
    "a weight that is shared": (
        "s = Conv (x, w) t = ReduceMax <keepdims = 0> (s) z = Relu (p)",
        [],
    ),
    "indices of pixels": (
        "z, i = MaxPool <kernel_shape = [1, 1]> (p) c = Cast <to = 1> (i) d = ReduceMax (c)",
        [],
    ),
}


def behind_a_pool(body: str, others: Any = ()) -> Outcome:
    return padded(f"p = {POOL} (a) {body}", others=others)


@pytest.mark.parametrize("barrier", list(BARRIERS))
def test_what_leaves_channels_as_they_are(barrier: str) -> None:
    assert behind_a_pool("z = Relu (p)").result.modified
    outcome = behind_a_pool(*BARRIERS[barrier])
    assert not outcome.result.modified
    assert not outcome.notes


def test_outputs_and_inputs_keep_their_channels() -> None:
    out = "float[n, 64, c, d] y, float[n, 24, e, f] a"
    assert not padded(f"z = {POOL} (a)", out=out).result.modified
    assert not padded(
        f"s = Add (a, x2) z = {POOL} (s)", declared=", float[n, 24, 10, 8] x2"
    ).result.modified
    given = ", float[64, 24, 1, 1] o2"
    head = HEAD.replace("o)", "o2)")
    assert not padded(f"z = {POOL} (a)", declared=given, head=head).result.modified


def test_a_part_that_is_no_image_in_blocks() -> None:
    """No blocked kernel reads 18 channels, which an output keeps: what is made of them stays."""
    outcome = padded(
        f"c = Conv (a, f) z = {POOL} (c)",
        channels=18,
        others=(weight("f", 24, 18, 1, 1), weight("o2", 64, 24, 1, 1)),
        head=HEAD.replace("o)", "o2)"),
        out="float[n, 64, c, d] y, float[n, 18, e, f] a",
    )
    assert not outcome.result.modified


def test_what_is_made_of_such_a_part_stays_too() -> None:
    """Round the ring of `s`, each Conv could take what the other made, were it padded."""
    outcome = padded(
        f"c = Conv (a, f) s = Conv (c, v) t = Conv (s, v2) m = Add (c, t) z = {POOL} (m)",
        channels=18,
        others=[weight(name, 18, 18, 1, 1) for name in ("f", "v", "v2")],
        out="float[n, 64, c, d] y, float[n, 18, e, f] a",
    )
    assert not outcome.result.modified


def test_shapes_that_the_model_states_are_those_of_more_channels() -> None:
    """Of indices that nobody reads, too."""

    def state(model: onnx.ModelProto) -> None:
        stated = [("z", onnx.TensorProto.FLOAT), ("i", onnx.TensorProto.INT64)]
        infos = [onnx.helper.make_tensor_value_info(*v, ["n", 24, 5, 4]) for v in stated]
        model.graph.value_info.extend(infos)

    outcome = padded(f"z, i = {POOL} (a)", others=[state])
    assert outcome.rewrites == {"padded-group": 1}
    onnx.checker.check_model(outcome.after, full_check=True)


@pytest.mark.parametrize("channels", [8, 32, 48])
def test_what_fills_blocks_or_less_than_one(channels: int) -> None:
    assert not padded(f"z = {POOL} (a)", channels=channels).result.modified


def test_what_no_pool_and_no_gate_reads_stays() -> None:
    """The kernels of Conv take 24 channels."""
    assert not padded("z = Relu (a)").result.modified


def test_a_bias_that_is_shared() -> None:
    """The other Conv has an image of its own, which is an output."""
    outcome = padded(
        f"r = Conv <pads = [1, 1, 1, 1]> (x, v, b) z = {POOL} (a)",
        others=(weight("v", 24, 3, 3, 3),),
        out="float[n, 64, c, d] y, float[n, 24, e, f] r",
    )
    assert outcome.rewrites == {"padded-group": 1}
    assert outcome.initializers["b"].shape == (24,)
    assert outcome.agrees(image(), **SUMS)


def test_weights_grow_by_a_tenth_at_the_most() -> None:
    outcome = padded(f"z = {POOL} (a)", head="y = Conv (z, o)")
    assert not outcome.result.modified
    expected = "1 group of channels not padded to fill blocks, since weights would grow by 33%"
    assert outcome.notes == expected


def test_the_option() -> None:
    assert not padded(f"z = {POOL} (a)", pad=False).result.modified
    assert graphopt.parse("keep-blocked{pad=false}").steps == (KeepBlocked(pad=False),)


def test_a_fixture_has_fewer_reorders(tmp_path: Path) -> None:
    """Gates of 72 channels, squeezed to 18. The logits differ by less than 1e-5 of the peak."""
    source = graphopt.optimize(
        FIXTURES / "mobilenet.onnx", "lossless", target=CPU, verify="off", latency=False
    ).model
    reorders, models = [], []
    for pad in (False, True):
        model = source.clone()
        KeepBlocked(pad=pad).run(model, PassContext(target=get_target(CPU)))
        names = kernels(model, tmp_path)
        reorders.append((names.count("ReorderInput"), names.count("ReorderOutput")))
        models.append(ir.to_proto(model))
    assert all(after < before for before, after in zip(*reorders, strict=True))
    assert reorders[1][0] == 0
    feed = {"image": np.load(FIXTURES / "eval.npz")["image"][:8]}
    (one,), (other,) = (run(model, feed) for model in models)
    np.testing.assert_allclose(other, one, rtol=0, atol=1e-5 * np.abs(one).max())
