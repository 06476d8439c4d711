"""What a builder can be asked for beside the engine, in each version of TensorRT."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import engine_models as models
import fake_tensorrt
import pytest

from graphopt.emit.tensorrt import BuilderOptions, batch_shapes, build_engine, parse_shapes
from graphopt.emit.tensorrt.builder import Log, build
from graphopt.emit.tensorrt.monitor import BuildProgress
from graphopt.emit.tensorrt.options import require_dla_shapes
from graphopt.emit.tensorrt.request import BuildRequest
from graphopt.errors import GraphoptError
from graphopt.ir import load
from graphopt.targets import get_target

VERSIONS = fake_tensorrt.VERSIONS


def request(folder: Path, options: BuilderOptions, batch: int | str = 1) -> BuildRequest:
    path = models.save(models.float_net(batch), folder / "model.onnx")
    return BuildRequest(
        model=str(path),
        engine=str(folder / "model.engine"),
        target="jetson-orin",
        sm="8.7",
        opsets=(7, 25),
        shapes=batch_shapes(load(path)),
        timeout_s=60,
        options=options,
    )


def built(trt: Any, folder: Path, options: BuilderOptions) -> list[str]:
    """The flags that were set."""
    build(trt, request(folder, options), Log(), gpu=lambda: "8.7")
    return [call[1] for call in trt.calls if call[0] == "set_flag"]


@pytest.mark.parametrize(
    ("version", "lacks", "has"),
    [
        ("10.3", (), ("EXPLICIT_BATCH", "FP16", "supports_model")),
        ("10.13", (), ("EXPLICIT_BATCH", "FP16", "supports_model")),
        ("11.4", ("EXPLICIT_BATCH", "FP16", "INT8", "supports_model"), ("supports_model_v2",)),
    ],
)
def test_the_fakes_have_the_names_of_their_version(
    version: str, lacks: tuple[str, ...], has: tuple[str, ...]
) -> None:
    trt = fake_tensorrt.make(version)
    homes = (trt.NetworkDefinitionCreationFlag, trt.BuilderFlag, trt.OnnxParser)
    for name in has:
        assert any(hasattr(home, name) for home in homes), name
    for name in lacks:
        for home in homes:
            with pytest.raises(AttributeError):
                getattr(home, name)
    with pytest.raises(AttributeError):
        trt.ComputeCapability  # noqa: B018  # only TensorRT-RTX has it
    builder = trt.Builder(trt.ILogger())
    with pytest.raises(AttributeError):
        builder.create_builder_config().int8_calibrator = None


@pytest.mark.parametrize("version", VERSIONS)
def test_no_flag_is_set_unasked(tmp_path: Path, version: str) -> None:
    assert built(fake_tensorrt.make(version), tmp_path, BuilderOptions()) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_options_become_flags(tmp_path: Path, version: str) -> None:
    options = BuilderOptions(sparsity=True, refit=True, strip_weights=True, version_compatible=True)
    assert built(fake_tensorrt.make(version), tmp_path, options) == [
        "SPARSE_WEIGHTS",
        "REFIT",
        "STRIP_PLAN",
        "VERSION_COMPATIBLE",
    ]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("option", "flag"),
    [
        ("sparsity", "SPARSE_WEIGHTS"),
        ("refit", "REFIT"),
        ("strip_weights", "STRIP_PLAN"),
        ("version_compatible", "VERSION_COMPATIBLE"),
    ],
)
def test_a_flag_that_the_version_lacks_is_refused(
    tmp_path: Path, version: str, option: str, flag: str
) -> None:
    trt = fake_tensorrt.make(version)
    names = {name: value for name, value in trt.BuilderFlag.__members__.items() if name != flag}
    trt.BuilderFlag = fake_tensorrt.IntEnum("BuilderFlag", names)
    with pytest.raises(GraphoptError) as raised:
        built(trt, tmp_path, BuilderOptions(**{option: True}))
    assert str(raised.value) == (
        f"TensorRT {version}.0 has no BuilderFlag.{flag}; leave out --{option.replace('_', '-')}"
    )
    assert not (tmp_path / "model.engine").exists()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_dla_core(tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trt = fake_tensorrt.make(version)
    configs = []
    create = trt.Builder.create_builder_config
    monkeypatch.setattr(
        trt.Builder,
        "create_builder_config",
        lambda self: configs.append(create(self)) or configs[-1],
    )
    assert built(trt, tmp_path, BuilderOptions(dla_core=1, gpu_fallback=True)) == ["GPU_FALLBACK"]
    (config,) = configs
    assert config.DLA_core == 1
    assert config.default_device_type is trt.DeviceType.DLA


@pytest.mark.parametrize("version", VERSIONS)
def test_a_dla_takes_one_shape(tmp_path: Path, version: str) -> None:
    asked = request(tmp_path, BuilderOptions(dla_core=0), batch="batch")
    with pytest.raises(GraphoptError, match="a DLA takes one shape, and input 'image' has a range"):
        build(fake_tensorrt.make(version), asked, Log(), gpu=lambda: "8.7")
    one = replace(asked, shapes=parse_shapes("image:8x3x16x16"))
    build(fake_tensorrt.make(version), one, Log(), gpu=lambda: "8.7")
    many = replace(asked, shapes=parse_shapes("image:4097x3x16x16"))
    with pytest.raises(GraphoptError, match="a batch of at most 4096, not 4097"):
        build(fake_tensorrt.make(version), many, Log(), gpu=lambda: "8.7")


def test_a_dla_takes_dimensions_that_are_not_too_large() -> None:
    options = BuilderOptions(dla_core=0)
    require_dla_shapes(options, parse_shapes("x:1x3x8192x1"))
    with pytest.raises(GraphoptError, match="dimensions of at most 8192, not 8193"):
        require_dla_shapes(options, parse_shapes("x:1x3x8193x1"))


@pytest.mark.parametrize("backend", ["tensorrt", "bundle"])
def test_a_dla_does_not_compute_in_fp32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    install(tmp_path, "10.3", monkeypatch)
    path = models.save(models.float_net(1), tmp_path / "model.onnx")
    with pytest.raises(GraphoptError, match="computes in fp16 and int8, and the model holds fp32"):
        build_engine(
            path,
            tmp_path / "e",
            target=get_target("jetson-orin"),
            backend=backend,
            options=BuilderOptions(dla_core=0),
        )
    assert not (tmp_path / "e").exists()


def test_two_versions_support_no_dla(tmp_path: Path) -> None:
    trt = fake_tensorrt.make("11.4")
    trt.__version__ = "11.1.0"
    with pytest.raises(GraphoptError, match=r"TensorRT 11\.1\.0 supports no DLA; leave out"):
        built(trt, tmp_path, BuilderOptions(dla_core=0))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"gpu_fallback": True}, "needs an accelerator to fall back from; give --dla-core"),
        ({"dla_core": -1}, "there is no DLA core -1"),
        ({"workspace_bytes": 0}, "a workspace of no bytes"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(GraphoptError, match=reason):
        BuilderOptions(**options)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_timing_cache_is_made_and_used_again(tmp_path: Path, version: str) -> None:
    cache = tmp_path / "timing.cache"
    options = BuilderOptions(timing_cache=str(cache))
    content = f"cache of {version}".encode()
    for before in (b"", content):
        trt = fake_tensorrt.make(version)
        built(trt, tmp_path, options)
        assert ("set_timing_cache", before, False) in trt.calls
        assert cache.read_bytes() == content
    assert {path.name for path in tmp_path.iterdir()} == {
        *("model.onnx", "model.engine", "timing.cache")
    }


@pytest.mark.parametrize("content", [b"garbage", b"cache of another GPU"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_foreign_timing_cache_is_refused(tmp_path: Path, version: str, content: bytes) -> None:
    cache = tmp_path / "timing.cache"
    cache.write_bytes(content)
    with pytest.raises(GraphoptError, match=r"timing\.cache: is not a timing cache of TensorRT"):
        built(fake_tensorrt.make(version), tmp_path, BuilderOptions(timing_cache=str(cache)))
    assert cache.read_bytes() == content
    assert not (tmp_path / "model.engine").exists()


@pytest.mark.parametrize("version", VERSIONS)
def test_the_builder_tells_how_far_it_is(tmp_path: Path, version: str) -> None:
    told: list[BuildProgress] = []
    trt = fake_tensorrt.make(version)
    build(trt, request(tmp_path, BuilderOptions()), Log(), gpu=lambda: "8.7", tell=told.append)
    phase = "Building Engine"
    assert told == [BuildProgress(phase, done, 2) for done in (0, 1, 2, 2)]


def test_a_version_without_a_progress_monitor_builds(tmp_path: Path) -> None:
    trt = fake_tensorrt.make("10.3")
    del trt.IProgressMonitor
    assert built(trt, tmp_path, BuilderOptions()) == []


class Watch:
    """Notes what is shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, int | None, int]] = []

    def track(
        self, items: Iterable[Any], description: str, total: int | None = None
    ) -> Iterator[Any]:
        count = 0
        for item in items:
            count += 1
            yield item
        self.shown.append((description, total, count))


def install(folder: Path, version: str, monkeypatch: pytest.MonkeyPatch, before: str = "") -> None:
    package = folder / "packages" / "tensorrt"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        f"import fake_tensorrt, time\nmade = fake_tensorrt.make({version!r})\n{before}\n"
        "globals().update(vars(made))\n"
    )
    monkeypatch.syspath_prepend(str(package.parent))


@pytest.mark.parametrize("version", VERSIONS)
def test_progress_comes_out_of_the_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    # The build itself takes no time here: it waits at its end, so that its progress can be seen.
    wait = (
        "real = made.Builder.build_serialized_network\n"
        "def slow(*a):\n    built = real(*a)\n    time.sleep(1)\n    return built\n"
        "made.Builder.build_serialized_network = slow\n"
    )
    install(tmp_path, version, monkeypatch, wait)
    path = models.save(models.float_net(1), tmp_path / "model.onnx")
    watch = Watch()
    build_engine(path, tmp_path / "e", target=get_target("tensorrt"), progress=watch)
    assert watch.shown == [("Building Engine", 2, 2)]


def test_a_builder_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hang = "made.Builder.build_serialized_network = lambda *a: time.sleep(60)\n"
    install(tmp_path, "11.4", monkeypatch, hang)
    path = models.save(models.float_net(1), tmp_path / "model.onnx")
    with pytest.raises(GraphoptError, match="the build took longer than 2 s and was stopped"):
        build_engine(path, tmp_path / "e", target=get_target("tensorrt"), timeout_s=2)
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_builder_that_crashes_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    crash = (
        "def crash(self, *a):\n    import os, signal\n"
        "    self._logger.log(fake_tensorrt.Severity.VERBOSE, 'tactic 7')\n"
        "    os.kill(os.getpid(), signal.SIGSEGV)\n"
        "made.Builder.build_serialized_network = crash\n"
    )
    install(tmp_path, version, monkeypatch, crash)
    path = models.save(models.float_net(1), tmp_path / "model.onnx")
    with pytest.raises(GraphoptError, match=r"was ended by SIGSEGV; its last words:.*tactic 7"):
        build_engine(path, tmp_path / "e", target=get_target("tensorrt"))
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    "options",
    [
        BuilderOptions(sparsity=True),
        BuilderOptions(refit=True),
        BuilderOptions(timing_cache="cache"),
        BuilderOptions(version_compatible=True),
    ],
)
def test_what_tensorrt_rtx_ignores_is_refused(tmp_path: Path, options: BuilderOptions) -> None:
    path = models.save(models.float_net(1), tmp_path / "model.onnx")
    with pytest.raises(GraphoptError, match="does nothing with backend 'rtx-aot'; leave it out"):
        build_engine(
            path, tmp_path / "e", target=get_target("sm86"), backend="rtx-aot", options=options
        )
    assert not (tmp_path / "e").exists()
