"""bench_precision.py: that it sees what fp16 does, and what it says of it."""

from __future__ import annotations

import copy
import json
import sys
import time
from pathlib import Path
from typing import Any

import bench_precision
import numpy as np
import onnx
import onnx_ir as ir
import precision_report as report
import pytest
from known_samples import samples_of
from low_tensors import exact_weights, numbers_of, summed_in_single
from onnx.reference import ReferenceEvaluator
from precision_child import fp32_share, is_sorted, why_invalid
from processes import cpu_limit

import graphopt
from graphopt.data.feeds import input_specs
from graphopt.runtime.session import Session
from graphopt_passes.cast_precision.low import LOW_TYPES

FP16 = LOW_TYPES["fp16"]
HEAD = '<ir_version: 8, opset_import: ["" : 17]> '
ROOT = Path(__file__).parents[2]


def loaded(text: str, **weights: np.ndarray) -> ir.Model:
    proto = onnx.parser.parse_model(HEAD + text)
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model = ir.from_proto(proto)
    graphopt.infer_shapes(model)
    return model


SQUARED = "g (float[N] x) => (float[N] y) { h = Cast<to=10>(x) a = Mul(h, w) y = Cast<to=1>(a) }"


def test_rounding_between_nodes_and_overflow_show() -> None:
    weight = np.array([3.0], np.float16)
    model = loaded(SQUARED, w=weight)
    x = np.array([1.0001, 2049.0, 30000.0], np.float32)
    hidden = Session(model).run({"x": x})["y"]
    assert hidden.tolist() == (3 * x).tolist(), (
        "ONNX Runtime rounds nothing, or we need no emulation"
    )
    shown = Session(numbers_of(model, FP16)).run({"x": x})["y"]
    with np.errstate(over="ignore"):
        assert shown.tolist() == (x.astype(np.float16) * weight).astype(np.float32).tolist()
    assert shown[2] == np.inf
    assert [v.dtype for v in model.graph.initializers.values()] == [ir.DataType.FLOAT16]


def test_bodies_and_attributes_of_the_low_type_are_rounded() -> None:
    then = "k = Constant<value = float16[1] {16896}>() q = Mul(h, k) p = Mul(q, k)"  # bits of 3
    model = loaded(
        "g (float[2] x, bool c) => (float[2] y) { h = Cast<to=10>(x) "
        f"b = If (c) <then_branch = t () => (float16[2] p) {{ {then} }}, "
        "else_branch = e () => (float16[2] r) { r = Neg(h) }> y = Cast<to=1>(b) }"
    )
    x = np.array([1.0001, 0.3], np.float32)
    narrow = x.astype(np.float16)
    for condition, expected in ((True, narrow * np.float16(3) * np.float16(3)), (False, -narrow)):
        got = Session(numbers_of(model, FP16)).run({"x": x, "c": np.array(condition)})["y"]
        assert got.tolist() == expected.astype(np.float32).tolist()


def test_data_alone_is_rounded_where_the_cast_model_stores_it_low() -> None:
    weight = np.array([1 / 3], np.float32)
    exact = loaded("g (float[N] x) => (float[N] y) { a = Mul(x, w) y = Exp(a) }", w=weight)
    cast = graphopt.optimize(exact, "cast-precision{keep=[Exp]}", verify="off").model
    x = np.array([0.1, 1.7], np.float32)
    got = Session(exact_weights(exact, cast, FP16)).run({"x": x})["y"]
    product = (x.astype(np.float16).astype(np.float32) * weight).astype(np.float16)
    np.testing.assert_allclose(got, np.exp(product.astype(np.float32)), rtol=2e-7)
    low = graphopt.optimize(exact, "cast-precision", calibration={"x": x}, verify="off").model
    got = Session(exact_weights(exact, low, FP16)).run({"x": x})["y"]
    assert got.tolist() == got.astype(np.float16).tolist(), "outputs are stored low, too"


def test_a_mask_is_no_infinity() -> None:
    exact = loaded(
        "g (float[2] x, bool[2] c) => (float[2] y) { a = Where(c, x, m) y = Softmax(a) }",
        m=np.array(-3.4e38, np.float32),
    )
    feed = {"x": np.array([1.0, 2.0], np.float32), "c": np.array([False, False])}
    cast = graphopt.optimize(
        exact, "cast-precision", calibration={k: v[None] for k, v in feed.items()}, verify="off"
    ).model
    assert Session(exact_weights(exact, cast, FP16)).run(feed)["y"].tolist() == [0.5, 0.5]


def test_the_evaluator_sums_in_fp32_and_gives_fp16() -> None:
    random = np.random.default_rng(0)
    weights = random.standard_normal((8, 8, 3, 3)).astype(np.float16)
    text = "g (float16[1, 8, 9, 9] x) => (float16[1, 8, 7, 7] y) { y = Conv(x, w) }"
    proto = ir.to_proto(loaded(text, w=weights))
    x = random.standard_normal((1, 8, 9, 9)).astype(np.float16)
    (got,) = ReferenceEvaluator(proto, new_ops=summed_in_single()).run(None, {"x": x})
    wide = loaded(text.replace("float16", "float"), w=weights.astype(np.float32))
    expected = Session(wide).run({"x": x.astype(np.float32)})["y"]
    assert got.dtype == np.float16
    np.testing.assert_allclose(got, expected, rtol=2**-11, atol=1e-4)


def test_order_and_validity_are_judged(tmp_path: Path) -> None:
    text = HEAD + "g (float[N] x) => (float[N] y) { a = Neg(x) y = Abs(a) }"
    proto = onnx.parser.parse_model(text)
    assert is_sorted(proto.graph)
    onnx.save(proto, tmp_path / "a.onnx")
    assert why_invalid(tmp_path / "a.onnx") is None
    nodes = [proto.graph.node[1], proto.graph.node[0]]
    turned = onnx.helper.make_graph(nodes, "g", proto.graph.input, proto.graph.output)
    assert not is_sorted(turned)
    outer = onnx.helper.make_node("If", ["c"], ["z"], then_branch=turned, else_branch=proto.graph)
    given = [onnx.helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, [])]
    assert not is_sorted(onnx.helper.make_graph([outer], "o", given, []))
    proto.graph.node[0].op_type = "And"
    onnx.save(proto, tmp_path / "b.onnx")
    assert "And" in str(why_invalid(tmp_path / "b.onnx"))


def test_the_time_limit_ends_a_loop() -> None:
    def spin() -> None:
        while True:
            time.process_time()

    with pytest.raises(TimeoutError), cpu_limit(0.05):
        spin()


def test_macs_in_fp32_are_a_part() -> None:
    text = "g (float16[1, 4] x) => (float[1, 2] y) { a = MatMul(x, v) b = Cast<to=1>(a) "
    model = loaded(
        text + "y = MatMul(b, w) }",
        v=np.ones((4, 6), np.float16),
        w=np.ones((6, 2), np.float32),
    )
    samples = samples_of(Path("net.onnx"), model)
    assert fp32_share(model, samples) == 12 / (24 + 12)


def test_samples_are_what_a_net_reads() -> None:
    model = graphopt.load(ROOT / "fixtures" / "resnet.onnx")
    assert samples_of(ROOT / "fixtures" / "resnet.onnx", model).description.startswith("calib.npz")
    assert samples_of(Path("resnet.onnx"), model).is_random
    files = loaded("g (int32[N, 2048] b) => (int32[N, 2048] y) { y = Neg(b) }")
    found = samples_of(Path("magika_v3_3.onnx"), files)
    feed = next(iter(found))
    assert (found.description, feed["b"].shape) == ("files", (1, 2048))
    assert input_specs(files)[0].dtype == feed["b"].dtype
    assert feed["b"].max() <= 256


CAST = {
    "nodes": 9,
    "kept": 2,
    "reasons": {"the statistics of a normalization": 2},
    "fp32_macs": 0.125,
    "goal_db": 50.0,
    "fit": {"layers": 3, "sqnr_db_before": 55.04, "sqnr_db_after": 61.0},
    "invalid": None,
    "sorted": True,
    **{f"{what}_db": 58.2 for what in ("rounded", "data", "unseen", "weights", "evaluator")},
    **{f"{what}_finite": True for what in ("rounded", "data", "unseen", "weights", "evaluator")},
    "evaluator_samples": 4,
    "nearest_db": 55.04,
}


def made_up(**changed: Any) -> dict[str, Any]:
    """The row of a model of which all holds, but for what is `changed` in fp16."""
    row = {"samples": "calib.npz (512 samples)", "seen": 32, "types": {"fp16": copy.deepcopy(CAST)}}
    row["types"]["fp16"] |= changed
    return row


def test_the_page_of_what_holds() -> None:
    assert report.broken(made_up()) == []
    page = report.markdown({"net": made_up(), "other": made_up(rounded_db="inf", fit=None)})
    kept = "2: the statistics of a normalization | 12.5%"
    assert f"| net | calib.npz | 9 | {kept} | 50 | 58.2 | 58.2 | 58.2 (4) | yes | yes |" in page
    assert f"| other | calib.npz | 9 | {kept} | 50 | inf |" in page
    assert "| net | calib.npz (512 samples) | 50 | 58.2 | 58.2 | 58.2 |" in page
    assert "| other | calib.npz (512" not in page
    assert "| net | 3 | 55.0 | 58.2 |  | 58.2 |" in page
    assert "## What did not hold\n\nNothing.\n" in page
    assert "fp16: of 2 models 2 are valid and sorted, 2 have neither" in page


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"rounded_db": 44.0}, "fp16: 44.0 dB, not 50; data alone leaves 58.2"),
        ({"invalid": "no type"}, "fp16: onnx.checker refuses it: no type"),
        ({"sorted": False}, "fp16: a node stands before what it reads"),
        ({"evaluator_finite": False}, "fp16: an output is NaN or infinite"),
        ({"rounded_finite": False, "rounded_db": "-inf"}, "fp16: an output is NaN or infinite"),
    ],
)
def test_what_does_not_hold_is_told(changed: dict[str, Any], line: str) -> None:
    row = made_up(**changed)
    assert report.broken(row) == [line]
    page = report.markdown({"net": row, "failed": {"failure": "a crash"}})
    assert f"## What did not hold\n\n- net: {line}\n- failed: a crash\n" in page
    assert "| failed | **none** |" in page


def test_it_measures_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, kept, page = tmp_path / "tiny.onnx", tmp_path / "a.json", tmp_path / "a.md"
    weight = (np.random.default_rng(0).standard_normal((32, 32)) / 6).astype(np.float32)
    text = (
        "g (float[N, 32] x) => (float[N, 32] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }"
    )
    graphopt.save(loaded(text, w=weight, v=weight.T.copy()), path)
    samples = np.random.default_rng(1).standard_normal((48, 32)).astype(np.float32)
    np.savez(tmp_path / "calib.npz", x=samples)
    given = [path, "--json", kept, "--markdown", page]
    monkeypatch.setattr(sys, "argv", ["tool", *map(str, given)])
    assert bench_precision.main() == 0
    (row,) = json.loads(kept.read_text()).values()
    fp16, bf16 = row["types"]["fp16"], row["types"]["bf16"]
    assert (row["seen"], fp16["evaluator_samples"]) == (32, 32)
    for cast, goal, bits in ((fp16, 60, 11), (bf16, 35, 8)):
        assert (cast["kept"], cast["fp32_macs"], cast["goal_db"]) == (0, 0, goal)
        usual = 6.02 * bits + 7  # of one rounding; a few add up
        for what in ("rounded_db", "data_db", "unseen_db"):
            assert usual - 9 < cast[what] < usual
    assert fp16["weights_db"] > fp16["rounded_db"]
    assert abs(fp16["evaluator_db"] - fp16["rounded_db"]) < 0.2
    assert "fp16: of 1 models 1 are valid and sorted" in capsys.readouterr().out
    assert "| tiny | calib.npz | " in page.read_text()
    monkeypatch.setattr(bench_precision, "bench", lambda *_: {"failure": "a crash"})
    assert bench_precision.main() == 0, "what is done is not done again"
    kept.write_text(json.dumps({"tiny": {**row, "failure": "timeout"}}))
    assert bench_precision.main() == 1
    assert "tiny: a crash\n" in capsys.readouterr().out
