"""A model is written whole or not at all."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import big_model, model, serialized

import graphopt
from graphopt.ir import saving


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    written = graphopt.save(model(), tmp_path / "m.onnx")
    assert written == (tmp_path / "m.onnx").stat().st_size
    assert serialized(graphopt.load(tmp_path / "m.onnx")) == serialized(model())
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


def test_external_data_on_request_and_kept_where_it_came_from(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    written = graphopt.save(big_model(), path, external_data=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert written == sum(file.stat().st_size for file in tmp_path.iterdir())
    other = tmp_path / "other"
    other.mkdir()
    graphopt.save(graphopt.load(path), other / "again.onnx")
    assert (other / "again.onnx.data").read_bytes() == (tmp_path / "m.onnx.data").read_bytes()
    onnx.checker.check_model(str(other / "again.onnx"), full_check=True)
    graphopt.save(graphopt.load(path), other / "inside.onnx", external_data=False)
    assert (other / "inside.onnx").stat().st_size > 16_000
    assert not (other / "inside.onnx.data").exists()


def test_saving_over_its_own_external_data(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    graphopt.save(big_model(), path, external_data=True)
    graphopt.save(graphopt.load(path), path)
    np.testing.assert_array_equal(
        graphopt.load(path).graph.initializers["w"].const_value.numpy(),
        big_model().graph.initializers["w"].const_value.numpy(),
    )


def test_external_data_by_itself_past_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "EMBEDDED_LIMIT_BYTES", 1000)
    graphopt.save(big_model(), tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx.data").stat().st_size == 16_000
    with pytest.raises(graphopt.GraphoptError, match="do not fit into one ONNX file"):
        graphopt.save(big_model(), tmp_path / "n.onnx", external_data=False)
    assert not (tmp_path / "n.onnx").exists()


def test_a_model_over_2_gb(tmp_path: Path) -> None:
    """Lazily made zeros, so that the test costs disk (sparse or not) rather than memory."""
    rows = 600_000_000
    tensor = ir.LazyTensor(
        lambda: ir.tensor(np.zeros(rows, np.float32)),
        dtype=ir.DataType.FLOAT,
        shape=ir.Shape([rows]),
        name="w",
    )
    big = model(
        '<ir_version: 9, opset_import: ["" : 17]> g (float[1] x) => (float[n] y) { y = Add (x, x) }'
    )
    weight = ir.Value(
        name="w", shape=ir.Shape([rows]), type=ir.TensorType(ir.DataType.FLOAT), const_value=tensor
    )
    big.graph.register_initializer(weight)
    big.graph[0].replace_input_with(1, weight)
    path = tmp_path / "huge.onnx"
    assert graphopt.save(big, path) > 2_400_000_000
    loaded = graphopt.load(path)
    assert loaded.graph.initializers["w"].const_value.nbytes == 4 * rows
    assert path.stat().st_size < 1000
    (tmp_path / "huge.onnx.data").unlink()


@pytest.mark.parametrize("external", [False, True])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, external: bool) -> None:
    """A limit on file size makes the kernel refuse the write half-way, as a full disk does."""
    graphopt.save(model(), tmp_path / "m.onnx")
    before = (tmp_path / "m.onnx").read_bytes()
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); import graphopt, models; "
        f"graphopt.save(models.big_model(100_000), sys.argv[1], external_data={external})"
    )

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    tests = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, str(tmp_path / "m.onnx"), tests],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "GraphoptError" in done.stderr
    assert "cannot be written (File too large)" in done.stderr
    assert (tmp_path / "m.onnx").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


def test_no_space_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, mode: str) -> BinaryIO:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(graphopt.GraphoptError, match="No space left on device"):
        graphopt.save(model(), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(graphopt.GraphoptError, match="the output folder does not exist"):
        graphopt.save(model(), tmp_path / "no" / "m.onnx")
    (tmp_path / "file").touch()
    with pytest.raises(graphopt.GraphoptError, match="file: is a file, no folder"):
        graphopt.save(model(), tmp_path / "file" / "m.onnx")
    with pytest.raises(graphopt.GraphoptError, match="is a folder"):
        graphopt.save(model(), tmp_path)


def with_small_external_tensors(folder: Path) -> Path:
    """A model with external data as exporters write it: a large weight and a small bias."""
    m = big_model()
    m.graph.register_initializer(
        ir.Value(
            name="b",
            shape=ir.Shape([4]),
            type=ir.TensorType(ir.DataType.FLOAT),
            const_value=ir.tensor(np.arange(4, dtype=np.float32), name="b"),
        )
    )
    proto = ir.to_proto(m)
    add = onnx.helper.make_node("Add", ["y0", "b"], ["y"])
    proto.graph.node[0].output[0] = "y0"
    proto.graph.node.append(add)
    path = folder / "m.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    return path


def test_a_model_with_small_external_tensors_goes_through_everything(tmp_path: Path) -> None:
    path = with_small_external_tensors(tmp_path)
    source = graphopt.load(path)
    bias = source.graph.initializers["b"].const_value
    held = bias.numpy()  # a view that someone keeps
    result = graphopt.optimize(source, "fold-constants,eliminate-dead", latency=True)
    assert result.report.verification.total[0].exact
    for external in (True, False):
        graphopt.save(result.model, tmp_path / "out.onnx", external_data=external)
        again = graphopt.load(tmp_path / "out.onnx")
        np.testing.assert_array_equal(again.graph.initializers["b"].const_value.numpy(), held)
    graphopt.to_graphsurgeon(source)
    np.testing.assert_array_equal(bias.numpy(), [0, 1, 2, 3])  # the source is as it was


def test_saving_over_the_source_leaves_the_loaded_model_readable(tmp_path: Path) -> None:
    path = with_small_external_tensors(tmp_path)
    loaded = graphopt.load(path)
    expected = np.array(graphopt.load(path).graph.initializers["w"].const_value.numpy())
    small = loaded.graph.initializers["b"]
    small.const_value = ir.tensor(np.zeros(1, np.float32), name="b")  # moves every offset
    for _ in range(2):
        graphopt.save(loaded, path)
        saved = graphopt.load(path).graph.initializers["w"].const_value.numpy()
        np.testing.assert_array_equal(saved, expected)


def test_saving_again_over_the_source_when_every_offset_has_moved(tmp_path: Path) -> None:
    text = (
        '<ir_version: 9, opset_import: ["" : 17]> g (float[n, 4] x) => (float[n, 4] y) '
        "{ a = Add (x, b) y = MatMul (a, w) }"
    )
    proto = onnx.parser.parse_model(text)
    weight = np.arange(16, dtype=np.float32).reshape(4, 4)
    for name, array in (("b", np.ones(4, np.float32)), ("w", weight)):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    path = tmp_path / "m.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    loaded = graphopt.load(path)
    loaded.graph.initializers["b"].const_value = ir.tensor(np.zeros(1, np.float32), name="b")
    for _ in range(3):
        graphopt.save(loaded, path, external_data=True)
        saved = graphopt.load(path).graph.initializers["w"].const_value.numpy()
        np.testing.assert_array_equal(saved, weight)


def test_all_files_are_moved_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    graphopt.save(big_model(seed=0), path, external_data=True)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    replace = Path.replace

    def fail_on_the_model(self: Path, target: Path) -> Path:
        if target == path:
            raise OSError(errno.EIO, "Input/output error")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail_on_the_model)
    with pytest.raises(graphopt.GraphoptError, match=r"Input/output error.*nothing was changed"):
        graphopt.save(big_model(seed=1), path, external_data=True)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_links_are_followed_and_special_files_refused(tmp_path: Path) -> None:
    (tmp_path / "link.onnx").symlink_to(tmp_path / "real.onnx")
    graphopt.save(model(), tmp_path / "link.onnx")
    assert (tmp_path / "link.onnx").is_symlink()
    assert serialized(graphopt.load(tmp_path / "real.onnx")) == serialized(model())
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(graphopt.GraphoptError, match="not a regular file"):
        graphopt.save(model(), tmp_path / "fifo")
    (tmp_path / "real.onnx").chmod(0o444)
    with pytest.raises(graphopt.GraphoptError, match="is read-only"):
        graphopt.save(model(), tmp_path / "real.onnx")
    with pytest.raises(graphopt.GraphoptError, match="File name too long"):
        graphopt.save(model(), tmp_path / ("o" * 300))


def test_permissions_stay(tmp_path: Path) -> None:
    graphopt.save(model(), tmp_path / "m.onnx")
    (tmp_path / "m.onnx").chmod(0o640)
    graphopt.save(model(), tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").stat().st_mode & 0o777 == 0o640
