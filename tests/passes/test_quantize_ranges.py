"""quantize with a file of ranges: what one run chose, another takes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from models import serialized
from quantize_nets import PLAIN, constant, context, data, net

import graphopt
from graphopt.cli import graphopt as graphopt_cli
from graphopt.errors import GraphoptError
from graphopt.ir import save
from graphopt.pipeline.base import PassContext, PassResult
from graphopt.targets import get_target
from graphopt_passes.quantize import Quantize

BODY = "a = Conv(x, w, b) r = Relu(a) c = Concat<axis=1>(r, x) y = Conv(c, v)"
WEIGHTS = {"w": (4, 4, 3, 3), "b": (4,), "v": (4, 8, 1, 1)}
SCALES = ("x_scale", "r_scale")
TARGETS = ["generic", "onnxruntime-cpu"]


def model() -> graphopt.ir.Model:
    return net(BODY.replace("Conv(x", "Conv<pads=[1,1,1,1]>(x"), **WEIGHTS)


def run(path: Path | None, *, target: str, samples: bool = True, **options: Any) -> PassResult:
    given = model()
    place = context(given, data(given, 16), target)
    if not samples:
        place = PassContext(target=get_target(target))
    options = {**PLAIN, "islands": True, "equalize": False, **options}
    return Quantize(**options).run(given, replace(place, ranges=path))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("recovery", [False, True])
def test_ranges_are_written_and_read_back_to_the_same_model(
    target: str, recovery: bool, tmp_path: Path
) -> None:
    path = tmp_path / "ranges.json"
    first = run(path, target=target, tune_ranges=recovery)
    assert any(f"ranges written to {path}" in note for note in first.notes)
    before = path.read_bytes()
    second = run(path, target=target, samples=False, tune_ranges=recovery)
    assert serialized(second.model) == serialized(first.model)
    assert second.notes[-1] == f"the ranges are those of {path}"
    assert path.read_bytes() == before


def test_a_range_that_is_edited_by_hand_is_kept_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    run(path, target="generic")
    content = json.loads(path.read_text())
    assert content["tensors"]["x"] == content["tensors"]["r"] | {"count": 16 * 4 * 64}
    for name in ("x", "r"):  # of a Concat: they share a scale
        content["tensors"][name] |= {"low": -1.0, "high": 12.7}
    path.write_text(json.dumps(content))
    edited = run(path, target="generic", tune_ranges=True).model
    assert constant(edited, "x_scale") == constant(edited, "r_scale") == np.float32(0.1)


def test_ranges_of_another_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    run(path, target="generic")
    other = net(BODY, **{**WEIGHTS, "w": (4, 4, 1, 1)})
    place = replace(context(other), ranges=path)
    with pytest.raises(GraphoptError, match="holds the ranges of another model"):
        Quantize(**PLAIN).run(other, place)


def test_without_samples_and_without_a_file_nothing_runs(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.json")
    with pytest.raises(GraphoptError, match="needs calibration data, or a file of ranges"):
        graphopt.optimize(model(), "quantize", ranges=missing)
    with pytest.raises(GraphoptError, match="needs calibration data"):
        graphopt.optimize(model(), "quantize{min_sqnr=20}", ranges=missing)


def test_the_command_line_writes_and_reads_them(tmp_path: Path) -> None:
    source, ranges = tmp_path / "in.onnx", tmp_path / "ranges.json"
    save(model(), source)
    passes = "quantize{equalize=false,round_weights=false,correct_bias=false}"
    main = ["optimize", str(source), "--passes", passes, "--ranges", str(ranges), "--no-latency"]
    scales = []
    for more in (["--calib", "random{n=16}", "--jobs", "2"], []):
        output = tmp_path / f"out{len(scales)}.onnx"
        result = CliRunner().invoke(graphopt_cli, [*main, "-o", str(output), *more])
        assert result.exit_code == 0, result.output
        found = graphopt.load(output).graph.initializers
        scales.append({name: found[name].const_value.numpy().item() for name in SCALES})
    assert scales[0] == scales[1]
