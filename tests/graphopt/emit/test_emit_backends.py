"""Which builder serves which target, and how its process ends."""

from __future__ import annotations

import importlib.util
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import engine_models as models
import pytest

from graphopt.emit.tensorrt import build_engine, process
from graphopt.emit.tensorrt.backends import choose_backend
from graphopt.emit.tensorrt.gpu import compute_capability
from graphopt.errors import GraphoptError
from graphopt.targets import get_target


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The packages that can be found; change it to change that."""
    packages = {"tensorrt_rtx", "tensorrt"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: object() if name in packages else None
    )
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    return packages


def refusal(target: str, backend: str | None = None) -> str:
    with pytest.raises(GraphoptError) as raised:
        choose_backend(get_target(target), backend)
    return str(raised.value)


def test_a_named_gpu_is_built_for_ahead_of_time(installed: set[str]) -> None:
    assert choose_backend(get_target("sm86"), None).name == "rtx-aot"
    assert choose_backend(get_target("sm86"), "tensorrt").name == "tensorrt"
    installed.remove("tensorrt_rtx")
    assert choose_backend(get_target("sm86"), None).name == "tensorrt"


def test_this_machine_and_a_jetson_take_the_full_tensorrt(installed: set[str]) -> None:
    assert choose_backend(get_target("tensorrt"), None).name == "tensorrt"
    assert choose_backend(get_target("jetson-orin"), None).name == "tensorrt"


def test_a_missing_package_is_told(installed: set[str]) -> None:
    installed.clear()
    assert refusal("sm86") == "TensorRT-RTX is not installed; pip install 'graphopt[trt]'"
    assert refusal("sm86", "rtx-aot") == refusal("sm86")
    assert "TensorRT is not installed" in refusal("tensorrt")


def test_another_machine_is_told(installed: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    installed.remove("tensorrt")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert "x86-64 machines only, and this one is aarch64" in refusal("sm86")


def test_a_jetson_names_its_stand_in(installed: set[str]) -> None:
    installed.remove("tensorrt")
    assert "build here for its stand-in, sm86" in refusal("jetson-orin")
    assert "build here for its stand-in, sm86" in refusal("jetson-orin", "rtx-aot")


def test_a_target_without_a_gpu_is_told_what_has_one(installed: set[str]) -> None:
    everything = "sm75, sm80, sm86, sm89, sm120, sm121"
    assert refusal("tensorrt", "rtx-aot") == (
        f"backend 'rtx-aot' cannot build for target 'tensorrt'; it builds for {everything}"
    )
    assert "there are no engines for target 'generic'" in refusal("generic")
    assert "sm75, sm80, sm86, sm89, sm90" in refusal("onnxruntime-cpu")


def test_a_misspelt_backend_gets_a_hint(installed: set[str]) -> None:
    assert refusal("sm86", "rtx") == "there is no backend 'rtx'; did you mean 'rtx-aot'?"


@pytest.fixture
def child(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, installed: set[str]
) -> tuple[Path, Path]:
    """A module that is run in place of the builder: (its file, where the engine goes)."""
    (tmp_path / "modules").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.setattr(process, "CHILD", "stand_in_child")
    models.save(models.one_node("Relu", 1, 4), tmp_path / "model.onnx")
    (tmp_path / "model.engine").write_bytes(b"an older engine")
    return tmp_path / "modules" / "stand_in_child.py", tmp_path / "model.engine"


def run(engine: Path, timeout_s: float = 30) -> str:
    before = sorted(path.name for path in engine.parent.iterdir())
    with pytest.raises(GraphoptError) as raised:
        build_engine(
            engine.parent / "model.onnx", engine, target=get_target("sm86"), timeout_s=timeout_s
        )
    assert engine.read_bytes() == b"an older engine"
    assert sorted(path.name for path in engine.parent.iterdir()) == before
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_crash_is_recorded(child: tuple[Path, Path]) -> None:
    module, engine = child
    module.write_text(
        "import os, pathlib, signal, sys\n"
        "folder = pathlib.Path(sys.argv[2])\n"
        "(folder / 'log.txt').write_text('first\\nsecond\\nthird\\nVERBOSE: tactic 7\\n')\n"
        "print('half an engine', flush=True)\n"
        "os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    message = run(engine)
    assert "model.onnx: the builder process was ended by SIGSEGV" in message
    assert "last words: second | third | VERBOSE: tactic 7 | half an engine" in message


def test_a_kill_is_probably_memory(child: tuple[Path, Path]) -> None:
    module, engine = child
    module.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    assert "ended by SIGKILL (often: out of memory); its last words: none" in run(engine)


def test_an_end_without_a_result_is_an_error(child: tuple[Path, Path]) -> None:
    module, engine = child
    module.write_text("raise SystemExit(3)\n")
    assert "the builder process ended with status 3" in run(engine)
    module.write_text("")
    assert "the builder process ended with status 0" in run(engine)


def test_a_half_written_engine_is_not_kept(child: tuple[Path, Path]) -> None:
    module, engine = child
    module.write_text(
        "import json, pathlib, sys\n"
        "request = json.loads((pathlib.Path(sys.argv[2]) / 'request.json').read_text())\n"
        "pathlib.Path(request['engine']).write_bytes(b'half')\n"
        "raise SystemExit(1)\n"
    )
    run(engine)


def test_a_timeout_ends_the_whole_family(child: tuple[Path, Path], tmp_path: Path) -> None:
    module, engine = child
    (pids := tmp_path / "pids").mkdir()
    module.write_text(
        "import os, pathlib, subprocess, sys, time\n"
        "grandchild = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"pids = pathlib.Path({str(pids)!r})\n"
        "for pid in (os.getpid(), grandchild.pid): (pids / str(pid)).touch()\n"
        "time.sleep(60)\n"
    )
    before = time.monotonic()
    with pytest.raises(GraphoptError, match=r"the build took longer than 3 s and was stopped"):
        build_engine(tmp_path / "model.onnx", engine, target=get_target("sm86"), timeout_s=3)
    assert time.monotonic() - before < 20
    started = [int(path.name) for path in pids.iterdir()]
    assert len(started) == 2
    deadline = time.monotonic() + 10
    while any(map(alive, started)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, started))
    assert engine.read_bytes() == b"an older engine"


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    # A zombie that nobody has waited for yet is as good as gone.
    return not status.rpartition(")")[2].startswith(" Z")


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_limit_is_a_positive_number(child: tuple[Path, Path], limit: float) -> None:
    assert "time limit" in run(child[1], limit)


class Driver:
    """A CUDA driver with one GPU; `broken` is a call of it that fails."""

    def __init__(self, broken: str = "") -> None:
        self.broken = broken

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return int(self.broken == "cuInit")

    def cuDeviceGet(self, device: object, ordinal: int) -> int:  # noqa: N802
        return int(self.broken == "cuDeviceGet")

    def cuDeviceGetAttribute(self, value: object, attribute: int, device: object) -> int:  # noqa: N802
        value._obj.value = {75: 8, 76: 7}[attribute]  # type: ignore[attr-defined]
        return int(self.broken == "cuDeviceGetAttribute")


def test_the_driver_is_asked_for_the_gpu() -> None:
    assert compute_capability(lambda name: Driver()) == "8.7"
    for call in ("cuInit", "cuDeviceGet", "cuDeviceGetAttribute"):
        assert compute_capability(lambda name, call=call: Driver(call)) is None


def test_no_driver_is_no_gpu() -> None:
    def load(name: str) -> object:
        raise OSError(f"{name}: cannot open shared object file")

    assert compute_capability(load) is None


def test_importing_the_package_loads_no_builder() -> None:
    code = (
        "import sys, graphopt.emit.tensorrt; "
        "print(sorted({'numpy', 'onnx', 'onnx_ir', 'tensorrt', 'tensorrt_rtx'} & set(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert printed.stdout.decode().strip() == "[]"


def test_signals_have_names() -> None:
    assert process._ending(-signal.SIGABRT) == "was ended by SIGABRT"
    assert process._ending(-63) == "was ended by signal 63"
