"""A model is written whole or not at all."""

from __future__ import annotations

import errno
import resource
import signal
import subprocess
import sys
from pathlib import Path

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
        [sys.executable, "-c", code, str(tmp_path / "m.onnx"), tests],
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
    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(graphopt.GraphoptError, match="No space left on device"):
        graphopt.save(model(), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(graphopt.GraphoptError, match="the output folder does not exist"):
        graphopt.save(model(), tmp_path / "no" / "m.onnx")
    with pytest.raises(graphopt.GraphoptError, match="is a folder"):
        graphopt.save(model(), tmp_path)
