"""Every door a model can come in by, and every way it can be broken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from models import MLP, big_model, model, proto, serialized

import graphopt
from graphopt.ir import sha256


def test_every_kind_of_source_gives_the_same_model(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(proto(MLP), path)
    expected = serialized(model())
    for source in (path, str(path), path.read_bytes(), proto(MLP)):
        assert serialized(graphopt.load(source)) == expected
    already = model()
    assert graphopt.load(already) is already
    imported = graphopt.load(gs.import_onnx(proto(MLP)))
    assert [node.op_type for node in imported.graph] == ["Gemm", "Relu", "MatMul"]


def test_external_data_is_read_lazily_and_found_beside_the_model(tmp_path: Path) -> None:
    graphopt.save(big_model(), tmp_path / "m.onnx", external_data=True)
    loaded = graphopt.load(tmp_path / "m.onnx")
    tensor = loaded.graph.initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    np.testing.assert_array_equal(
        tensor.numpy(), big_model().graph.initializers["w"].const_value.numpy()
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"dear reader, this is text\n", "is not an ONNX model"),
        (b"\x08\x09", "holds no graph"),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(graphopt.GraphoptError, match=message) as caught:
        graphopt.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    whole = serialized(big_model(50))
    path = tmp_path / "cut.onnx"
    for length in range(1, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(graphopt.GraphoptError):
            graphopt.load(path)


@settings(max_examples=200)
@given(st.binary(max_size=200), st.integers(0, 400))
@example(b"\x80", 60)  # a name that is not UTF-8
def test_garbage_spliced_into_a_model_never_escapes_as_another_error(
    garbage: bytes, at: int
) -> None:
    whole = serialized(model())
    at = min(at, len(whole))
    try:
        loaded = graphopt.load(whole[:at] + garbage + whole[at + len(garbage) :])
    except graphopt.GraphoptError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(loaded, ir.Model)


def test_a_missing_file_a_folder_and_an_unknown_type(tmp_path: Path) -> None:
    with pytest.raises(graphopt.GraphoptError, match="no such file"):
        graphopt.load(tmp_path / "none.onnx")
    with pytest.raises(graphopt.GraphoptError, match="is a folder"):
        graphopt.load(tmp_path)
    with pytest.raises(graphopt.GraphoptError, match="cannot load a model from int"):
        graphopt.load(7)  # type: ignore[arg-type]


def test_missing_and_short_external_data_name_the_tensor(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    graphopt.save(big_model(), path, external_data=True)
    data = tmp_path / "m.onnx.data"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(graphopt.GraphoptError, match="'w' is cut short"):
        graphopt.load(path)
    data.unlink()
    with pytest.raises(graphopt.GraphoptError, match="'w' is missing"):
        graphopt.load(path)


def test_an_invalid_model_is_refused_by_the_checker() -> None:
    broken = proto(MLP)
    broken.graph.node[0].input[0] = "nowhere"
    with pytest.raises(graphopt.GraphoptError, match=r"not a valid ONNX model.*nowhere"):
        graphopt.load(broken)


def test_what_onnx_ir_would_drop_is_refused() -> None:
    sparse = proto(MLP)
    sparse.graph.sparse_initializer.add().values.name = "s"
    with pytest.raises(graphopt.GraphoptError, match="sparse initializers"):
        graphopt.load(sparse)
    trained = proto(MLP)
    trained.training_info.add()
    with pytest.raises(graphopt.GraphoptError, match="training information"):
        graphopt.load(trained)


def test_the_hash_of_a_file_covers_its_external_data(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    graphopt.save(big_model(seed=0), path, external_data=True)
    first = sha256(path, graphopt.load(path))
    graphopt.save(big_model(seed=1), path, external_data=True)
    assert sha256(path, graphopt.load(path)) != first


def test_external_data_outside_the_models_folder_is_refused(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    graphopt.save(big_model(), inner / "m.onnx", external_data=True)
    proto = onnx.load(inner / "m.onnx", load_external_data=False)
    for location in ("../m.onnx.data", str(inner / "m.onnx.data")):
        proto.graph.initializer[0].external_data[0].value = location
        (inner / "n.onnx").write_bytes(proto.SerializeToString())
        with pytest.raises(graphopt.GraphoptError, match="'w' is outside the model's folder"):
            graphopt.load(inner / "n.onnx")


def test_a_name_that_is_too_long_is_one_line() -> None:
    with pytest.raises(graphopt.GraphoptError, match="File name too long"):
        graphopt.load("x" * 5000)
