"""`graphopt targets`: what --target takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from graphopt.targets import target_names

GRAPHOPT = Path(sys.executable).with_name("graphopt")


def targets(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(GRAPHOPT), "targets", *arguments],
        capture_output=True,
        text=True,
        check=False,
        **options,  # type: ignore[call-overload]
    )


def test_every_target_has_a_line() -> None:
    lines = targets().stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(target_names())
    assert any("Jetson Xavier [fp32, fp16, int8]" in line for line in lines)


def test_one_target_is_described() -> None:
    text = targets("jetson-orin-nx").stdout
    for line in (
        "computes in: fp32, fp16, bf16, int8, int4",
        "channels in multiples of: 4 for fp32, 8 for fp16",
        "TensorRT: 8.5 to 11.4",
        "DLA: 2 cores at most",
        "stand-in where it cannot be built for: sm86",
    ):
        assert line in text


@pytest.mark.parametrize("name", ["generic", "tensorrt", "sm75", "onnxruntime-cpu"])
def test_others_say_only_what_is_known_of_them(name: str) -> None:
    done = targets(name)
    assert done.returncode == 0
    assert "None" not in done.stdout


def test_json_is_the_whole_table_and_the_same_each_time() -> None:
    outputs = [targets("--json", env=os.environ | {"PYTHONHASHSEED": seed}).stdout for seed in "01"]
    assert outputs[0] == outputs[1]
    table = {row["name"]: row for row in json.loads(outputs[0])["targets"]}
    assert list(table) == list(target_names())
    assert table["jetson-orin"]["alignment"]["int8"] == 16
    assert table["sm86"]["precisions"] == sorted(["fp32", "fp16", "bf16", "int8", "int4"])
    only = json.loads(targets("sm90", "--json").stdout)["targets"]
    assert only == [table["sm90"]]


def test_an_unknown_target_is_one_line() -> None:
    done = targets("jetson-orrin")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "graphopt: there is no target 'jetson-orrin'; did you mean 'jetson-orin'?\n"
    )
