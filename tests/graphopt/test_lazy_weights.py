"""Weights that stay in their file: the same model, the same bytes, whatever becomes of the file."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import big_model, serialized
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.loader import DATA_DIR

import graphopt
from graphopt.ir import checking, leaving_out, sha256
from graphopt.ir import loading as loading_module
from graphopt.ir import serialized as serialized_module
from graphopt.ir.weights import FileTensor

ADD = '<ir_version: 10, opset_import: ["" : 21]> g (float[4] x) => (float[4] y) { y = Add (x, x) }'


@pytest.fixture
def _all_but_scalars_count_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (leaving_out, loading_module, serialized_module):
        monkeypatch.setattr(module, "LARGE_TENSOR_BYTES", 17)  # above any scalar


def stored_raw(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with the data of its constants raw, as exporters write it, where it can be."""
    tensors = [*model.graph.initializer]
    for node in model.graph.node:
        if node.op_type == "Constant":
            tensors += [a.t for a in node.attribute if a.HasField("t")]
    for tensor in tensors:
        if tensor.data_type == onnx.TensorProto.STRING or tensor.HasField("raw_data"):
            continue
        raw = ir.from_proto(tensor).tobytes()
        for name in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
            tensor.ClearField(name)
        tensor.raw_data = raw
    return model


def held_in_file(model: ir.Model) -> int:
    tensors = [value.const_value for value in model.graph.initializers.values()]
    for node in model.graph:
        tensors += [a.value for a in node.attributes.values() if a.type == ir.AttributeType.TENSOR]
    return sum(isinstance(tensor, FileTensor) for tensor in tensors)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("_all_but_scalars_count_as_large")
def test_the_models_of_the_backend_suites_come_and_go_byte_for_byte(tmp_path: Path) -> None:
    models = [case.model for case in collect_testcases(None) if case.model is not None]
    models += [onnx.load(path) for path in sorted(Path(DATA_DIR).rglob("*.onnx"))]
    held = 0
    for proto in models:
        content = stored_raw(proto).SerializeToString()
        expected = serialized(ir.from_proto(onnx.load_model_from_string(content)))
        (tmp_path / "in.onnx").write_bytes(content)
        loaded = graphopt.load(tmp_path / "in.onnx")
        held += held_in_file(loaded)
        for source in (loaded, graphopt.load(content)):
            graphopt.save(source, tmp_path / "out.onnx")
            assert (tmp_path / "out.onnx").read_bytes() == expected
        assert serialized(loaded) == expected
    assert len(models) > 1900
    assert held > 600


@pytest.mark.usefixtures("_all_but_scalars_count_as_large")
def test_what_is_written_outside_is_as_onnx_reads_it(tmp_path: Path) -> None:
    for path in sorted(Path(DATA_DIR).rglob("model.onnx")):
        loaded = graphopt.load(path)
        graphopt.save(loaded, tmp_path / "out.onnx", external_data=True)
        onnx.checker.check_model(str(tmp_path / "out.onnx"))
        whole = onnx.load(tmp_path / "out.onnx")
        original = onnx.load(path)
        for got, expected in zip(whole.graph.initializer, original.graph.initializer, strict=True):
            np.testing.assert_array_equal(
                onnx.numpy_helper.to_array(got), onnx.numpy_helper.to_array(expected)
            )
        graphopt.save(
            graphopt.load(tmp_path / "out.onnx"), tmp_path / "in.onnx", external_data=False
        )
        again = onnx.load(tmp_path / "in.onnx")
        for got, expected in zip(again.graph.initializer, original.graph.initializer, strict=True):
            assert onnx.numpy_helper.to_array(got).tobytes() == ir.from_proto(expected).tobytes()


TYPES = [kind for kind in ir.DataType if kind not in (ir.DataType.UNDEFINED, ir.DataType.STRING)]


@pytest.mark.parametrize("kind", TYPES, ids=[kind.name for kind in TYPES])
@pytest.mark.parametrize("length", [0, 1, 5000])
def test_tensors_of_every_type(tmp_path: Path, kind: ir.DataType, length: int) -> None:
    size = -(-length * kind.bitwidth // 8)
    raw = np.random.default_rng(0).integers(0, 2 if kind == ir.DataType.BOOL else 256, size)
    raw = raw.astype(np.uint8)
    if size and length * kind.bitwidth % 8:
        raw[-1] &= (1 << length * kind.bitwidth % 8) - 1
    proto = onnx.parser.parse_model(ADD)
    proto.graph.initializer.add(
        name="w", data_type=kind, dims=[length, 1], raw_data=raw.tobytes(), doc_string="of no use"
    )
    content = proto.SerializeToString()
    (tmp_path / "m.onnx").write_bytes(content)
    loaded, plain = graphopt.load(tmp_path / "m.onnx"), ir.from_proto(proto)
    got, expected = (m.graph.initializers["w"].const_value for m in (loaded, plain))
    assert isinstance(got, FileTensor) == (size >= 4096 and kind.bitwidth != 6)
    assert (got.dtype, got.shape, got.nbytes) == (expected.dtype, expected.shape, expected.nbytes)
    assert got.tobytes() == expected.tobytes() == raw.tobytes()
    assert got.numpy().dtype == expected.numpy().dtype
    assert got.numpy().shape == expected.numpy().shape
    assert got.numpy().tobytes() == expected.numpy().tobytes()
    if isinstance(got, FileTensor):  # with some versions of numpy, others become float64 here
        assert np.asarray(got).tobytes() == expected.numpy().tobytes()
    assert got.numpy().flags.writeable == expected.numpy().flags.writeable
    assert got.numpy().flags.aligned
    for external in (False, True):
        graphopt.save(loaded, tmp_path / "out.onnx", external_data=external)
        again = graphopt.load(tmp_path / "out.onnx").graph.initializers["w"].const_value
        assert again.numpy().tobytes() == expected.numpy().tobytes()
        assert again.doc_string == "of no use"
        assert again.dtype == kind


def test_strings_stay_inside(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(ADD)
    texts = [b"text" * 100, b"", b"\xff"] * 20
    proto.graph.initializer.add(name="w", data_type=8, dims=[60], string_data=texts)
    proto.graph.initializer.add(name="v", data_type=1, dims=[2000], raw_data=bytes(8000))
    onnx.save(proto, tmp_path / "m.onnx")
    for external in (False, True):
        graphopt.save(
            graphopt.load(tmp_path / "m.onnx"), tmp_path / "out.onnx", external_data=external
        )
        again = onnx.load(tmp_path / "out.onnx")
        assert list(again.graph.initializer[0].string_data) == texts


def held_model(path: Path) -> ir.Model:
    """A model that was loaded from `path`, with an initializer "w" that stays there."""
    onnx.save(ir.to_proto(big_model()), path)
    loaded = graphopt.load(path)
    assert isinstance(loaded.graph.initializers["w"].const_value, FileTensor)
    return loaded


def test_a_model_outlives_the_name_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    loaded, expected = held_model(path), serialized(big_model())
    for _ in range(2):  # over itself
        graphopt.save(loaded, path)
        assert path.read_bytes() == expected
    graphopt.save(big_model(seed=1), path)
    assert serialized(loaded) == expected
    path.unlink()
    assert serialized(loaded) == expected
    graphopt.save(loaded, path)
    assert path.read_bytes() == expected


def test_it_is_no_external_data(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    loaded = held_model(path)
    assert graphopt.ir.model_files(path, loaded) == [path]
    graphopt.save(loaded, tmp_path / "out.onnx")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.onnx", "out.onnx"]
    assert sha256(path, loaded) == sha256(path.read_bytes(), loaded)
    assert sha256(loaded, loaded) == sha256(serialized(loaded), loaded)


def test_a_file_written_to_in_place_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    loaded = held_model(path)
    before = path.read_bytes()
    for content in (before[:-100], before + b"\x00", before):
        path.write_bytes(content)
        os.utime(path, ns=(0, 0))  # else it may be too soon for the clock to tell
        with pytest.raises(graphopt.GraphoptError, match=r"m\.onnx: has changed since"):
            loaded.graph.initializers["w"].const_value.numpy()
        with pytest.raises(graphopt.GraphoptError, match=r"m\.onnx: has changed since"):
            graphopt.save(loaded, tmp_path / "out.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


def test_without_the_kernels_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = held_model(tmp_path / "m.onnx")
    monkeypatch.delattr(os, "copy_file_range", raising=False)
    graphopt.save(loaded, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == serialized(big_model())


def test_copies_clones_and_renamed_tensors(tmp_path: Path) -> None:
    loaded = held_model(tmp_path / "m.onnx")
    tensor = loaded.graph.initializers["w"].const_value
    assert copy.deepcopy(tensor).tobytes() == tensor.tobytes()
    clone = loaded.clone()
    clone.graph.initializers["w"].name = "renamed"
    graphopt.save(clone, tmp_path / "clone.onnx")
    assert onnx.load(tmp_path / "clone.onnx").graph.initializer[0].name == "renamed"
    graphopt.save(loaded, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == serialized(big_model())


@pytest.mark.parametrize("opset", [9, 21])
def test_large_constants_are_held_in_the_file_too(tmp_path: Path, opset: int) -> None:
    text = ADD.replace("21", str(opset)).replace("float[4]", "float[2000]")
    proto = onnx.parser.parse_model(text)
    value = np.arange(2000, dtype=np.float32)
    constant = onnx.helper.make_node(
        "Constant", [], ["c"], value=onnx.numpy_helper.from_array(value, "c")
    )
    proto.graph.node[0].input[1] = "c"
    proto.graph.node.insert(0, constant)
    onnx.save(proto, tmp_path / "m.onnx")
    loaded = graphopt.load(tmp_path / "m.onnx")
    assert held_in_file(loaded) == 1
    np.testing.assert_array_equal(graphopt.ir.constant_array(loaded.graph[0].outputs[0]), value)
    skeleton = checking.skeleton_of_model(loaded)
    assert len(skeleton.graph.node) == 2
    assert (skeleton.ByteSize() < 1000) == (opset == 21)
    graphopt.ir.check(loaded)
    for external in (False, True):
        graphopt.save(loaded, tmp_path / "out.onnx", external_data=external)
        assert (tmp_path / "out.onnx").read_bytes() == serialized(ir.from_proto(proto))
    loaded.graph[0].outputs[0].shape = None
    graphopt.ir.infer_shapes(loaded)
    assert graphopt.ir.static_shape(loaded.graph[0].outputs[0]) == (2000,)


def test_initializers_that_are_outputs_inputs_or_in_a_body(tmp_path: Path) -> None:
    branch = "g () => (float[2000] o) <float[2000] w> { o = Add (w, w) }"
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> main (bool c, float[2000] d) => '
        f"(float[2000] y, float[2000] a) {{ y = If (c) <then_branch = {branch}, "
        f"else_branch = {branch}> }}"
    )
    for number, name in enumerate(("a", "d")):
        array = np.full(2000, number, np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for attribute in proto.graph.node[0].attribute:
        array = np.full(2000, 7, np.float32)
        del attribute.g.initializer[:]
        attribute.g.initializer.append(onnx.numpy_helper.from_array(array, "w"))
    onnx.save(proto, tmp_path / "m.onnx")
    expected = serialized(ir.from_proto(proto))
    loaded = graphopt.load(tmp_path / "m.onnx")
    assert held_in_file(loaded) == 2
    graphopt.ir.check(loaded)
    graphopt.save(loaded, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == expected
    graphopt.save(loaded, tmp_path / "out.onnx", external_data=True)
    assert (tmp_path / "out.onnx.data").stat().st_size == 4 * 8000
    graphopt.save(graphopt.load(tmp_path / "out.onnx"), tmp_path / "out.onnx", external_data=False)
    assert (tmp_path / "out.onnx").read_bytes() == expected


def test_a_tensor_of_another_size_than_it_says_is_refused(tmp_path: Path) -> None:
    loaded = big_model()
    loaded.graph.initializers["w"].const_value = ir.LazyTensor(
        lambda: ir.tensor(np.zeros(10, np.float32)),
        dtype=ir.DataType.FLOAT,
        shape=ir.Shape([1000, 4]),
        name="w",
    )
    for external in (False, True):
        with pytest.raises(graphopt.GraphoptError, match=r"tensor 'w': holds 40 bytes where"):
            graphopt.save(loaded, tmp_path / "m.onnx", external_data=external)
    assert not list(tmp_path.iterdir())


MEMORY = """
import sys, graphopt
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
graphopt.load(sys.argv[1]); before = peak()
loaded = graphopt.load(sys.argv[2])
graphopt.ir.check(loaded)
graphopt.ir.infer_shapes(loaded)
graphopt.ir.sha256(sys.argv[2], loaded)
for external in (False, True):
    graphopt.save(loaded, sys.argv[3], external_data=external)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("external", [False, True])
def test_memory_stays_far_below_the_file(tmp_path: Path, external: bool) -> None:
    model = big_model(4_000_000)
    graphopt.save(model, tmp_path / "m.onnx", external_data=external)
    graphopt.save(big_model(), tmp_path / "small.onnx", external_data=external)
    names = [str(tmp_path / name) for name in ("small.onnx", "m.onnx", "out.onnx")]
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, *names], check=True, capture_output=True, text=True
    )
    assert int(done.stdout) < 20_000  # KiB, of 64,000,000 bytes


def test_more_than_a_message_can_hold_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    with path.open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(graphopt.GraphoptError, match="is not an ONNX model"):
        graphopt.load(path)


def test_external_data_of_more_than_2_gb(tmp_path: Path) -> None:
    """A file of holes, which copying may or may not keep."""
    if shutil.disk_usage(tmp_path).free < 6 << 30:
        pytest.skip("needs 6 GB of free disk")
    proto = onnx.parser.parse_model(ADD)
    rows = 550_000_000
    for name in ("v", "w"):
        tensor = proto.graph.initializer.add(name=name, data_type=1, dims=[rows // 2])
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entries = {"location": "in.data", "offset": 2 * rows * (name == "w"), "length": 2 * rows}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
    onnx.save(proto, tmp_path / "in.onnx")
    with (tmp_path / "in.data").open("wb") as file:
        file.truncate(4 * rows)
        file.seek(4 * rows - 4)
        file.write(b"last")
    assert graphopt.save(graphopt.load(tmp_path / "in.onnx"), tmp_path / "out.onnx") > 4 * rows
    with (tmp_path / "out.onnx.data").open("rb") as file:
        file.seek(-4, os.SEEK_END)
        assert file.read() == b"last"
    with pytest.raises(graphopt.GraphoptError, match="do not fit into one ONNX file"):
        graphopt.save(graphopt.load(tmp_path / "in.onnx"), tmp_path / "x.onnx", external_data=False)
