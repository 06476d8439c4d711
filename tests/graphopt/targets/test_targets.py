from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError

import pytest

from graphopt.emit.tensorrt.backends import BACKENDS
from graphopt.errors import GraphoptError
from graphopt.quantization import FORMATS
from graphopt.targets import Target, get_target, target_names

ALL = [get_target(name) for name in target_names()]


def test_the_named_targets_exist() -> None:
    assert {
        "generic",
        "tensorrt",
        "sm75",
        "sm80",
        "sm86",
        "sm89",
        "sm120",
        "sm121",
        "jetson-orin",
        "jetson-thor",
        "onnxruntime-cpu",
    } == set(target_names())


def test_a_misspelt_target_gets_a_hint() -> None:
    with pytest.raises(
        GraphoptError, match=r"no target 'jetson-orn'; did you mean 'jetson-orin'\?"
    ):
        get_target("jetson-orn")


@pytest.mark.parametrize("target", ALL, ids=lambda target: target.name)
def test_a_target_is_consistent_data(target: Target) -> None:
    assert get_target(target.name) is target
    assert target.family in ("generic", "tensorrt", "onnxruntime-cpu")
    assert target.precisions
    assert set(target.alignment) <= {"fp32", "fp16", "bf16", "int8", "fp8", "int4", "fp4"}
    assert all(multiple >= 1 for multiple in target.alignment.values())
    assert target.weight_formats | target.data_formats <= set(FORMATS)
    assert set(target.backends) <= set(BACKENDS)
    assert target.stand_in is None or get_target(target.stand_in).backends
    assert bool(target.backends) == (target.family == "tensorrt")
    with pytest.raises(FrozenInstanceError):
        target.name = "other"  # type: ignore[misc]
    hash(target)


@pytest.mark.parametrize(
    ("name", "has", "lacks"),
    [
        ("sm75", {"fp16"}, {"bf16", "int8", "fp8"}),
        ("sm86", {"fp32", "fp16", "bf16", "int8", "int4"}, {"fp8", "fp4"}),
        ("sm89", {"fp8"}, {"fp4"}),
        ("sm120", {"fp8", "fp4"}, set()),
        ("jetson-orin", {"int8", "fp16"}, {"fp8", "fp4"}),
    ],
)
def test_precisions(name: str, has: set[str], lacks: set[str]) -> None:
    assert has <= get_target(name).precisions
    assert not lacks & get_target(name).precisions


def test_importing_targets_is_light() -> None:
    code = (
        "import sys, graphopt.targets; "
        "print(sorted({'numpy', 'onnx', 'onnx_ir', 'onnxruntime'} & set(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert printed.stdout.decode().strip() == "[]"


@pytest.mark.parametrize("target", ALL, ids=lambda target: target.name)
def test_unwanted_operators_are_operators(target: Target) -> None:
    import onnx

    assert all(onnx.defs.has(name) for name in target.unwanted_operators)
    assert ("Attention" in target.unwanted_operators) == (target.family == "tensorrt")


@pytest.mark.parametrize(
    ("name", "weights", "data"),
    [
        ("sm75", {"int8"}, set()),
        ("sm86", {"int8", "int4"}, {"int8"}),
        ("sm89", {"int8", "int4", "fp8"}, {"int8", "fp8"}),
        ("jetson-orin", {"int8", "int4"}, {"int8"}),
        (
            "onnxruntime-cpu",
            {"int4", "uint4", "int8", "uint8", "int16", "uint16"},
            {"int8", "uint8", "int16", "uint16"},
        ),
    ],
)
def test_what_formats_a_target_takes(name: str, weights: set[str], data: set[str]) -> None:
    target = get_target(name)
    assert (target.weight_formats, target.data_formats) == (weights, data)
