"""What graphopt promises of a trained network, on the residual CNN of the fixtures."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

import graphopt
from graphopt.emit.tensorrt import batch_shapes
from graphopt.ir import nodes_of
from graphopt.jobs.comparison import compare_models
from graphopt.targets import get_target


@pytest.fixture(scope="module")
def int8(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The int8 model for SM86, and its drop of top-1 in points."""
    path = tmp_path_factory.mktemp("int8") / "resnet.onnx"
    result = run(fixtures, "simplify,fuse,quantize{format=int8}", target="sm86")
    graphopt.save(result.model, path)
    return path, drop(result)


def run(fixtures: Path, passes: str, **options: str) -> graphopt.Optimized:
    return graphopt.optimize(
        fixtures / "resnet.onnx",
        passes,
        calibration=str(fixtures / "calib.npz"),
        evaluation=str(fixtures / "eval.npz"),
        **options,
    )


def drop(result: graphopt.Optimized) -> float:
    score = result.report.evaluation
    assert score is not None
    assert score.before > 90
    return score.drop


def test_folding_and_fusing_keep_the_outputs(fixtures: Path, tmp_path: Path) -> None:
    result = graphopt.optimize(fixtures / "resnet.onnx", "simplify,fuse")
    graphopt.save(result.model, tmp_path / "fused.onnx")
    comparison = compare_models(
        fixtures / "resnet.onnx", tmp_path / "fused.onnx", str(fixtures / "calib.npz")
    )
    assert comparison.samples == 512
    assert max(difference.max_rel for difference in comparison.differences) <= 1e-5
    assert not [n for n in nodes_of(result.model) if n.op_type == "BatchNormalization"]


def test_pruning_30_per_cent_costs_at_most_5_points(fixtures: Path) -> None:
    result = run(fixtures, "simplify,fuse,prune-channels{ratio=0.3}")
    assert drop(result) <= 5
    assert result.report.after.macs < 0.55 * result.report.before.macs


def test_int8_costs_at_most_1_point(int8: tuple[Path, float]) -> None:
    assert int8[1] <= 1


@pytest.mark.skipif(platform.machine() != "x86_64", reason="TensorRT-RTX is for x86_64 only")
def test_every_conv_and_gemm_is_an_int8_kernel(int8: tuple[Path, float], tmp_path: Path) -> None:
    engine = graphopt.build_engine(
        int8[0],
        tmp_path / "engine",
        target=get_target("sm86"),
        shapes=batch_shapes(graphopt.load(int8[0])),
    )
    assert engine.compute_nodes_by_precision == {"int8": 12}
    assert engine.compute_kernels_by_precision == {"int8": 12}


def test_the_record_repeats_the_run(fixtures: Path, int8: tuple[Path, float]) -> None:
    model = graphopt.load(int8[0])
    record = {key.removeprefix("graphopt."): v for key, v in model.metadata_props.items()}
    again = graphopt.optimize(
        fixtures / "resnet.onnx",
        record["pipeline"],
        calibration=record["calibration"],
        target=record["target"],
        verify="off",
    )
    assert again.report.source_sha256 == record["source_sha256"]
    graphopt.save(again.model, int8[0].with_name("again.onnx"))
    assert int8[0].with_name("again.onnx").read_bytes() == int8[0].read_bytes()
