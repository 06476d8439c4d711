"""`graphopt check` on what real exports hold that TensorRT refuses, or takes in its own way."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnx
import pytest

from graphopt.emit.tensorrt import build_engine, check
from graphopt.emit.tensorrt.check import CheckReport, check_for
from graphopt.emit.tensorrt.findings import survey
from graphopt.errors import GraphoptError
from graphopt.ir import load
from graphopt.report.engine import print_engine
from graphopt.targets import get_target

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX is not installed"
)


def save(text: str, folder: Path, opset: int = 19, domain: str = "") -> Path:
    opsets = f'"": {opset}' + (f', "{domain}": 1' if domain else "")
    model = onnx.parser.parse_model(f"<ir_version: 10, opset_import: [{opsets}]> g {text}")
    for node in model.graph.node:
        node.name = f"n_{node.output[0]}"
    onnx.checker.check_model(model)
    onnx.save(model, folder / "m.onnx")
    return folder / "m.onnx"


def checked(path: Path, target: str = "sm86") -> CheckReport:
    return check_for(load(path), path, get_target(target))


def outcomes(report: CheckReport) -> list[str]:
    return [stage.outcome for stage in report.stages]


NONZERO = "(float[4, 4] x) => (float[2, n] y) { i = NonZero (x) y = Cast <to = 1> (i) }"
NMS = (
    "(float[1, 10, 4] b, float[1, 2, 10] s) => (float[n, 3] y) <int64[1] m = {5}, float[1] t = "
    "{0.5}> { i = NonMaxSuppression (b, s, m, t) y = Cast <to = 1> (i) }"
)
ROI = (
    "(float[1, 4, 16, 16] x, float[3, 4] r, int64[3] b) => (float[3, 4, 7, 7] i) "
    "{ i = RoiAlign <output_height = 7, output_width = 7> (x, r, b) }"
)
DEFORM = (
    "(float[1, 1, 3, 3] x, float[1, 2, 3, 3] o) => (float[1, 1, 3, 3] i) "
    "<float[1, 1, 1, 1] w = {1}> { i = DeformConv (x, w, o) }"
)
ONLY_TENSORRT = {
    "NonZero": NONZERO,
    "NonMaxSuppression": NMS,
    "RoiAlign": ROI,
    "DeformConv": DEFORM,
}


@pytest.mark.parametrize("operator", ONLY_TENSORRT)
def test_what_only_rtx_lacks_is_told_apart(operator: str, tmp_path: Path) -> None:
    path = save(ONLY_TENSORRT[operator], tmp_path)
    report = checked(path)
    assert [finding.text for finding in report.findings] == [
        f"node 'n_i' [{operator}]: TensorRT-RTX does not have this operator; TensorRT itself has "
        "it: build with --backend tensorrt on the machine that will run it"
    ]
    assert report.findings[0].lacking == "TensorRT-RTX"
    assert not report.passed
    assert outcomes(report)[0] == "failed"
    # The stand-in of a Jetson lacks it, the Jetson does not.
    jetson = checked(path, "jetson-orin-nx")
    assert jetson.passed
    assert [(f.node, f.operator, f.is_error) for f in jetson.findings] == [("n_i", operator, False)]
    assert outcomes(jetson) == ["passed", "passed", "skipped"]


# text, opset, then of each finding: its node, its reason, and what to do
REFUSED = [
    (
        "(int16[4] x) => (float[4] y) { y = Cast <to = 1> (x) }",
        [("", "input 'x' is int16, a type that TensorRT does not read", "with a Cast ahead")],
    ),
    (
        "(string[4] x) => (string[4] y) "
        '{ y = StringNormalizer <case_change_action = "LOWER"> (x) }',
        [
            ("n_y", "TensorRT does not have this operator", "process text ahead of the model"),
            ("", "input 'x' is string, a type that", "process text ahead of the model"),
        ],
    ),
    (
        "(float[4] x) => (float[4] y) { a = Cast <to = 5> (x) y = Cast <to = 1> (a) }",
        [
            ("n_a", "'a' is int16, a type that TensorRT does not read", "compute it in int32"),
            ("n_y", "'a' is int16, a type that TensorRT does not read", "compute it in int32"),
        ],
    ),
    (
        "(float[4] x) => (float[4] y) <uint32[4] w = {1, 2, 3, 4}> "
        "{ a = Cast <to = 1> (w) y = Add (x, a) }",
        [("n_a", "'w' is uint32, a type that TensorRT does not read", "compute it in int32")],
    ),
    (
        "(seq(float[4]) s) => (float[4] y) <int64 i = {0}> { y = SequenceAt (s, i) }",
        [
            ("n_y", "TensorRT does not have this operator", "without sequences"),
            ("", "input 's' is a sequence or optional", "make its tensors inputs of their own"),
        ],
    ),
    (
        "(float[4] x) => (float[4] y) <uint8[4] w = {1, 2, 3, 4}, float s = {0.1}, uint8 z = {0}> "
        "{ a = DequantizeLinear (w, s, z) y = Add (x, a) }",
        [("n_a", "TensorRT does not read uint8 weights", "quantize to int8")],
    ),
    (
        "(uint8[4] x) => (float[4] y) { a = Add (x, x) y = Cast <to = 1> (a) }",
        [("n_a", "But type is UInt8", "cast to int32 or a float type first")],
    ),
    (
        "(float[1, 9999] x) => (float[1, 5000] y, int64[1, 5000] i) <int64[1] k = {5000}> "
        "{ y, i = TopK (x, k) }",
        [("n_y", "K exceeds the maximum value allowed (3840)", None)],
    ),
    (
        "(float[4] x) => (float[4] y) <int64 n = {3}> { y = Loop (n, , x) <body = b "
        "(int64 i, bool c, float[4] a) => (bool d, float[4] e) { d = Identity (c) e = Add (a, a) "
        "}> }",
        [(None, "Node input was not registered", "Loop around it needs a condition")],
    ),
    (
        "(float[4, 6] x, int64[2] s) => (float[a, b] y) { y = Reshape (x, s) }",
        [("", "the values of input 's' decide the shape", "make it a constant of the model")],
    ),
]


@pytest.mark.parametrize(("text", "expected"), REFUSED)
def test_what_stands_in_the_way_is_named(
    text: str, expected: list[tuple[str | None, str, str | None]], tmp_path: Path
) -> None:
    report = checked(save(text, tmp_path))
    assert not report.passed
    assert len(report.findings) == len(expected)
    for finding, (node, reason, fix) in zip(report.findings, expected, strict=True):
        assert node is None or finding.node == node
        assert reason in finding.reason
        assert fix is None or fix in (finding.fix or "")


def test_a_custom_operator_is_told(tmp_path: Path) -> None:
    text = "(float[4] x) => (float[4] y) { a = Relu (x) y = com.acme.Fancy (a) }"
    (finding,) = checked(save(text, tmp_path, domain="com.acme")).findings
    assert (finding.node, finding.operator) == ("n_y", "com.acme.Fancy")
    assert "only with a TensorRT plugin of its name" in finding.text


DYNAMIC_SCALE = (
    "(float[1, 1, 3, 3] x) => (float[1, 1, 3, 3] y) <int8 z = {0}, int8[1, 1, 1, 1] v = {1}, "
    "float t = {0.1}> { m = ReduceMax <keepdims = 0> (x) s = Abs (m) q = QuantizeLinear (x, s, z) "
    "d = DequantizeLinear (q, s, z) w = DequantizeLinear (v, t, z) y = Conv (d, w) }"
)


def test_a_scale_that_changes_is_told(tmp_path: Path) -> None:
    found = checked(save(DYNAMIC_SCALE, tmp_path)).findings
    warnings = [finding for finding in found if not finding.is_error]
    assert [finding.node for finding in warnings] == ["n_q", "n_d"]
    assert all("the scale is not a constant" in finding.reason for finding in warnings)
    # Whether it crashes is up to the version.
    assert all("ended by SIGSEGV" in finding.reason for finding in found if finding.is_error)


def test_a_zero_point_that_is_refused_is_told_ahead_of_such_a_scale(tmp_path: Path) -> None:
    path = save(DYNAMIC_SCALE.replace("z = {0}", "z = {3}"), tmp_path)
    errors = [f for f in survey(load(path), get_target("sm86")) if f.is_error]
    assert [f.node for f in errors] == ["n_q", "n_d", "n_w"]
    assert {f.reason for f in errors} == {"the zero point is not 0"}


def test_more_than_2_gb_of_weights(tmp_path: Path) -> None:
    """The weights are holes in a file."""
    size = 24_000
    text = f"(float[8, {size}] x) => (int64[2, n] y) {{ h = MatMul (x, w) y = NonZero (h) }}"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 19]> g {text}')
    weight = model.graph.initializer.add(
        name="w", data_type=1, dims=[size, size], data_location=onnx.TensorProto.EXTERNAL
    )
    weight.external_data.add(key="location", value="w.data")
    onnx.save(model, tmp_path / "m.onnx")
    with (tmp_path / "w.data").open("wb") as file:
        file.truncate(4 * size * size)
    assert (tmp_path / "w.data").stat().st_size > 2 << 30
    report = checked(tmp_path / "m.onnx")
    assert [(f.node, f.operator) for f in report.findings] == [("y", "NonZero")]


def test_a_crash_blames_an_operator_that_is_known_for_it(tmp_path: Path) -> None:
    text = "(float[1, 2, 4, 8] x) => (float[1, 2, 4, 8] y) { y = Attention (x, x, x) }"
    report = checked(save(text, tmp_path, opset=23))
    assert outcomes(report) == ["passed", "passed", "failed"]
    (finding,) = report.findings
    assert (finding.node, finding.operator) == ("n_y", "Attention")
    assert "Extension modules" not in finding.reason
    assert finding.fix == "this operator is known to make builds fail: write it with others"


def test_a_build_that_takes_too_long_blames_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_long(*_: object) -> None:
        raise GraphoptError("the build took longer than 1 s", fix="allow more time with --timeout")

    monkeypatch.setattr(check, "_built", too_long)
    text = "(float[1, 2, 4, 8] x) => (float[1, 2, 4, 8] y) { y = Attention (x, x, x) }"
    (finding,) = checked(save(text, tmp_path, opset=23)).findings
    assert (finding.node, finding.fix) == ("", "allow more time with --timeout")


BUILT = {
    "com.microsoft, which the parser knows": (
        "(float[4] x) => (float[4] y) { y = com.microsoft.Gelu (x) }",
        19,
    ),
    "If": (
        "(float[4] x, bool c) => (float[4] y) { y = If (c) <then_branch = t () => (float[4] a) "
        "{ a = Relu (x) }, else_branch = e () => (float[4] b) { b = Neg (x) }> }",
        19,
    ),
    "Scan": (
        "(float[4] i, float[5, 4] x) => (float[4] f, float[5, 4] y) { f, y = Scan (i, x) "
        "<num_scan_inputs = 1, body = b (float[4] s, float[4] e) => (float[4] so, float[4] eo) "
        "{ so = Add (s, e) eo = Identity (so) }> }",
        19,
    ),
    "uint8 input": ("(uint8[4] x) => (float[4] y) { y = Cast <to = 1> (x) }", 19),
    "the oldest opset": ("(float[4] x) => (float[4] y) { y = Relu (x) }", 7),
    "the newest opset": ("(float[4] x) => (float[4] y) { y = Relu (x) }", 25),
}


@pytest.mark.parametrize("name", BUILT)
def test_what_builds_is_not_refused(name: str, tmp_path: Path) -> None:
    text, opset = BUILT[name]
    report = checked(save(text, tmp_path, opset, domain="com.microsoft" if "micro" in name else ""))
    assert outcomes(report) == ["passed"] * 3
    assert report.findings == ()


MISREAD = [
    (
        "(double[4] x) => (double[4] y) { y = Relu (x) }",
        ["the model: input 'x' is float64, which TensorRT takes and computes as fp32; feed it "],
    ),
    (
        "(float[4] x) => (float[4] y) <float s = {0.1}, uint8 z = {0}> "
        "{ q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z) }",
        [
            "node 'n_q' [QuantizeLinear]: TensorRT takes uint8 for int8: what is above 127",
            "node 'n_y' [DequantizeLinear]: TensorRT takes uint8 for int8: what is above 127",
        ],
    ),
]


@pytest.mark.parametrize(("text", "warnings"), MISREAD)
def test_what_builds_as_something_else_is_a_warning(
    text: str, warnings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = checked(save(text, tmp_path))
    assert report.passed
    assert report.engine is not None
    assert not any(finding.is_error for finding in report.findings)
    for found, expected in zip(report.findings, warnings, strict=True):
        assert found.text.startswith(expected)
    # `graphopt build` says it too.
    assert report.engine.misread == tuple(finding.text for finding in report.findings)
    print_engine(report.engine)
    assert capsys.readouterr().out.count("warning: ") == len(warnings)


@pytest.mark.parametrize(("made_for", "expected"), [("onnxruntime-cpu", 1), ("sm120", 0)])
def test_a_model_made_for_another_kind_of_target_is_told_apart(
    made_for: str, expected: int, tmp_path: Path
) -> None:
    path = save(
        "(float[4] x) => (float[4] y) <float s = {0.1}, uint8 z = {9}> "
        "{ q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z) }",
        tmp_path,
    )
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"graphopt.target": made_for})
    onnx.save(model, path)
    advice = "optimize the original again with --target sm86"
    assert sum(finding.fix == advice for finding in checked(path).findings) == expected
    with pytest.raises(GraphoptError) as refusal:
        build_engine(path, tmp_path / "m.engine", target=get_target("sm86"))
    assert str(refusal.value).count(advice) == expected
