"""keep-blocked: the same numbers, and fewer reorders in what ONNX Runtime makes of the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from quantize_nets import kernels
from rewriting import Outcome, apply, both, held

import graphopt
from graphopt_passes.keep_blocked import KeepBlocked

FIXTURES = Path(__file__).parents[2] / "fixtures"
CPU = "onnxruntime-cpu"
RNG = np.random.default_rng(5)


def squeeze_and_excite(
    *,
    channels: int = 32,
    squeezed: int = 16,
    size: str = "6, 5",
    batch: str = "n",
    excite: str = "Sigmoid (b)",
    gated: str = "Mul (m, g)",
    opset: int = 17,
    target: str = CPU,
) -> Outcome:
    """Of what a Conv makes of an image `x` of 3 channels; another Conv reads it. Unpadded."""
    weights = {
        "w": (channels, 3, 3, 3),
        "s": (squeezed, channels, 1, 1),
        "e": (channels, squeezed, 1, 1),
        "o": (4, channels, 1, 1),
    }
    edits = [
        held(name, (RNG.standard_normal(shape) / 3).astype(np.float32))
        for name, shape in weights.items()
    ]
    source = (
        f'<ir_version: 8, opset_import: ["" : {opset}]> '
        f"g (float[{batch}, 3, {size}] x) => (float[{batch}, 4, c, d] y) {{ "
        "a = Conv <pads = [1, 1, 1, 1]> (x, w) m = Relu (a) p = GlobalAveragePool (m) "
        f"r = Conv (p, s) q = Relu (r) b = Conv (q, e) g = {excite} z = {gated} y = Conv (z, o) }}"
    )
    return apply(KeepBlocked(pad=False), source, both(*edits), target=target)


def image(batch: int = 2) -> dict[str, np.ndarray]:
    return {"x": RNG.standard_normal((batch, 3, 6, 5)).astype(np.float32)}


@pytest.mark.parametrize("opset", [11, 12, 13, 17, 19])
@pytest.mark.parametrize("gated", ["Mul (m, g)", "Mul (g, m)"])
def test_a_gate_is_repeated(opset: int, gated: str, tmp_path: Path) -> None:
    outcome = squeeze_and_excite(opset=opset, gated=gated)
    assert outcome.rewrites == {"repeated-gate": 1}
    assert outcome.operators.count("Resize") == 1
    assert outcome.agrees(image())  # to the bit
    before, after = (kernels(ir.from_proto(m), tmp_path) for m in (outcome.before, outcome.after))
    assert before.count("ReorderInput") > 0
    assert "Upsample" in after
    assert after.count("ReorderInput") == 0
    assert after.count("ReorderOutput") == 1  # of the output of the model


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"channels": 24}, "24 channels do not fill blocks"),
        ({"size": "h, w"}, "the size of the image is not fixed"),
        ({"batch": "?"}, "the batch has no name, by which to tell that it is that of the image"),
        (
            {"opset": 10},
            "Resize needs opset 11 (the model has 10): run set-opset{version=11} first",
        ),
    ],
)
def test_a_gate_that_stays(options: dict[str, Any], reason: str) -> None:
    outcome = squeeze_and_excite(**options)
    assert outcome.reasons == reason
    assert outcome.agrees(image())


@pytest.mark.parametrize(
    "options",
    [
        {"squeezed": 18},  # no blocked kernel reads 18 channels, so the gate is not made in blocks
        {"excite": "Erf (b)"},  # which has no blocked kernel
        {"gated": "Add (m, g)"},  # whose kernel broadcasts
    ],
)
def test_a_gate_that_would_not_be_blocked(options: dict[str, Any]) -> None:
    outcome = squeeze_and_excite(**options)
    assert not outcome.result.modified
    assert not outcome.reasons


def test_a_batch_that_is_a_number() -> None:
    outcome = squeeze_and_excite(batch="2")
    assert outcome.rewrites == {"repeated-gate": 1}
    assert outcome.agrees(image())


def test_other_targets_have_no_blocks() -> None:
    outcome = squeeze_and_excite(target="sm86")
    assert not outcome.result.modified
    assert outcome.notes == "the target 'sm86' has no blocked layout"


@pytest.mark.parametrize(
    ("size", "operators"),
    [("6, 5", ["Conv", "GlobalAveragePool", "Flatten"]), ("h, w", ["Conv", "ReduceMean"])],
)
def test_a_mean_is_pooled(size: str, operators: list[str]) -> None:
    """Within 1e-6: the sums are formed in another order."""
    source = (
        '<ir_version: 8, opset_import: ["" : 17]> '
        f"g (float[n, 3, {size}] x) => (float[n, 16] y) "
        "{ a = Conv (x, w) y = ReduceMean <axes = [2, 3], keepdims = 0> (a) }"
    )
    weight = held("w", RNG.standard_normal((16, 3, 3, 3)).astype(np.float32))
    outcome = apply(KeepBlocked(), source, weight, target=CPU)
    assert outcome.operators == operators
    assert outcome.agrees(image(), rtol=1e-6, atol=1e-6)


def test_quantize_ends_with_it_and_lossless_takes_it_back(tmp_path: Path) -> None:
    """The fixture stays float; reorders fall from 14 to 1, behind the last pool."""
    path = FIXTURES / "mobilenet.onnx"
    result = graphopt.optimize(
        path, "quantize", calibration=FIXTURES / "calib.npz", target=CPU, latency=False
    )
    notes = result.report.steps[-1].notes
    assert "keep-blocked, for what is float: 2 x padded-group, 4 x repeated-gate" in notes
    assert "2 groups of channels padded to fill blocks: +0.8% weights" in notes
    names = kernels(result.model, tmp_path)
    assert sum(name.startswith("Reorder") for name in names) == 1

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    x = np.load(FIXTURES / "eval.npz")["image"][:8]
    outputs = [
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(
            None, {"image": x}
        )[0]
        for model in (path.read_bytes(), ir.to_proto(result.model).SerializeToString())
    ]
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=0, atol=2e-5)

    again = graphopt.optimize(result.model, "lossless", target=CPU, latency=False).model
    assert not any(node.op_type == "Resize" for node in again.graph)
