"""build.sh of a bundle, against the trtexec of each version."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import engine_models as models
import fake_trtexec
import numpy as np
import onnx
import pytest

from graphopt.emit.tensorrt import BuilderOptions, batch_shapes, build_engine, parse_shapes
from graphopt.errors import GraphoptError
from graphopt.ir import load
from graphopt.targets import get_target

SHAPES = parse_shapes("image:1x3x16x16,2x3x16x16,4x3x16x16")


def bundle(folder: Path, model: onnx.ModelProto, **options: object) -> Path:
    path = models.save(model, folder / "source.onnx")
    if "shapes" not in options:
        options["shapes"] = batch_shapes(load(path))
    given: dict[str, object] = {"target": get_target("jetson-orin"), "backend": "bundle"}
    build_engine(path, folder / "a bundle", **(given | options))  # type: ignore[arg-type]
    return folder / "a bundle"


def half_net() -> onnx.ModelProto:
    """A static Conv in fp16."""
    g = models.Graph(np.float16, opset=17)
    x = g.op("Relu", g.op("Conv", g.input("x", [1, 3, 8, 8]), g.weight(4, 3, 3, 3)))
    return g.model(x, [1, 4, 6, 6])


@pytest.fixture(scope="module")
def int8_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = models.int8_net()
    model.opset_import[0].version = 17
    onnx.checker.check_model(model)
    return bundle(tmp_path_factory.mktemp("int8"), model)


@pytest.fixture
def folder(int8_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, under a name that a careless script trips over."""
    return Path(shutil.copytree(int8_bundle, tmp_path / "it's a $bundle"))


def run(
    folder: Path, trtexec: Path | None, *arguments: str, shell: str = "sh", **environment: str
) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], **environment}
    if trtexec is not None:
        env["TRTEXEC"] = str(trtexec)
    return subprocess.run(
        [shell, str(folder / "build.sh"), *arguments],
        cwd=folder.parent,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


def arguments_of(trtexec: Path) -> list[str]:
    """The arguments of the only call, without those that every call has."""
    (call,) = fake_trtexec.calls(trtexec)
    return [
        argument
        for argument in call
        if argument.partition("=")[0] not in ("--saveEngine", "--exportLayerInfo")
    ]


@pytest.mark.parametrize(
    ("version", "chosen"),
    [
        ("8.5", ["--buildOnly", "--int8"]),
        ("8.6", ["--skipInference", "--int8"]),
        ("10.3", ["--skipInference", "--stronglyTyped"]),
        ("10.13", ["--skipInference", "--stronglyTyped"]),
        ("11.4", ["--skipInference"]),
    ],
)
def test_every_version_gets_its_flags(
    folder: Path, tmp_path: Path, version: str, chosen: list[str]
) -> None:
    trtexec = fake_trtexec.write(tmp_path / "bin" / "trtexec", version)
    done = run(folder, trtexec)
    assert done.returncode == 0, done.stderr + (folder / "build.log").read_text()
    assert arguments_of(trtexec) == [
        "--onnx=model.onnx",
        "--profilingVerbosity=detailed",
        f"--timingCacheFile=timing-{version}.cache",
        "--minShapes=image:1x1x16x16",
        "--optShapes=image:8x1x16x16",
        "--maxShapes=image:32x1x16x16",
        *chosen,
    ]
    digits = fake_trtexec.digits(version)
    assert (folder / "model.engine").read_text() == f"engine of {digits}"
    assert (folder / "layers.json").is_file()
    assert not list(folder.glob(".build.*"))
    assert "python3 verify.py" in done.stdout


def float_17(batch: int | str) -> onnx.ModelProto:
    model = models.float_net(batch)
    model.opset_import[0].version = 17
    return model


def half_dynamic() -> onnx.ModelProto:
    g = models.Graph(np.float16, opset=17)
    return g.model(g.op("Relu", g.input("image", ["n", 3, 16, 16])), ["n", 3, 16, 16])


PROFILE = [
    "--minShapes=image:1x3x16x16",
    "--optShapes=image:2x3x16x16",
    "--maxShapes=image:4x3x16x16",
]
DLA = BuilderOptions(dla_core=0, gpu_fallback=True)
DLA_FLAGS = ["--allowGPUFallback", "--useDLACore=0"]
MATRIX = {
    # model, shapes, options: what all versions get, and what TensorRT 8 is allowed
    "static fp32": (float_17(1), None, BuilderOptions(), [], []),
    "dynamic fp32": (float_17("n"), SHAPES, BuilderOptions(), PROFILE, []),
    "dynamic fp16": (half_dynamic(), SHAPES, BuilderOptions(), PROFILE, ["--fp16"]),
    "fp16 on a DLA": (half_net(), None, DLA, DLA_FLAGS, ["--fp16"]),
}


@pytest.mark.parametrize("version", fake_trtexec.VERSIONS)
@pytest.mark.parametrize("name", MATRIX)
def test_every_kind_of_model_on_every_version(tmp_path: Path, name: str, version: str) -> None:
    model, shapes, options, everywhere, allowed = MATRIX[name]
    more: dict[str, object] = {} if shapes is None else {"shapes": shapes}
    trtexec = fake_trtexec.write(tmp_path / "bin" / "trtexec", version)
    done = run(bundle(tmp_path, model, options=options, **more), trtexec)
    assert done.returncode == 0, done.stderr
    mode = "--buildOnly" if version == "8.5" else "--skipInference"
    typed = {"8": allowed, "10": ["--stronglyTyped"], "11": []}[version.split(".")[0]]
    assert arguments_of(trtexec)[3:] == [*everywhere, mode, *typed]


@pytest.mark.parametrize("version", ["8.5", "8.6"])
def test_tensorrt_8_is_allowed_what_the_model_holds(tmp_path: Path, version: str) -> None:
    trtexec = fake_trtexec.write(tmp_path / "bin" / "trtexec", version)
    made = bundle(tmp_path, half_net())
    assert run(made, trtexec).returncode == 0
    assert "--fp16" in arguments_of(trtexec)
    assert "--int8" not in arguments_of(trtexec)
    assert not [a for a in arguments_of(trtexec) if "Shapes" in a]  # it is static


@pytest.mark.parametrize("version", fake_trtexec.VERSIONS)
def test_options_of_the_builder_are_passed_on(tmp_path: Path, version: str) -> None:
    trtexec = fake_trtexec.write(tmp_path / "bin" / "trtexec", version)
    options = BuilderOptions(
        workspace_bytes=1 << 30, sparsity=True, dla_core=1, gpu_fallback=True, refit=True
    )
    made = bundle(tmp_path, half_net(), options=options)
    assert run(made, trtexec, "--verbose").returncode == 0
    given = arguments_of(trtexec)
    assert {
        "--memPoolSize=workspace:1024",
        "--sparsity=enable",
        "--useDLACore=1",
        "--allowGPUFallback",
        "--refit",
    } <= set(given)
    assert given[-1] == "--verbose"  # the user's own come last


@pytest.mark.parametrize(
    ("version", "missing"), [("8.5", "versionCompatible"), ("8.6", "stripWeights")]
)
def test_an_option_that_the_version_lacks_is_refused(
    tmp_path: Path, version: str, missing: str
) -> None:
    trtexec = fake_trtexec.write(tmp_path / "bin" / "trtexec", version)
    options = BuilderOptions(
        strip_weights=missing == "stripWeights", version_compatible=missing != "stripWeights"
    )
    refused = run(bundle(tmp_path, half_net(), options=options), trtexec)
    assert refused.returncode == 2
    assert refused.stderr == (
        f"build.sh: TensorRT {version} has no --{missing}, which this bundle asks for\n"
    )
    assert fake_trtexec.calls(trtexec) == []


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("8.4", "this is TensorRT 8.4; the model needs TensorRT 8.5 to 11"),
        ("9.2", "TensorRT 9.2 cannot take the types from the model"),
        ("10.0", "TensorRT 10.0 cannot take the types from the model"),
        ("12.0", "this is TensorRT 12.0; the model needs TensorRT 8.5 to 11"),
    ],
)
def test_a_version_that_it_is_not_for_is_refused(
    folder: Path, tmp_path: Path, version: str, reason: str
) -> None:
    trtexec = fake_trtexec.write(tmp_path / "bin" / "trtexec", version, like="8.5")
    refused = run(folder, trtexec)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert reason in refused.stderr
    assert fake_trtexec.calls(trtexec) == []


def test_a_newer_opset_needs_a_newer_tensorrt(tmp_path: Path) -> None:
    made = bundle(tmp_path, models.float_net(), shapes=SHAPES)  # opset 19
    refused = run(made, fake_trtexec.write(tmp_path / "bin" / "trtexec", "8.6"))
    assert refused.returncode == 2
    assert "the model needs TensorRT 10.3 to 11 (its opset is 19)" in refused.stderr


@pytest.mark.parametrize(("version", "status"), [("11.0", 2), ("11.1", 2), ("11.2", 0)])
def test_two_versions_support_no_dla(tmp_path: Path, version: str, status: int) -> None:
    trtexec = fake_trtexec.write(tmp_path / "bin" / "trtexec", version, like="11.4")
    done = run(bundle(tmp_path, half_net(), options=DLA), trtexec)
    assert done.returncode == status
    assert ("supports no DLA; make the bundle without --dla-core" in done.stderr) == (status == 2)


def normalized() -> onnx.ModelProto:
    g = models.Graph(opset=17)
    x = g.input("x", [1, 8])
    return g.model(g.op("LayerNormalization", x, g.weight(8), name="norm"), [1, 8])


def test_an_operator_needs_the_tensorrt_that_reads_it(tmp_path: Path) -> None:
    made = bundle(tmp_path, normalized())
    refused = run(made, fake_trtexec.write(tmp_path / "old" / "trtexec", "8.5"))
    assert refused.returncode == 2
    reason = "the model needs TensorRT 8.6 to 11 (it has LayerNormalization, as 'norm')"
    assert reason in refused.stderr
    assert run(made, fake_trtexec.write(tmp_path / "new" / "trtexec", "8.6")).returncode == 0
    with pytest.raises(GraphoptError, match=r"TensorRT 8\.6 or newer since it has LayerNorm"):
        bundle(tmp_path / "old", normalized(), target=get_target("jetson-xavier"))


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ("fail", "trtexec ended with status 1; [E] Error[10]: Could not find any implementation"),
        ("kill", "trtexec ended with status 137; [E] Error[10]"),
        ("empty", "trtexec wrote no engine; see build.log"),
    ],
)
def test_a_failed_build_keeps_what_was_there(
    folder: Path, tmp_path: Path, asked: str, reason: str
) -> None:
    trtexec = fake_trtexec.write(tmp_path / "bin" / "trtexec", "10.3")
    (folder / "model.engine").write_text("an older engine")
    failed = run(folder, trtexec, FAKE_TRTEXEC=asked)
    assert failed.returncode == 1
    assert failed.stderr.startswith(f"build.sh: {reason}")
    assert failed.stderr.count("\n") == 1
    assert (folder / "model.engine").read_text() == "an older engine"
    assert not (folder / "layers.json").exists()
    assert not list(folder.glob(".build.*"))


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_build_that_is_interrupted_leaves_nothing(
    folder: Path, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    trtexec = fake_trtexec.write(tmp_path / "bin" / "trtexec", "10.3")
    environment = {**os.environ, "TRTEXEC": str(trtexec), "FAKE_TRTEXEC": "hang"}
    process = subprocess.Popen(
        ["sh", str(folder / "build.sh")],
        env=environment,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        # A signal that was ignored when a shell began, as under nohup, cannot be trapped in it.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 30
    while not list(folder.glob(".build.*/model.engine")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, number)
    assert process.wait(10) == status
    assert not (folder / "model.engine").exists()
    assert not list(folder.glob(".build.*"))


def test_an_unknown_option_of_the_user_is_told(folder: Path, tmp_path: Path) -> None:
    trtexec = fake_trtexec.write(tmp_path / "bin" / "trtexec", "11.4")
    failed = run(folder, trtexec, "--fp16")
    assert failed.returncode == 1
    assert "[E] Unknown option: --fp16" in failed.stderr


def test_a_damaged_model_is_not_built(folder: Path, tmp_path: Path) -> None:
    content = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(content[:-1])
    refused = run(folder, fake_trtexec.write(tmp_path / "bin" / "trtexec", "10.3"))
    assert refused.returncode == 2
    assert "differs from what the bundle was made with; copy it again" in refused.stderr


def test_a_missing_trtexec_is_told(folder: Path, tmp_path: Path) -> None:
    refused = run(folder, tmp_path / "nowhere")
    assert refused.returncode == 2
    assert f"there is no trtexec at {tmp_path / 'nowhere'}" in refused.stderr
    (tmp_path / "broken").write_text(
        "#!/bin/sh\necho 'libnvinfer.so.10: no such file' >&2\nexit 1\n"
    )
    (tmp_path / "broken").chmod(0o755)
    refused = run(folder, tmp_path / "broken")
    assert refused.returncode == 2
    assert "does not say its version but: libnvinfer.so.10: no such file" in refused.stderr


def test_trtexec_is_found_on_the_path(folder: Path, tmp_path: Path) -> None:
    trtexec = fake_trtexec.write(tmp_path / "bin" / "trtexec", "10.3")
    done = run(folder, None, PATH=f"{trtexec.parent}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    assert len(fake_trtexec.calls(trtexec)) == 1


def test_names_that_trtexec_splits_are_quoted(tmp_path: Path) -> None:
    model = models.one_node("Relu", "n", 3, opset=17)
    model.graph.node[0].input[0] = model.graph.input[0].name = "in:0"
    trtexec = fake_trtexec.write(tmp_path / "bin" / "trtexec", "10.3")
    assert run(bundle(tmp_path, model), trtexec).returncode == 0
    assert "--optShapes='in:0':8x3" in arguments_of(trtexec)


def test_a_second_build_replaces_the_first(folder: Path, tmp_path: Path) -> None:
    for version in ("10.3", "10.13"):
        trtexec = fake_trtexec.write(tmp_path / version / "trtexec", version)
        assert run(folder, trtexec).returncode == 0
    assert (folder / "model.engine").read_text() == "engine of 101301"
    assert {path.name for path in folder.glob("timing-*")} == {
        "timing-10.3.cache",
        "timing-10.13.cache",
    }


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_the_script_is_clean(folder: Path) -> None:
    subprocess.run(["shellcheck", "--shell=sh", str(folder / "build.sh")], check=True)


@pytest.mark.skipif(shutil.which("dash") is None, reason="dash is not installed")
def test_the_script_is_posix(folder: Path, tmp_path: Path) -> None:
    trtexec = fake_trtexec.write(tmp_path / "bin" / "trtexec", "10.3")
    assert run(folder, trtexec, shell="dash").returncode == 0
