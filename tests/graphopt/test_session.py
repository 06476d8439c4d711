"""A session gives the same numbers wherever the weights are."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import big_model, proto

import graphopt
from graphopt.runtime import session as session_module
from graphopt.runtime.session import Session

X = np.random.default_rng(5).standard_normal((3, 1000)).astype(np.float32)


def output(model: ir.Model) -> bytes:
    return Session(model).run({"x": X})["y"].tobytes()


def whole_bytes(model: ir.Model) -> bool:
    """Whether ONNX Runtime gets the weights in memory rather than by name of file."""
    options = session_module.ort.SessionOptions()
    with session_module._as_source(model, options) as source:
        return len(source) > 16_000


@pytest.mark.parametrize("external", [False, True])
def test_weights_in_files_are_left_there(
    tmp_path: Path, external: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = output(big_model())
    graphopt.save(big_model(), tmp_path / "m.onnx", external_data=external)
    monkeypatch.chdir(tmp_path)
    loaded = graphopt.load("m.onnx")
    monkeypatch.chdir("/")
    assert not whole_bytes(loaded)
    assert output(loaded) == expected
    assert output(loaded.clone()) == expected
    graphopt.save(loaded, tmp_path / "m.onnx")  # another file of that name now
    assert whole_bytes(loaded)
    assert output(loaded) == expected


def test_weights_from_two_folders(tmp_path: Path) -> None:
    text = (
        '<ir_version: 9, opset_import: ["" : 17]> g (float[n, 1000] x) => (float[n, 4] y) '
        "{ a = MatMul (x, w) b = MatMul (x, v) y = Add (a, b) }"
    )
    model = onnx.parser.parse_model(text)
    for seed, name in enumerate(("w", "v")):
        tensor = ir.to_proto(big_model(seed=seed)).graph.initializer[0]
        model.graph.initializer.add().CopyFrom(tensor)
        model.graph.initializer[-1].name = name
    expected = output(ir.from_proto(model))
    loaded = {}
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        onnx.save(model, tmp_path / folder / "m.onnx")
        loaded[folder] = graphopt.load(tmp_path / folder / "m.onnx")
    mixed = loaded["one"]
    mixed.graph.initializers["v"].const_value = loaded["two"].graph.initializers["v"].const_value
    assert output(mixed) == expected
    shutil.rmtree(tmp_path / "one")
    assert output(mixed) == expected


def test_a_weight_in_a_body_and_a_linked_data_file(tmp_path: Path) -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]> g (float[n, 1000] x) => (float[n, 4] y)
        <bool c = {1}> {
            y = If (c) <then_branch = t () => (float[n, 4] p) { p = MatMul (x, w) },
                        else_branch = e () => (float[n, 4] q) { q = MatMul (x, w) }>
        }"""
    model = onnx.parser.parse_model(text)
    weight = ir.to_proto(big_model()).graph.initializer[0]
    for attribute in model.graph.node[0].attribute:
        attribute.g.initializer.append(weight)
    path = tmp_path / "m.onnx"
    graphopt.save(ir.from_proto(model), path, external_data=True)
    assert output(graphopt.load(path)) == output(big_model())
    inner = tmp_path / "inner"
    inner.mkdir()
    graphopt.save(big_model(), inner / "n.onnx", external_data=True)
    (inner / "n.onnx.data").rename(tmp_path / "elsewhere")
    (inner / "n.onnx.data").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(graphopt.GraphoptError, match="leads out of the model's folder"):
        Session(graphopt.load(inner / "n.onnx"))


def test_a_model_past_the_limit_goes_by_file(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = output(big_model())
    monkeypatch.setattr(session_module, "EMBEDDED_LIMIT_BYTES", 1000)
    assert output(big_model()) == expected


def test_what_onnx_runtime_refuses_is_one_line() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17, "mine" : 1]>
        g (float[n, 4] x) => (float[n, 4] y) { y = mine.Unknown (x) }"""
    with pytest.raises(graphopt.GraphoptError, match="ONNX Runtime cannot run the model"):
        Session(ir.from_proto(proto(text)))


def test_the_sizes_of_many_parts_stay_where_shape_inference_reads_them(tmp_path: Path) -> None:
    parts = [f"p{number}" for number in range(1000)]
    split = onnx.helper.make_node("Split", ["x", "sizes"], parts, axis=1)
    last = onnx.helper.make_node("Identity", [parts[-1]], ["y"])
    floats = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [split, last],
        "g",
        [onnx.helper.make_tensor_value_info("x", floats, [3, 1000])],
        [onnx.helper.make_tensor_value_info("y", floats, [3, 1])],
        [onnx.numpy_helper.from_array(np.ones(1000, np.int64), "sizes")],
    )
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9), tmp_path / "m.onnx"
    )
    loaded = graphopt.load(tmp_path / "m.onnx")
    assert output(loaded) == X[:, -1:].tobytes()
    graphopt.save(loaded, tmp_path / "out.onnx", external_data=True)
    direct = session_module.ort.InferenceSession(str(tmp_path / "out.onnx"))
    assert direct.run(None, {"x": X})[0].tobytes() == X[:, -1:].tobytes()
    graphopt.ir.infer_shapes(loaded)
    assert graphopt.ir.static_shape(loaded.graph[0].outputs[7]) == (3, 1)


def test_a_model_behind_a_link_runs(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "here").mkdir()
    graphopt.save(big_model(2000), tmp_path / "there" / "m.onnx")
    link = tmp_path / "here" / "m.onnx"
    link.symlink_to(tmp_path / "there" / "m.onnx")
    x = np.ones((1, 2000), np.float32)
    (expected,) = Session(big_model(2000)).run({"x": x}).values()
    (actual,) = Session(graphopt.load(link)).run({"x": x}).values()
    assert actual.tobytes() == expected.tobytes()
