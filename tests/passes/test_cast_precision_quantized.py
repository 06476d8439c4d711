"""`cast-precision` after `quantize`: 8 bits where they fuse, fp16 elsewhere."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import onnx
import pytest
from casting import Cast, cast, noise, proto

import graphopt
from graphopt.data.feeds import input_specs
from graphopt.data.samples import open_samples
from graphopt.emit.tensorrt import batch_shapes
from graphopt.targets import get_target
from graphopt_passes.cast_precision import implementation

SCALES = {"sx": 0.02, "sw": np.full(8, 0.004, np.float32)}
ZEROS = {"z": np.array(0, np.int8), "zw": np.zeros(8, np.int8)}
WEIGHT = {"w": np.random.default_rng(0).integers(-127, 128, (8, 8)).astype(np.int8)}
PLAIN = "equalize=false,round_weights=false,tune_ranges=false,correct_bias=false"
BODY = """
    q = QuantizeLinear (x, sx, z)
    d = DequantizeLinear (q, sx, z)
    k = DequantizeLinear <axis = 0> (w, sw, zw)
    h = Gemm <transB = 1> (d, k, b)
    r = Tanh (h)
    y = Mul (r, r)
"""


def quantized(opset: int = 19, **changed: object) -> onnx.ModelProto:
    constants = {**SCALES, **ZEROS, **WEIGHT, "b": noise(8), **changed}
    return proto(BODY, opset=opset, ir_version=9, **constants)


@pytest.mark.parametrize("opset", [13, 17, 19, 21, 23])
@pytest.mark.parametrize("calibrated", [True, False])
def test_scales_become_low_and_integers_stay(opset: int, calibrated: bool) -> None:
    feed = {"x": noise(2, 8)}
    found: Cast = cast(quantized(opset), feed if calibrated else None)
    assert found.after.opset_import[0].version == max(opset, 19)
    assert found.type_of("w") == "INT8"
    assert found.type_of("sw") == found.type_of("d") == found.type_of("k") == "FLOAT16"
    assert found.operators.count("Cast") == 1, "the input is quantized as it is; the output is cast"
    assert found.sqnr(feed) > 55


def test_weights_too_small_for_fp16_stay_with_what_reads_them() -> None:
    feed = {"x": noise(2, 8)}
    found = cast(quantized(sw=np.full(8, 1e-9, np.float32)), feed)
    assert found.type_of("sw") == found.type_of("h") == "FLOAT"
    assert found.type_of("r") == "FLOAT16"
    assert found.sqnr(feed) > 55


def test_a_channel_without_weights_gets_no_scale_of_0() -> None:
    scales = np.full(8, 0.004, np.float32)
    scales[3] = 1e-12
    found = cast(quantized(sw=scales))
    assert found.type_of("sw") == found.type_of("k") == "FLOAT"
    assert found.type_of("h") == "FLOAT16"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="TensorRT-RTX is for x86_64 only")
@pytest.mark.parametrize(
    ("name", "pipeline", "integers"),
    [
        ("resnet", f"lossless,quantize{{samples=16,{PLAIN}}},cast-precision", 12),
        ("resnet", "fp16", 0),
        ("vit", "fp16", 0),
    ],
)  # fmt: skip
def test_engines_have_no_fp32_layer(
    name: str, pipeline: str, integers: int, fixtures: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    model = graphopt.load(fixtures / f"{name}.onnx")
    samples = open_samples(str(fixtures / "calib.npz"), input_specs(model))
    result = graphopt.optimize(model, pipeline, calibration=samples, target="sm86", verify="off")
    graphopt.save(result.model, tmp_path / "model.onnx")
    report = graphopt.build_engine(
        tmp_path / "model.onnx",
        tmp_path / "model.engine",
        target=get_target("sm86"),
        shapes=batch_shapes(result.model),
    )
    found = report.compute_nodes_by_precision
    assert found.get("int8", 0) == integers
    assert not {"fp32", "bf16"} & found.keys()
    assert set(report.compute_kernels_by_precision) == ({"int8"} if integers else {"fp16"})


@pytest.mark.parametrize("name", ["resnet", "mobilenet"])
def test_a_ratio_that_is_demanded_is_kept(name: str, fixtures: Path) -> None:
    model = graphopt.load(fixtures / f"{name}.onnx")
    samples = open_samples(str(fixtures / "calib.npz"), input_specs(model))
    pipeline = "lossless,cast-precision{min_sqnr=60,fit_weights=false,samples=8}"
    result = graphopt.optimize(model, pipeline, calibration=samples, verify="off")
    step = result.report.steps[-1]
    assert step.details["sqnr_db"] >= 60
    assert 0 < len(step.details["float"]) < 60
    assert 0 < step.details["float_macs_share"] < 1
    assert any("of the multiply-accumulates are in fp32" in note for note in step.notes)


@pytest.mark.parametrize("asked", [False, True])
def test_nodes_stay_fp32_for_precision_only_where_that_is_asked_for(
    asked: bool, fixtures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(implementation, "_QUANTIZED_GOAL", 200.0)
    model = graphopt.load(fixtures / "resnet.onnx")
    samples = open_samples(str(fixtures / "calib.npz"), input_specs(model))
    demand = "{min_sqnr=200,fit_weights=false}" if asked else "{fit_weights=false}"
    pipeline = f"lossless,quantize{{samples=16,{PLAIN}}},cast-precision{demand}"
    result = graphopt.optimize(model, pipeline, calibration=samples, target="sm86", verify="off")
    rows = [row for row in result.report.steps[-1].details["float"] if "loses" in row["reason"]]
    assert bool(rows) == asked
