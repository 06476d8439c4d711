"""`graphopt.optimize` and `graphopt.save` as their callers see them: mistakes and warnings."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from models import MLP, model, proto

import graphopt
from graphopt.jobs import optimize as job
from graphopt.report.text import print_report
from graphopt.targets import get_target

RESIZED = """
    <ir_version: 9, opset_import: ["" : 17]>
    g (float[batch, 1, height, width] x) => (float[batch, 1, h, w] y) { y = Relu (x) }
"""
DATA = {"x": np.random.default_rng(0).standard_normal((16, 4)).astype(np.float32)}


def optimize(**options: Any) -> graphopt.Optimized:
    return graphopt.optimize(proto(MLP), **{"passes": "simplify", **options})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optimize(passes=["simplify", "fuse"]), "a pipeline cannot be of type list; give "),
        (lambda: optimize(passes=None), "a pipeline cannot be of type NoneType; give "),
        (lambda: optimize(verify="always"), "no verification 'always'; known: each, final, off"),
        (lambda: optimize(tolerance=-1.0), "tolerance must be a number of at least 0, not -1.0"),
        (lambda: optimize(max_drop=float("nan")), "max_drop must be a number of at least 0"),
        (lambda: optimize(jobs=0), "jobs must be at least 1, not 0"),
        (
            lambda: optimize(tolerance=0.1, verify="off"),
            "nothing is verified; leave it or ",
        ),
        (lambda: optimize(backend="dask=tcp://a:1"), "there are no samples; give some (--calib"),
        (lambda: optimize(passes="cast-precision{min_sqnr=60}"), "needs calibration data; give"),
        (lambda: optimize(ranges="r.json"), "--ranges r.json: no pass of the pipeline takes or"),
        (lambda: optimize(target=None), "there is no target 'None'; known: "),
        (lambda: graphopt.save(proto(MLP), "m.onnx"), "cannot save a ModelProto; give an onnx_ir"),
        (lambda: graphopt.save(optimize(), "m.onnx"), "cannot save a Optimized; give an onnx_ir"),
    ],
)
def test_a_mistake_is_told_in_one_line(call: Callable[[], object], message: str) -> None:
    with pytest.raises(graphopt.GraphoptError, match=re.escape(message)):
        call()


def test_a_target_may_be_given_as_an_object() -> None:
    result = optimize(target=get_target("sm86"))
    assert result.report.target == result.model.metadata_props["graphopt.target"] == "sm86"


def test_a_report_printed_from_python_does_not_say_that_no_model_was_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_report(optimize().report)
    assert "parameters" in (shown := capsys.readouterr().out)
    assert "no model was written" not in shown


def test_sizes_that_nothing_tells_are_warned_of() -> None:
    def warned(**options: Any) -> list[str]:
        warnings = graphopt.optimize(model(RESIZED), **options).report.warnings
        return [warning for warning in warnings if "how large the inputs are" in warning]

    (warning,) = warned()
    assert "x [1, 1, 1, 1] was taken" in warning
    assert warning.endswith("give samples (--calib SRC)")
    assert warned(calibration="random") == [warning]
    assert not warned(calibration={"x": np.ones((2, 1, 6, 8), np.float32)})
    assert not graphopt.optimize(model(MLP)).report.warnings  # the batch alone is free


@pytest.mark.parametrize(
    ("options", "times", "warned"),
    [
        ({}, [1.0, 2.0], True),
        ({}, [2.0, 1.0], False),
        ({"target": "onnxruntime-cpu"}, [1.0, 2.0], False),
        ({"passes": "simplify"}, [1.0, 2.0], False),
    ],
)
def test_int8_that_is_slower_for_want_of_a_target_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, str], times: list[float], warned: bool
) -> None:
    monkeypatch.setattr(job, "latencies", lambda models, feed: times)
    passes = "quantize{round_weights=false,islands=true}"
    report = optimize(**{"passes": passes, "calibration": DATA, "latency": True, **options}).report
    assert any("--target onnxruntime-cpu" in warning for warning in report.warnings) is warned


def test_a_verification_that_failed_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    joined = model("""
        <ir_version: 9, opset_import: ["" : 17]>
        g (float[batch, n] x, float[2, 5] z) => (float[m, k] y) {
            s = Identity (x)
            y = Concat <axis = 0> (s, z)
        }
    """)
    print_report(graphopt.optimize(joined).report)
    assert capsys.readouterr().out.lower().count("not verified") == 1
