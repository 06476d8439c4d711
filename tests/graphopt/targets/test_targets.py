from __future__ import annotations

import re
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
    gpus = {f"sm{number}" for number in (75, 80, 86, 89, 90, 100, 120, 121)}
    orin = {f"jetson-{name}" for name in ("orin", "orin-nano", "orin-nx", "agx-orin")}
    others = {"generic", "tensorrt", "jetson-xavier", "jetson-thor", "onnxruntime-cpu"}
    assert gpus | orin | others == set(target_names())


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("jetson-orn", "did you mean 'jetson-orin'?"),
        ("cpu", "did you mean 'onnxruntime-cpu'?"),
        ("SM86", "did you mean 'sm86'?"),
        ("sm_90a", "did you mean 'sm90'?"),
        ("8.6", "did you mean 'sm86'?"),
        ("sm87", "did you mean 'jetson-orin', 'jetson-orin-nano' or 'jetson-orin-nx'?"),
        ("sm88", "'graphopt targets' lists what is known"),
        ("rtx3090", "known: generic"),
    ],
)
def test_a_misspelt_target_gets_a_hint(name: str, hint: str) -> None:
    with pytest.raises(GraphoptError, match=re.escape(f"there is no target '{name}'; {hint}")):
        get_target(name)


@pytest.mark.parametrize("target", ALL, ids=lambda target: target.name)
def test_a_target_is_consistent_data(target: Target) -> None:
    assert get_target(target.name) is target
    assert target.family in ("generic", "tensorrt", "onnxruntime-cpu")
    assert target.precisions
    assert set(target.alignment) <= {"fp32", "fp16", "bf16", "int8", "fp8", "int4", "fp4"}
    assert all(multiple >= 1 for multiple in target.alignment.values())
    if target.pace is not None:
        sets = (0.0, *target.pace.sets)
        assert target.pace.block == target.alignment["fp32"]
        assert sets == tuple(sorted(set(sets)))
        assert sets[-1] == 1
        assert target.pace.depthwise >= 1
    assert target.weight_formats | target.data_formats <= set(FORMATS)
    assert set(target.backends) <= set(BACKENDS)
    assert target.stand_in is None or get_target(target.stand_in).backends
    assert (target.tensorrt is not None) == (target.sm is not None)
    assert not target.dla_cores or target.sm in ("7.2", "8.7")
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
        ("sm90", {"fp8"}, {"fp4"}),
        ("jetson-xavier", {"int8", "fp16"}, {"bf16", "int4", "fp8", "fp4"}),
        ("jetson-orin", {"int8", "fp16"}, {"fp8", "fp4"}),
        ("jetson-orin-nano", {"int8", "fp16"}, {"fp8", "fp4"}),
        ("jetson-thor", {"fp8", "fp4"}, set()),
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


@pytest.mark.parametrize(
    ("name", "precision", "reason"),
    [
        ("jetson-orin", "int8", None),
        (
            "jetson-orin",
            "fp8",
            "the target 'jetson-orin' does not compute in fp8: fp8 needs SM 8.9 (Ada) or newer, "
            "and it is SM 8.7",
        ),
        (
            "sm89",
            "fp4",
            "the target 'sm89' does not compute in fp4: fp4 needs Blackwell: SM 10.0 or newer, "
            "and it is SM 8.9",
        ),
        ("generic", "fp8", "the target 'generic' does not compute in fp8"),
    ],
)
def test_a_target_says_why_it_lacks_a_precision(
    name: str, precision: str, reason: str | None
) -> None:
    assert get_target(name).why_not(precision) == reason


@pytest.mark.parametrize("target", ALL, ids=lambda target: target.name)
def test_what_a_gpu_computes_in_agrees_with_its_capability(target: Target) -> None:
    if target.sm is None:
        return
    capability = tuple(map(int, target.sm.split(".")))
    for precision, least in (("bf16", (8, 0)), ("int4", (8, 0)), ("fp8", (8, 9)), ("fp4", (10, 0))):
        assert (precision in target.precisions) == (capability >= least)
    assert (target.sparsity is not None) == (capability >= (8, 0))


@pytest.mark.parametrize(
    ("name", "versions", "cores", "stand_in"),
    [
        ("jetson-xavier", ("8.5", "8.5"), 2, None),
        ("jetson-orin-nano", ("8.5", "11.4"), 0, "sm86"),
        ("jetson-orin-nx", ("8.5", "11.4"), 2, "sm86"),
        ("jetson-agx-orin", ("8.5", "11.4"), 2, "sm86"),
        ("jetson-thor", ("10.13", "11.4"), 0, None),
    ],
)
def test_jetson_modules(
    name: str, versions: tuple[str, str], cores: int, stand_in: str | None
) -> None:
    target = get_target(name)
    assert (target.tensorrt, target.dla_cores, target.stand_in) == (versions, cores, stand_in)
