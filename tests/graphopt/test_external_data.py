"""External data: read when asked for, whatever becomes of its file, and from nowhere else."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import big_model

import graphopt
from graphopt.ir.weights import DataFileTensor

ADDS = '<ir_version: 10, opset_import: ["" : 21]> g (float[4] x) => (float[4] y) { y = Add (x, x) }'


def loaded(folder: Path) -> ir.Model:
    graphopt.save(big_model(), folder / "m.onnx", external_data=True)
    return graphopt.load(folder / "m.onnx")


def weight(model: ir.Model) -> ir.TensorProtocol:
    tensor = model.graph.initializers["w"].const_value
    assert isinstance(tensor, DataFileTensor)
    return tensor


def test_a_thousand_tensors_take_no_thousand_descriptors(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(ADDS)
    for number in range(300):
        array = np.full(300, number, np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, f"w{number}"))
    path = tmp_path / "m.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    model = graphopt.load(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        graphopt.save(model, path)
        graphopt.save(model, tmp_path / "inside.onnx", external_data=False)
        values = [v.const_value.numpy()[0] for v in model.graph.initializers.values()]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert values == list(range(300))


def test_a_data_file_that_another_replaced_is_refused(tmp_path: Path) -> None:
    model = loaded(tmp_path)
    graphopt.save(big_model(seed=1), tmp_path / "m.onnx", external_data=True)
    with pytest.raises(graphopt.GraphoptError, match=r"m\.onnx\.data: has changed since it was"):
        weight(model).numpy()
    with pytest.raises(graphopt.GraphoptError, match=r"m\.onnx\.data: has changed since it was"):
        graphopt.save(model, tmp_path / "out.onnx")
    (tmp_path / "m.onnx.data").unlink()
    with pytest.raises(graphopt.GraphoptError, match=r"cannot be read \(No such file"):
        weight(model).numpy()
    assert not (tmp_path / "out.onnx").exists()


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    loaded(inner)
    data = inner / "m.onnx.data"
    data.rename(tmp_path / "elsewhere")
    data.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(graphopt.GraphoptError, match="leads out of the model's folder"):
        weight(graphopt.load(inner / "m.onnx")).tobytes()
    data.unlink()
    os.link(tmp_path / "elsewhere", data)
    with pytest.raises(graphopt.GraphoptError, match="has several names"):
        graphopt.save(graphopt.load(inner / "m.onnx"), inner / "out.onnx")
    data.unlink()
    (tmp_path / "elsewhere").rename(inner / "w.bin")
    data.symlink_to("w.bin")
    expected = big_model().graph.initializers["w"].const_value
    np.testing.assert_array_equal(weight(graphopt.load(inner / "m.onnx")).numpy(), expected.numpy())


def test_a_reference_stays_a_reference(tmp_path: Path) -> None:
    model = loaded(tmp_path)
    expected = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    assert ir.to_proto(model).graph.initializer[0] == expected.graph.initializer[0]
    assert np.asarray(weight(model)).flags.aligned
    assert not weight(model).numpy().flags.writeable
