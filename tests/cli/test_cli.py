"""The command line: what it prints, what it writes, how it exits."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import MLP, proto

from graphopt.pipeline.text import parse

GRAPHOPT = Path(sys.executable).with_name("graphopt")


def graphopt(*arguments: object, cwd: Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(GRAPHOPT), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        **options,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model, data that fits it, labels, and an output that must survive every mistake."""
    onnx.save(proto(MLP), tmp_path / "m.onnx")
    x = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
    np.savez(tmp_path / "calib.npz", x=x)
    np.savez(tmp_path / "eval.npz", x=x, labels=np.arange(40) % 2)
    (tmp_path / "out.onnx").write_text("precious")
    return tmp_path


def bad(folder: Path, *arguments: object, **options: object) -> str:
    """Runs a command that must fail with 2, one line, and no file touched; the line."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    done = graphopt(*arguments, cwd=folder, **options)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("graphopt: ")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    return lines[0]


def optimize(*arguments: object, source: str = "m.onnx", output: str = "out.onnx") -> list[object]:
    return ["optimize", source, "-o", output, *arguments]


def test_bad_models(folder: Path) -> None:
    whole = (folder / "m.onnx").read_bytes()
    (folder / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    (folder / "text.onnx").write_text("It was a dark and stormy night.\n" * 40)
    assert "absent.onnx: no such file" in bad(folder, *optimize(source="absent.onnx"))
    assert "cut.onnx: is not an ONNX model" in bad(folder, *optimize(source="cut.onnx"))
    assert "text.onnx: is not an ONNX model" in bad(folder, *optimize(source="text.onnx"))
    for command in (
        ["inspect", "text.onnx"],
        ["build", "text.onnx", "-o", "e", "--target", "sm86"],
    ):
        assert "text.onnx: is not an ONNX model" in bad(folder, *command)
    assert "cut.onnx" in bad(folder, "compare", "m.onnx", "cut.onnx", "--data", "calib.npz")


def test_bad_pipelines(folder: Path) -> None:
    line = bad(folder, *optimize("--passes", "fold-constents"))
    assert "did you mean 'fold-constants'" in line
    assert "column 1" in line
    assert "did you mean 'ratio'" in bad(folder, *optimize("--passes", "prune-channels{ratoi=1}"))
    assert "stands after" in bad(
        folder, *optimize("--passes", "quantize,fuse-affine", "--calib", "calib.npz")
    )
    assert "exclude each other" in bad(
        folder, *optimize("--passes", "quantize", "--preset", "int8")
    )
    assert "did you mean 'sm86'" in bad(folder, *optimize("--target", "sm-86"))


def test_bad_data(folder: Path) -> None:
    assert "needs calibration data" in bad(folder, *optimize("--passes", "quantize"))
    np.savez(folder / "names.npz", y=np.zeros((4, 4), np.float32))
    np.savez(folder / "shapes.npz", x=np.zeros((4, 5), np.float32))
    quantize = ("--preset", "int8", "--calib")
    assert "no such input" in bad(folder, *optimize(*quantize, "names.npz"))
    assert "but the model takes float32[?,4]" in bad(folder, *optimize(*quantize, "shapes.npz"))
    assert "no such file" in bad(folder, *optimize(*quantize, "none.npz"))
    assert "'labels'" in bad(folder, *optimize("--eval", "calib.npz"))
    assert "needs an evaluation" in bad(folder, *optimize("--max-drop", "1"))


def test_bad_places(folder: Path) -> None:
    assert "the output folder does not exist" in bad(folder, *optimize(output="no/out.onnx"))
    assert "is a folder" in bad(folder, *optimize(output="."))
    assert "the output folder does not exist" in bad(folder, *optimize("--json", "no/r.json"))
    assert "the output folder does not exist" in bad(folder, *optimize("--dump", "no"))
    assert "/dev/stdout: is not a regular file" in bad(folder, *optimize("--json", "/dev/stdout"))


def test_a_full_disk(folder: Path) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    # Bytecode that is cut off would be there for whoever imports next.
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    line = bad(folder, *optimize("--no-latency"), preexec_fn=limit, env=env)
    assert "out.onnx: cannot be written (File too large)" in line
    assert (folder / "out.onnx").read_text() == "precious"


def test_usage_errors_exit_with_2(folder: Path) -> None:
    for arguments in ((), ("optimise",), ("optimize", "m.onnx"), ("optimize", "m.onnx", "-o")):
        done = graphopt(*arguments, cwd=folder)
        assert done.returncode == 2
        assert "Usage" in done.stderr or "requires an argument" in done.stderr


def test_optimize_writes_a_model_and_a_report(folder: Path) -> None:
    done = graphopt(
        *optimize("--eval", "eval.npz", "--json", "r.json", "--verify", "each"), cwd=folder
    )
    assert done.returncode == 0, done.stderr
    assert "wrote out.onnx" in done.stdout
    onnx.checker.check_model(str(folder / "out.onnx"), full_check=True)
    report = json.loads((folder / "r.json").read_text())
    assert report["pipeline"] == str(parse("lossless"))
    assert report["after"]["file_bytes"] == (folder / "out.onnx").stat().st_size
    assert report["before"]["file_bytes"] == (folder / "m.onnx").stat().st_size
    assert report["before"]["macs"] == 18
    assert report["evaluation"]["drop"] == 0.0
    assert report["verification"]["inputs"] == "the first 8 of eval.npz (40 samples)"
    assert report["before"]["latency_ms"] > 0
    done = graphopt(*optimize("--target", "sm86", "--json", "r.json"), cwd=folder)
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "r.json").read_text())
    assert report["before"]["latency_ms"] is None  # a CPU's times say nothing of a GPU's


def test_random_calibration_is_said_to_be_random(folder: Path) -> None:
    done = graphopt(*optimize("--preset", "int8", "--calib", "random"), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "calibrated on random noise" in done.stdout


SPOIL = """
def spoil(graph):
    for node in graph.nodes:
        if node.op == "Relu":
            node.op = "Neg"
"""


def test_max_drop_is_an_exit_status_and_saves_the_old_output(folder: Path) -> None:
    (folder / "spoiler.py").write_text(SPOIL)
    x = np.load(folder / "calib.npz")["x"]
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "m.onnx")
    np.savez(folder / "own.npz", x=x, labels=session.run(None, {"x": x})[0].argmax(1))
    arguments = optimize(
        "--passes", "graphsurgeon{function=spoiler:spoil}", "--eval", "own.npz", "--json", "r.json"
    )
    done = graphopt(*arguments, "--max-drop", "5", cwd=folder)
    assert done.returncode == 1
    assert "no model was written" in done.stdout
    assert (folder / "out.onnx").read_text() == "precious"
    report = json.loads((folder / "r.json").read_text())
    assert report["evaluation"]["met"] is False
    assert report["evaluation"]["before"] == 100.0
    assert graphopt(*arguments, "--max-drop", "100", cwd=folder).returncode == 0


def test_compare_and_its_tolerance(folder: Path) -> None:
    (folder / "spoiler.py").write_text(SPOIL)
    spoil = optimize("--passes", "graphsurgeon{function=spoiler:spoil}", output="spoilt.onnx")
    assert graphopt(*spoil, cwd=folder).returncode == 0
    same = graphopt("compare", "m.onnx", "m.onnx", "--data", "calib.npz", cwd=folder)
    assert same.returncode == 0
    assert "40 samples" in same.stdout
    other = ["compare", "m.onnx", "spoilt.onnx", "--data", "calib.npz", "--json", "c.json"]
    assert graphopt(*other, cwd=folder).returncode == 0
    assert json.loads((folder / "c.json").read_text())["differences"][0]["output"] == "y"
    assert graphopt(*other, "--tolerance", "0.001", cwd=folder).returncode == 1


def test_inspect_for_people_and_scripts(folder: Path) -> None:
    done = graphopt("inspect", "m.onnx", cwd=folder)
    assert done.returncode == 0
    assert "x: FLOAT [batch, 4]" in done.stdout
    assert "18 MACs" in done.stdout
    data = json.loads(graphopt("inspect", "m.onnx", "--json", cwd=folder).stdout)
    assert data["operators"] == {"Gemm": 1, "MatMul": 1, "Relu": 1}
    assert data["cost"]["macs"] == 18
    assert data["inputs"] == [{"name": "x", "type": "FLOAT", "shape": ["batch", 4]}]


def test_the_package_runs_as_a_module(folder: Path) -> None:
    command = [sys.executable, "-m", "graphopt", "inspect", "absent.onnx"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "graphopt: absent.onnx: no such file\n"


def test_passes_lists_and_explains(folder: Path) -> None:
    listing = graphopt("passes", cwd=folder).stdout
    for name in ("fold-constants", "eliminate-dead", "fuse-affine", "prune-channels", "quantize"):
        assert name in listing
    assert "simplify" in listing
    pruning = graphopt("passes", "prune-channels", cwd=folder).stdout
    assert "ratio: float | none (default none)" in pruning
    assert "compensate: ls | scale-shift | bias | none (default ls)" in pruning
    assert "exclude: [str, ...] (default [])" in pruning
    assert "fold-constants" in graphopt("passes", "simplify", cwd=folder).stdout
    assert "did you mean 'quantize'" in bad(folder, "passes", "quantise")


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "m.onnx", "--json"),
        ("inspect", "m.onnx"),
        ("passes", "quantize"),
        ("optimize", "m.onnx", "-o", "o.onnx", "--no-latency"),
    ],
    ids=" ".join,
)
def test_a_reader_that_goes_away_is_no_traceback(folder: Path, arguments: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [str(GRAPHOPT), *arguments],
        cwd=folder,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert done.stderr == ""
    assert done.returncode == 141


def test_a_full_output_is_one_line(folder: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [str(GRAPHOPT), "inspect", "m.onnx"],
            cwd=folder,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == "graphopt: the output cannot be written (No space left on device)\n"


@pytest.mark.parametrize("closed", ["1", "2", "1 2"])
def test_closed_outputs_are_no_traceback(folder: Path, closed: str) -> None:
    redirections = " ".join(f"{number}>&-" for number in closed.split())
    shell = f'exec "$0" optimize m.onnx -o out.onnx --no-latency {redirections}'
    done = subprocess.run(
        ["sh", "-c", shell, str(GRAPHOPT)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stderr == ""
    onnx.checker.check_model(str(folder / "out.onnx"))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_names_that_an_encoding_does_not_have_are_escaped(folder: Path, encoding: str) -> None:
    named = onnx.load(folder / "m.onnx")
    named.graph.node[0].name = "schön 名 [b]"
    onnx.save(named, folder / "named.onnx")
    done = subprocess.run(
        [str(GRAPHOPT), "inspect", "named.onnx"],
        cwd=folder,
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    assert done.returncode == 0, done.stderr
    expected = "schön 名 [b]".encode(encoding, "backslashreplace")
    assert expected in done.stdout


def test_files_must_not_be_one_another(folder: Path) -> None:
    quantize = ("--preset", "int8", "--calib", "calib.npz")
    assert "is both -o and --json" in bad(folder, *optimize("--json", "out.onnx"))
    assert "is both IN and --json" in bad(folder, *optimize("--json", "m.onnx"))
    assert "is both --calib and -o" in bad(folder, *optimize(*quantize, output="calib.npz"))
    assert "is both IN and -o" in bad(folder, "build", "m.onnx", "-o", "m.onnx", "--target", "sm86")
    done = graphopt(*optimize("--no-latency", output="m.onnx"), cwd=folder)
    assert done.returncode == 0  # over its own input is what some want


def test_numbers_that_are_none(folder: Path) -> None:
    for option in ("--tolerance", "--max-drop"):
        for value in ("nan", "inf", "-1", "much"):
            done = graphopt(*optimize(option, value), cwd=folder)
            assert done.returncode == 2
            assert f"'{value}' is not a number of at least 0" in done.stderr


def test_odd_names_do_not_matter(folder: Path) -> None:
    odd = os.fsdecode(b"sp\xc3\xa4t [/b] \xff")
    (folder / odd).mkdir(parents=True)
    for name in ("m.onnx", "calib.npz"):
        (folder / odd / name).write_bytes((folder / name).read_bytes())
    done = graphopt(
        *optimize(
            "--preset", "int8", "--calib", f"{odd}/calib.npz", "--json", f"{odd}/r.json",
            source=f"{odd}/m.onnx", output=f"{odd}/o.onnx",
        ),
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {"o.onnx", "r.json"} <= {path.name for path in (folder / odd).iterdir()}
