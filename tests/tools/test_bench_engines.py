"""bench_engines.py: what it builds, and what it says of it."""

from __future__ import annotations

import copy
import json
import platform
import sys
from pathlib import Path
from typing import Any

import bench_engines
import engines_report as report
import onnx
import pytest
from engines_child import INT8, VARIANTS, Maker, shape_ranges, what_matters
from onnx_files import onnx_files
from random_samples import random_samples

from graphopt.ir import load

ENGINE = {
    "cpu_s": 0.5,
    "builder": "TensorRT-RTX 1.7",
    "note": None,
    "kernels": {"fp16": 3, "int8": 2},
    "nodes": {"int8": 2},
    "fp32_nodes": [],
    "weight_bytes": 1_000_000,
    "weight_bytes_by_type": {"int8": 900_000, "fp16": 100_000},
    "padding_bytes": 0,
    "written_bytes": 2_000_000,
    "not_int8": {},
}


def made_up(**changed: Any) -> dict[str, Any]:
    """The row of a model of which all holds; `changed` is of the int8+fp16 engine for sm120."""
    whole = {**ENGINE, "nodes": {"fp32": 2}, "weight_bytes": 4_000_000}
    variants = {
        variant: {
            "int8_weights": 900_000,
            "float_weights": {"Gather": 90_000},
            "engines": {t: copy.deepcopy(of) for t in ("sm86", "sm120")},
        }
        for variant in VARIANTS
        for of in [whole if variant in VARIANTS[:2] else ENGINE]
    }
    variants[INT8]["engines"]["sm75"] = {"failure": "no kernels for it"}
    variants[INT8]["engines"]["sm120"] |= changed
    return {"targets": ["sm86", "sm120"], "variants": variants}


def test_the_page_of_what_holds() -> None:
    row = made_up()
    assert report.broken(row) == report.remarks(row) == []
    assert report.weight_share(row, "sm86") == 0.25
    page = report.markdown({"net": row})
    float_cells, int8_cells = "0.5 · 5 · 0/0/2 | " * 2, "0.5 · 5 · 2/0/0 | " * 3
    assert f"| net | {float_cells}{int8_cells}no engine |" in page
    assert f"| net | {'4.00 / 2.00 | ' * 2}{'1.00 / 2.00 | ' * 3}25% |" in page
    assert "- 10 of 10 engines of 1 models are built, in 5 CPU seconds." in page
    assert "## What did not hold\n\nNothing.\n\n## Worth a look\n\nNothing.\n" in page
    assert "- net: no kernels for it\n" in page
    assert "TensorRT-RTX 1.7 on a CPU for sm86 and sm120" in page


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"failure": "out of memory"}, "int8+fp16, sm120: out of memory"),
        ({"not_int8": {"a": "fp16", "b": "unknown"}}, "int8+fp16, sm120: a is fp16, b is unknown"),
    ],
)
def test_what_does_not_hold_is_told(changed: dict[str, Any], line: str) -> None:
    row = made_up(**changed)
    assert report.broken(row) == [line]
    assert f"## What did not hold\n\n- net: {line}\n" in report.markdown({"net": row})


@pytest.mark.parametrize(
    ("changed", "lines"),
    [
        (
            {"weight_bytes": 2_000_000},
            [
                "int8+fp16, sm120: 50% of the fp32 weights: int8 0.90 MB (0.90 in the file), "
                "others 1.10 MB (in the file: Gather 0.09)"
            ],
        ),
        (
            {"fp32_nodes": list("abcde"), "nodes": {"int8": 1, "fp32": 5, "unknown": 1}},
            [
                "int8+fp16, sm120: computes in fp32: a, b, c and 2 more",
                "int8+fp16: nodes differ: sm86 2/0/0, sm120 1/0/5+1",
            ],
        ),
        (
            {"padding_bytes": 3_000_000},
            ["int8+fp16, sm120: 3.00 MB of zeros beside the weights: the batch is fixed"],
        ),
        ({"note": "no table"}, ["int8+fp16, sm120: no table"]),
    ],
)
def test_remarks(changed: dict[str, Any], lines: list[str]) -> None:
    row = made_up(**changed)
    assert report.broken(row) == []
    assert report.remarks(row) == lines


def test_a_model_that_came_to_no_end_is_told_once() -> None:
    row = {"targets": ["sm86"], "variants": {}, "failure": "timeout after 1 s"}
    assert report.broken(row) == ["timeout after 1 s"]
    assert "| net | **none** |" in report.markdown({"net": row})


def tiny(path: Path) -> Path:
    """A net of two layers with a free batch and length."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> '
        "g (float[N, L, 32] x) => (float[N, L, 16] y) "
        "{ h = MatMul (x, w) r = Relu (h) y = MatMul (r, v) }"
    )
    for name, shape in (("w", (32, 64)), ("v", (64, 16))):
        values = [((7 * i) % 31 - 15) / 31 for i in range(shape[0] * shape[1])]
        kind = onnx.TensorProto.FLOAT
        model.graph.initializer.append(onnx.helper.make_tensor(name, kind, shape, values))
    for node in model.graph.node:
        node.name = node.output[0]
    onnx.save(model, path)
    return path


def test_one_preparation_serves_the_gpus_that_are_alike(tmp_path: Path) -> None:
    path = tiny(tmp_path / "tiny.onnx")
    assert len({what_matters(name) for name in bench_engines.TARGETS}) == 1
    assert what_matters("sm75") != what_matters("sm80")
    model = load(path)
    assert shape_ranges(model, "tiny") == {"x": ((1, 64, 32), (8, 64, 32), (32, 64, 32))}
    files = []
    for target in ("sm80", "sm120"):
        folder = tmp_path / target
        folder.mkdir()
        maker = Maker(path, random_samples(model, "tiny"), target, folder)
        for variant in VARIANTS[1:]:
            assert maker.told(variant)["prepare_cpu_s"] >= 0
        found = [onnx.load(folder / f"{index}.onnx") for index in range(1, len(VARIANTS))]
        for each in found:
            del each.metadata_props[:]  # the record names the target
        files.append([each.SerializeToString(deterministic=True) for each in found])
    assert files[0] == files[1]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="TensorRT-RTX is for x86_64 only")
def test_it_builds_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, kept, page = tiny(tmp_path / "tiny.onnx"), tmp_path / "a.json", tmp_path / "a.md"
    given = [path, "--targets", "sm86", "--json", kept, "--markdown", page]
    monkeypatch.setattr(sys, "argv", ["tool", *map(str, given)])
    assert bench_engines.main() == 0
    (row,) = json.loads(kept.read_text()).values()
    nodes = {v: row["variants"][v]["engines"]["sm86"]["nodes"] for v in VARIANTS}
    float32, int8 = {"fp32": 2}, {"int8": 2}
    assert list(nodes.values()) == [float32, float32, {"fp16": 2}, int8, int8]
    assert row["variants"][INT8]["promised"] == 2
    assert "sm75" in row["variants"][INT8]["engines"]
    assert "5 of 5 engines of 1 models are built" in capsys.readouterr().out
    assert "| tiny | " in page.read_text()
    monkeypatch.setattr(bench_engines, "bench", lambda *_: {"variants": {}, "failure": "a crash"})
    assert bench_engines.main() == 0, "what is done is not done again"
    kept.write_text(json.dumps({"tiny": {**row, "failure": "timeout"}}))
    assert bench_engines.main() == 1
    assert "tiny: a crash\n" in capsys.readouterr().out


def test_two_models_of_one_name_are_told(tmp_path: Path) -> None:
    files = [tiny(tmp_path / "tiny.onnx"), tmp_path / "other" / "tiny.onnx"]
    files[1].parent.mkdir()
    tiny(files[1])
    assert onnx_files([tmp_path, files[0]]) == files[:1]
    with pytest.raises(SystemExit, match="models of one name"):
        onnx_files(files)


def test_no_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no such file"):
        onnx_files([tmp_path / "absent"])
    with pytest.raises(SystemExit, match="no ONNX file"):
        onnx_files([tmp_path])
