"""Whether a model makes an engine, and all that stands in the way."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import engine_models as models
import fake_tensorrt
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from graphopt.emit.tensorrt import batch_shapes, check
from graphopt.emit.tensorrt.check import CheckReport, check_for
from graphopt.emit.tensorrt.findings import Finding, survey
from graphopt.errors import GraphoptError
from graphopt.ir import load
from graphopt.report.engine import print_check
from graphopt.targets import get_target, target_names
from graphopt.targets.operators import ONLY_TENSORRT, UNKNOWN

HAS_RTX = importlib.util.find_spec("tensorrt_rtx") is not None
needs_rtx = pytest.mark.skipif(not HAS_RTX, reason="TensorRT-RTX is not installed")


def checked(model: onnx.ModelProto, folder: Path, target: str = "sm86") -> CheckReport:
    path = models.save(model, folder / "model.onnx")
    before = sorted(folder.iterdir())
    loaded = load(path)
    report = check_for(loaded, path, get_target(target), shapes=batch_shapes(loaded))
    assert sorted(folder.iterdir()) == before
    for finding in report.findings:
        assert "\n" not in finding.text
    return report


def surveyed(model: onnx.ModelProto, folder: Path, target: str = "sm86") -> list[Finding]:
    return survey(load(models.save(model, folder / "model.onnx")), get_target(target))


def outcomes(report: CheckReport) -> list[str]:
    return [f"{stage.name} {stage.outcome}" for stage in report.stages]


def nodes(findings: tuple[Finding, ...] | list[Finding]) -> list[str]:
    return [finding.node for finding in findings]


@pytest.fixture
def without_builders(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if "tensorrt" in name else found(name)
    )


def two_nonzero() -> onnx.ModelProto:
    g = models.Graph()
    x = g.input("x", [4, 4])
    parts = [
        g.op("Cast", g.op("NonZero", value, name=name), to=TensorProto.FLOAT)
        for value, name in ((g.op("Relu", x), "find"), (x, "find2"))
    ]
    return g.model(g.op("Concat", *parts, axis=1), [2, "n"])


def two_int32_biases() -> onnx.ModelProto:
    g = models.Graph()
    x = g.input("x", [1, 16, 8, 8])
    for number in (1, 2):
        values = (np.zeros(16, np.int32), np.full(16, 0.01, np.float32))
        bias = g.op("DequantizeLinear", *map(g.constant, values), name=f"bias{number}", axis=0)
        x = g.op("Conv", g.qdq(x), g.int8_weight(16, 16, 1, 1, axis=0), bias, name=f"c{number}")
    return g.model(x, [1, 16, 8, 8])


def two_zero_points() -> onnx.ModelProto:
    g = models.Graph()
    return g.model(g.qdq(g.op("Relu", g.qdq(g.input("x", [4, 4]), 3)), -5), [4, 4])


def of_nodes(*made: onnx.NodeProto, domain: str = "") -> onnx.ModelProto:
    """A model that is a chain from x to y, of shape [4]."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    opsets = [helper.make_opsetid("", 19)]
    if domain:
        opsets.append(helper.make_opsetid(domain, 1))
    return helper.make_model(
        helper.make_graph(list(made), "g", [x], [y]), opset_imports=opsets, ir_version=10
    )


def two_unknown() -> onnx.ModelProto:
    return of_nodes(
        helper.make_node("Bernoulli", ["x"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Bernoulli", ["b"], ["y"], name="second"),
    )


def custom() -> onnx.ModelProto:
    return of_nodes(
        helper.make_node("Mine", ["x"], ["a"], name="mine", domain="my"),
        helper.make_node("Bernoulli", ["a"], ["y"], name="draw"),
        domain="my",
    )


@needs_rtx
def test_a_good_model_is_built(tmp_path: Path) -> None:
    report = checked(models.float_net(), tmp_path)
    assert outcomes(report) == ["tables passed", "parser passed", "build passed"]
    assert (report.passed, report.findings) == (True, ())
    assert report.engine is not None
    assert report.engine.compute_nodes_by_precision == {"fp32": 3}


CASES = [
    (two_nonzero, ["find", "find2"], "TensorRT-RTX does not have this", "--backend tensorrt"),
    (two_int32_biases, ["bias1", "bias2"], "dequantizes int32", "keep biases in float"),
    (
        two_zero_points,
        ["quantizelinear3", "dequantizelinear4", "quantizelinear8", "dequantizelinear9"],
        "the zero point is not 0",
        "quantize symmetrically",
    ),
    (two_unknown, ["first", "second"], "TensorRT does not have this", "draw random numbers"),
]


@needs_rtx
@pytest.mark.parametrize(("make", "names", "reason", "fix"), CASES)
def test_every_node_that_the_parser_refuses_is_found(
    tmp_path: Path, make: object, names: list[str], reason: str, fix: str
) -> None:
    report = checked(make(), tmp_path)  # type: ignore[operator]
    assert outcomes(report)[1:] == ["parser failed", "build skipped"]
    assert not report.passed
    assert sorted(nodes(report.findings)) == sorted(names)
    for finding in report.findings:
        assert reason in finding.reason
        assert fix in (finding.fix or "")


@pytest.mark.usefixtures("without_builders")
@pytest.mark.parametrize(("make", "names", "reason", "fix"), CASES)
def test_tables_find_them_without_a_builder(
    tmp_path: Path, make: object, names: list[str], reason: str, fix: str
) -> None:
    report = checked(make(), tmp_path)  # type: ignore[operator]
    assert outcomes(report) == ["tables failed", "parser skipped", "build skipped"]
    assert "pip install 'graphopt[trt]'" in report.stages[1].note
    assert sorted(nodes(report.findings)) == sorted(names)
    assert all(reason in finding.reason and fix in str(finding.fix) for finding in report.findings)


@needs_rtx
def test_what_is_behind_an_unknown_type_is_left_to_the_tables(tmp_path: Path) -> None:
    report = checked(custom(), tmp_path)
    assert "was not parsed" in report.stages[1].note
    assert nodes(report.findings) == ["mine", "draw"]
    assert report.findings[0].operator == "my.Mine"
    assert "plugin" in report.findings[0].reason


@needs_rtx
def test_a_jetson_has_what_only_rtx_lacks(tmp_path: Path) -> None:
    report = checked(two_nonzero(), tmp_path, "jetson-orin")
    assert report.passed
    assert [(f.lacking, f.is_error) for f in report.findings] == [("TensorRT-RTX", False)] * 2
    assert outcomes(report) == ["tables passed", "parser passed", "build skipped"]
    assert not checked(two_unknown(), tmp_path, "jetson-orin").passed


@needs_rtx
def test_a_jetson_is_checked_with_its_stand_in(tmp_path: Path) -> None:
    report = checked(models.one_node("Relu", 1, 4), tmp_path, "jetson-orin-nx")
    assert report.stages[2].outcome == "passed"
    assert report.stages[2].note.endswith("for sm86, which stands in for jetson-orin-nx")
    thor = checked(models.one_node("Relu", 1, 4), tmp_path, "jetson-thor")
    assert outcomes(thor) == ["tables passed", "parser passed", "build skipped"]
    assert "only TensorRT on a machine with jetson-thor can build" in thor.stages[2].note


@needs_rtx
def test_a_node_in_a_branch_is_found(tmp_path: Path) -> None:
    def branch(name: str, operator: str) -> onnx.GraphProto:
        made = helper.make_node(operator, ["x"], [f"{name}_out"], name=f"{name}_{operator}")
        value = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, [4])
        return helper.make_graph([made], name, [], [value])

    choose = helper.make_node("ReduceSum", ["x"], ["s"], name="sum", keepdims=0)
    cast = helper.make_node("Cast", ["s"], ["c"], name="cast", to=TensorProto.BOOL)
    both = (branch("then", "Relu"), branch("else", "Bernoulli"))
    node = helper.make_node("If", ["c"], ["b"], name="if", then_branch=both[0], else_branch=both[1])
    last = helper.make_node("Bernoulli", ["b"], ["y"], name="last")
    report = checked(of_nodes(choose, cast, node, last), tmp_path)
    assert {"else_Bernoulli", "last"} <= set(nodes(report.findings))


@needs_rtx
def test_what_the_build_refuses_names_its_node(tmp_path: Path) -> None:
    report = checked(models.float_net(), tmp_path, "sm75")
    assert outcomes(report)[1:] == ["parser passed", "build failed"]
    assert nodes(report.findings) == ["fc"]
    assert "does not compute in fp32" in report.findings[0].reason


@needs_rtx
def test_what_stays_float_is_a_warning(tmp_path: Path) -> None:
    g = models.Graph()
    x = g.qdq(g.input("x", [1, 16, 8, 8]))
    conv = g.op("Conv", x, g.weight(16, 16, 1, 1), name="conv")
    report = checked(g.model(conv, [1, 16, 8, 8]), tmp_path)
    assert report.passed
    assert [finding.text for finding in report.findings] == [
        "node 'conv' [Conv]: fp32 in spite of Q/DQ: only its data is quantized; "
        "quantize its weight too"
    ]


def test_a_missing_profile_prints_the_option(tmp_path: Path) -> None:
    path = models.save(models.one_node("Relu", "n", 3), tmp_path / "model.onnx")
    with pytest.raises(GraphoptError) as raised:
        check_for(load(path), path, get_target("sm86"))
    assert str(raised.value).endswith('--shapes "x:1x3,8x3,32x3"')


def test_an_opset_that_is_too_new_goes_no_further(tmp_path: Path) -> None:
    model = models.one_node("Relu", 1, 4)
    model.opset_import[0].version = 99
    report = checked(model, tmp_path)
    assert outcomes(report) == ["tables failed", "parser skipped", "build skipped"]
    assert [finding.text for finding in report.findings] == [
        "the model: uses opset 99, and sm86 takes 7 to 25; "
        "convert it with --passes set-opset{version=25}, or export it again with that"
    ]


def fp8_model() -> onnx.ModelProto:
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [], [0.1])
    zero = helper.make_tensor("zero", TensorProto.FLOAT8E4M3FN, [], [0.0])
    model = of_nodes(
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], name="dq"),
    )
    model.graph.initializer.extend([scale, zero])
    return model


@pytest.mark.parametrize(("target", "refused"), [("jetson-orin", True), ("sm89", False)])
def test_fp8_is_refused_where_the_gpu_lacks_it(tmp_path: Path, target: str, refused: bool) -> None:
    found = surveyed(fp8_model(), tmp_path, target)
    assert nodes(found) == (["q", "dq"] if refused else [])
    for finding in found:
        assert finding.text.endswith(
            "the target 'jetson-orin' does not compute in fp8: fp8 needs SM 8.9 (Ada) or newer, "
            "and it is SM 8.7; it computes in fp32, fp16, bf16, int8, int4"
        )


@needs_rtx
def test_what_the_gpu_lacks_is_said_once(tmp_path: Path) -> None:
    report = checked(fp8_model(), tmp_path, "jetson-orin")
    assert outcomes(report) == ["tables failed", "parser passed", "build failed"]
    assert nodes(report.findings) == ["q", "dq"]
    assert all(finding.lacking == "jetson-orin" for finding in report.findings)


@needs_rtx
def test_nodes_without_names_are_called_after_their_outputs(tmp_path: Path) -> None:
    model = two_unknown()
    for node in model.graph.node:
        node.ClearField("name")
    assert nodes(checked(model, tmp_path).findings) == ["a", "y"]


@needs_rtx
def test_weights_beside_the_model_are_found(tmp_path: Path) -> None:
    path = models.save(two_int32_biases(), tmp_path / "model.onnx", external=True)
    report = check_for(load(path), path, get_target("sm86"))
    assert nodes(report.findings) == ["bias1", "bias2"]
    path = models.save(models.float_net(), tmp_path / "model.onnx", external=True)
    loaded = load(path)
    assert check_for(loaded, path, get_target("sm86"), shapes=batch_shapes(loaded)).passed


def test_int8_on_turing_is_a_warning(tmp_path: Path) -> None:
    found = surveyed(models.int8_net(), tmp_path, "sm75")
    assert len(found) == 24
    assert not any(finding.is_error for finding in found)
    assert surveyed(models.int8_net(), tmp_path, "sm80") == []


def test_a_zero_point_must_be_constant(tmp_path: Path) -> None:
    model = of_nodes(
        helper.make_node("Cast", ["x"], ["zs"], name="cast", to=TensorProto.INT8),
        helper.make_node("ReduceMax", ["zs"], ["z"], name="max", keepdims=0),
        helper.make_node("QuantizeLinear", ["x", "scale", "z"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "scale"], ["y"], name="dq"),
    )
    model.graph.initializer.append(helper.make_tensor("scale", TensorProto.FLOAT, [], [0.1]))
    assert [f.reason for f in surveyed(model, tmp_path)] == ["the zero point is not a constant"]


def test_a_function_of_the_model_is_no_custom_operator(tmp_path: Path) -> None:
    model = of_nodes(helper.make_node("Mine", ["x"], ["y"], name="call", domain="my"), domain="my")
    body = [helper.make_node("Bernoulli", ["a"], ["b"], name="inside")]
    model.functions.append(
        helper.make_function("my", "Mine", ["a"], ["b"], body, [helper.make_opsetid("", 19)])
    )
    assert nodes(surveyed(model, tmp_path)) == ["inside"]


def test_garbage_is_an_error(tmp_path: Path) -> None:
    path = models.save(models.one_node("Relu", 1, 4), tmp_path / "model.onnx")
    model = load(path)
    path.write_bytes(b"this is a text file\n")
    with pytest.raises(GraphoptError, match="is not a valid ONNX model"):
        check_for(model, path, get_target("sm86"))


@pytest.mark.parametrize("target", ["generic", "onnxruntime-cpu"])
def test_a_target_without_engines_is_refused(tmp_path: Path, target: str) -> None:
    with pytest.raises(GraphoptError, match=f"no engines for target '{target}'"):
        checked(models.one_node("Relu", 1, 4), tmp_path, target)


@needs_rtx
@pytest.mark.parametrize("name", [name for name in target_names() if get_target(name).sm])
def test_each_gpu_has_a_way_to_be_checked(name: str) -> None:
    builder = check._builder(get_target(name))
    assert builder.backend is not None
    assert builder.note


def test_the_tables_hold_operators_of_onnx() -> None:
    assert not ONLY_TENSORRT & set(UNKNOWN)
    for name in (*ONLY_TENSORRT, *UNKNOWN):
        assert onnx.defs.has(name), name


@needs_rtx
def test_the_tables_are_what_the_parser_says() -> None:
    import subprocess
    import sys

    code = (
        "import sys, onnx, tensorrt_rtx as trt\n"
        "logger = trt.Logger(trt.Logger.ERROR)\n"
        "network = trt.Builder(logger).create_network(1)\n"
        "parser = trt.OnnxParser(network, logger)\n"
        "names = {s.name for s in onnx.defs.get_all_schemas() if not s.domain}\n"
        "print(*sorted(n for n in names if not parser.supports_operator(n)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    refused = set(done.stdout.splitlines()[-1].split())
    # The others of ONLY_TENSORRT are known, but their plugins are missing.
    assert refused == set(UNKNOWN) | {"DeformConv"}


@pytest.mark.parametrize("version", fake_tensorrt.VERSIONS)
def test_full_tensorrt_parses_in_the_same_way(tmp_path: Path, version: str) -> None:
    from graphopt.emit.tensorrt.builder import Log
    from graphopt.emit.tensorrt.parsing import find_complaints
    from graphopt.emit.tensorrt.request import BuildRequest

    path = models.save(two_nonzero(), tmp_path / "model.onnx")
    request = BuildRequest(str(path), "", "sm86", None, (7, 25), {}, 30.0, parse_only=True)
    result = find_complaints(fake_tensorrt.make(version), request, Log())
    assert [complaint.node for complaint in result.complaints] == ["find", "find2"]
    assert result.note is None


def test_alike_findings_share_a_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = surveyed(models.int8_net(), tmp_path, "sm75")
    print_check(CheckReport("m.onnx", "sm75", (), tuple(found), None))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert "and 4 more nodes [QuantizeLinear]: the target 'sm75' does not compute" in lines[1]
    assert lines[-1] == "nothing found, but it was not built"
