"""What is in a bundle, and how it is written."""

from __future__ import annotations

import ast
import hashlib
import json
from pathlib import Path

import engine_models as models
import numpy as np
import onnx
import onnxruntime as ort
import pytest

import graphopt.emit.tensorrt.bundle as bundle_package
from graphopt.emit.tensorrt import (
    BuilderOptions,
    EngineReport,
    batch_shapes,
    build_engine,
    parse_shapes,
)
from graphopt.errors import GraphoptError
from graphopt.ir import load
from graphopt.targets import get_target

SHAPES = parse_shapes("image:1x3x16x16,2x3x16x16,4x3x16x16")


def make(model: onnx.ModelProto, folder: Path, **options: object) -> EngineReport:
    """Makes a bundle in `folder`; on failure asserts that nothing has changed there."""
    path = models.save(model, folder / "source.onnx")
    given: dict[str, object] = {
        "target": get_target("jetson-orin"),
        "backend": "bundle",
    }
    if "shapes" not in options:
        given["shapes"] = batch_shapes(load(path))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    try:
        return build_engine(path, folder / "out", **(given | options))  # type: ignore[arg-type]
    except GraphoptError:
        after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert after == before
        raise


@pytest.fixture
def samples(tmp_path: Path) -> str:
    images = np.random.default_rng(1).standard_normal((6, 3, 16, 16)).astype(np.float32)
    np.savez(tmp_path / "real.npz", image=images)
    return str(tmp_path / "real.npz")


def test_everything_is_there_and_has_its_hash(tmp_path: Path, samples: str) -> None:
    report = make(models.float_net(), tmp_path, samples=samples, shapes=SHAPES)
    out = tmp_path / "out"
    metadata = json.loads((out / "metadata.json").read_text())
    files = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert files == {*metadata["files"], "metadata.json"}
    assert files == {
        *("model.onnx", "build.sh", "verify.py", "profiles.json", "metadata.json"),
        *(f"reference/case{i}/{kind}0.npy" for i in range(3) for kind in ("input", "output")),
    }
    for name, told in metadata["files"].items():
        content = (out / name).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (
            told["sha256"],
            told["bytes"],
        )
    assert (out / "model.onnx").read_bytes() == (tmp_path / "source.onnx").read_bytes()
    assert (out / "build.sh").stat().st_mode & 0o111
    assert report.engine_bytes == sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    assert report.kernels is None
    assert "copy the folder there and run ./build.sh" in (report.kernel_table_note or "")
    assert report.warnings == ()


def test_metadata_says_what_it_is(tmp_path: Path, samples: str) -> None:
    model = models.float_net()
    model.metadata_props.add(key="graphopt.pipeline", value="simplify,fuse")
    make(model, tmp_path, samples=samples, shapes=SHAPES)
    told = json.loads((tmp_path / "out" / "metadata.json").read_text())
    assert told["target"] == {"name": "jetson-orin", "sm": "8.7"}
    assert told["tensorrt"] == {"least": [10, 3], "greatest": [11, 99]}
    assert told["precisions"] == ["fp32"]
    assert told["inputs"] == [{"name": "image", "dtype": "float32", "shape": ["batch", 3, 16, 16]}]
    assert told["outputs"] == [{"name": "y", "dtype": "float32", "shape": ["batch", 10]}]
    assert told["pipeline"] == {"pipeline": "simplify,fuse"}
    assert told["reference"]["random"] is False
    assert json.loads((tmp_path / "out" / "profiles.json").read_text()) == {
        "profiles": [
            {"image": {"min": [1, 3, 16, 16], "opt": [2, 3, 16, 16], "max": [4, 3, 16, 16]}}
        ]
    }


def test_the_reference_is_real_at_each_shape_of_the_profile(tmp_path: Path, samples: str) -> None:
    make(models.float_net(), tmp_path, samples=samples, shapes=SHAPES)
    out = tmp_path / "out"
    cases = json.loads((out / "metadata.json").read_text())["reference"]["cases"]
    images = np.load(samples)["image"]
    session = ort.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    for index, (case, size) in enumerate(zip(cases, (1, 2, 4), strict=True)):
        given = np.load(out / case["inputs"]["image"])
        np.testing.assert_array_equal(given, images[index : index + size])
        expected = session.run(None, {"image": given})[0]
        np.testing.assert_allclose(
            np.load(out / case["outputs"]["y"]), expected, rtol=1e-5, atol=1e-6
        )


def test_a_static_model_has_its_first_samples(tmp_path: Path, samples: str) -> None:
    make(models.float_net(1), tmp_path, samples=samples)
    cases = json.loads((tmp_path / "out" / "metadata.json").read_text())["reference"]["cases"]
    given = [np.load(tmp_path / "out" / case["inputs"]["image"]) for case in cases]
    np.testing.assert_array_equal(np.concatenate(given), np.load(samples)["image"][:3])


def test_noise_has_the_best_sizes(tmp_path: Path) -> None:
    make(
        models.one_node("Relu", "n", 3, "h", "w"),
        tmp_path,
        shapes=parse_shapes("x:1x3x4x4,2x3x8x6,4x3x8x8"),
    )
    cases = json.loads((tmp_path / "out" / "metadata.json").read_text())["reference"]["cases"]
    shapes = [np.load(tmp_path / "out" / case["inputs"]["x"]).shape for case in cases]
    assert shapes == [(1, 3, 8, 6), (2, 3, 8, 6), (4, 3, 8, 6)]


def test_noise_is_told(tmp_path: Path) -> None:
    report = make(models.float_net(), tmp_path, shapes=SHAPES)
    assert report.warnings == ("the reference inputs are noise; give real ones with --data",)


def test_external_data_comes_along(tmp_path: Path) -> None:
    path = models.save(models.float_net(), tmp_path / "big.onnx", external=True)
    build_engine(
        path, tmp_path / "out", target=get_target("jetson-orin"), backend="bundle", shapes=SHAPES
    )
    assert (tmp_path / "out" / "model.onnx.data").is_file()
    assert "  model.onnx.data" in (tmp_path / "out" / "build.sh").read_text()
    onnx.checker.check_model(str(tmp_path / "out" / "model.onnx"))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"shapes": parse_shapes("image:1x3x8x8")}, "axis 2 of the input is fixed at 16"),
        ({"shapes": parse_shapes("imge:1x3x8x8")}, "no input 'imge'; did you mean 'image'"),
        ({"samples": "nowhere.npz"}, "nowhere.npz: no such file"),
        (
            {"options": BuilderOptions(dla_core=0)},
            "a DLA takes one shape, and input 'image' has a range of them; give one: "
            '--shapes "image:8x3x16x16"',
        ),
        ({"options": BuilderOptions(timing_cache="c")}, "--timing-cache does nothing with"),
        (
            {"target": get_target("jetson-thor"), "options": BuilderOptions(dla_core=0)},
            "jetson-thor has no DLA",
        ),
        ({"target": get_target("generic")}, "backend 'bundle' cannot build for target 'generic'"),
    ],
)
def test_mistakes_leave_nothing_behind(
    tmp_path: Path, options: dict[str, object], reason: str
) -> None:
    with pytest.raises(GraphoptError) as raised:
        make(models.float_net(), tmp_path, **options)
    assert reason in str(raised.value)


def test_a_free_axis_without_a_profile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphoptError, match=r'--shapes "x:1x3xhxw,8x3xhxw,32x3xhxw"'):
        make(models.one_node("Relu", "n", 3, "h", "w"), tmp_path)


def test_samples_outside_of_the_profile_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.ones((2, 3, 9, 9), np.float32))
    model = models.one_node("Relu", "n", 3, "h", "w")
    with pytest.raises(GraphoptError, match="of input 'x' is 1x3x9x9, outside of 1x3x4x4 to"):
        make(
            model,
            tmp_path,
            samples=str(tmp_path / "x.npz"),
            shapes=parse_shapes("x:1x3x4x4,1x3x8x8,1x3x8x8"),
        )


@pytest.mark.parametrize("name", ["a'b", "a\nb"])
def test_a_name_that_cannot_be_told_is_refused(tmp_path: Path, name: str) -> None:
    model = models.one_node("Relu", "n", 3)
    model.graph.node[0].input[0] = model.graph.input[0].name = name
    with pytest.raises(GraphoptError, match="trtexec cannot be told the shape"):
        make(model, tmp_path)


def test_an_older_bundle_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    make(models.float_net(1), tmp_path)
    (tmp_path / "out" / "model.engine").write_text("built from the older model")
    make(models.float_net(2), tmp_path)
    assert not (tmp_path / "out" / "model.engine").exists()
    (tmp_path / "out" / "metadata.json").write_text('{"format": "of something else"}')
    with pytest.raises(GraphoptError, match="holds something that is no bundle"):
        make(models.float_net(1), tmp_path)


def test_a_file_or_a_missing_folder_is_no_place(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("precious")
    with pytest.raises(GraphoptError, match="out: is not a folder"):
        make(models.float_net(1), tmp_path)
    path = tmp_path / "source.onnx"
    with pytest.raises(GraphoptError, match="the output folder does not exist"):
        build_engine(path, tmp_path / "a" / "b", target=get_target("jetson-orin"), backend="bundle")


def test_the_same_model_gives_the_same_bundle(tmp_path: Path, samples: str) -> None:
    contents = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        make(models.float_net(), tmp_path / name, samples=samples, shapes=SHAPES)
        out = tmp_path / name / "out"
        contents.append({p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()})
    assert contents[0] == contents[1]


def test_low_types_need_tensorrt_10(tmp_path: Path) -> None:
    g = models.Graph(opset=17)
    x = g.op("Cast", g.input("x", [4]), to=onnx.TensorProto.BFLOAT16)
    model = g.model(g.op("Cast", x, to=onnx.TensorProto.FLOAT), [4])
    make(model, tmp_path)
    told = json.loads((tmp_path / "out" / "metadata.json").read_text())
    assert told["precisions"] == ["bf16", "fp32"]
    assert told["tensorrt"]["least"] == [10, 3]


@pytest.mark.parametrize(
    ("target", "least", "greatest"),
    [
        ("jetson-xavier", [8, 5], [8, 99]),
        ("jetson-orin-nano", [8, 5], [11, 99]),
        ("jetson-thor", [10, 13], [11, 99]),
        ("tensorrt", [8, 5], [11, 99]),
    ],
)
def test_the_target_narrows_the_versions(
    tmp_path: Path, target: str, least: list[int], greatest: list[int]
) -> None:
    make(models.one_node("Relu", 1, 4, opset=17), tmp_path, target=get_target(target))
    told = json.loads((tmp_path / "out" / "metadata.json").read_text())
    assert told["tensorrt"] == {"least": least, "greatest": greatest}


def test_a_model_that_no_tensorrt_of_the_target_reads(tmp_path: Path) -> None:
    with pytest.raises(GraphoptError) as raised:
        make(models.one_node("Relu", 1, 4, opset=19), tmp_path, target=get_target("jetson-xavier"))
    assert str(raised.value) == (
        "the model needs TensorRT 10.3 or newer since its opset is 19, and jetson-xavier has at "
        "most 8.5; convert it with the pass set-opset{version=17}, or choose another target"
    )


@pytest.mark.parametrize(
    ("opset", "target", "doubted"),
    [
        (17, "jetson-orin", ["weights are stored in int8, which TensorRT 8 (JetPack 5 and 6.0)"]),
        (19, "jetson-orin", []),
        (23, "jetson-orin", ["the model's opset, 23, is younger than TensorRT 10.3"]),
        (23, "jetson-thor", []),
    ],
)
def test_what_an_older_tensorrt_may_refuse_is_a_warning(
    tmp_path: Path, opset: int, target: str, doubted: list[str]
) -> None:
    model = models.int8_net()
    model.opset_import[0].version = opset
    *found, noise = make(model, tmp_path, target=get_target(target)).warnings
    assert "are noise" in noise
    assert len(found) == len(doubted)
    for warning, expected in zip(found, doubted, strict=True):
        assert warning.startswith(expected)


def test_what_the_target_cannot_compute_is_refused(tmp_path: Path) -> None:
    g = models.Graph()
    scale = g.constant(np.array(0.1, np.float32))
    zero = onnx.helper.make_tensor("zero", onnx.TensorProto.FLOAT8E4M3FN, [], [0.0])
    g.initializers.append(zero)
    x = g.op("QuantizeLinear", g.input("x", [4]), scale, "zero")
    model = g.model(g.op("DequantizeLinear", x, scale, "zero"), [4])
    with pytest.raises(GraphoptError, match=r"the model holds fp8:.*fp8 needs SM 8\.9"):
        make(model, tmp_path)
    make(model, tmp_path, target=get_target("jetson-thor"))


def test_verify_runs_on_jetpack_5s_python() -> None:
    text = (Path(bundle_package.__file__).parent / "verify.py").read_text()
    tree = ast.parse(text, feature_version=(3, 8))
    imported = {
        (node.module or "").split(".")[0] if isinstance(node, ast.ImportFrom) else a.name
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for a in node.names
    }
    assert imported - {"numpy", "tensorrt"} <= {
        *("__future__", "argparse", "collections", "ctypes", "hashlib", "json", "math"),
        *("pathlib", "sys", "typing"),
    }
