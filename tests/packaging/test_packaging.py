"""The package as users get it: a wheel, light to import, with one door."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import graphopt

ROOT = Path(__file__).parents[2]
HEAVY = ("numpy", "onnx", "onnx_ir", "onnxruntime", "onnx_graphsurgeon", "tensorrt_rtx", "rich")


def python(code: str, *arguments: str, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [sys.executable, *arguments, "-c", code],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize(
    "code",
    [
        "import graphopt",
        "import graphopt; graphopt.parse('pruned-int8')",
        "from click.testing import CliRunner; from graphopt.cli import graphopt as g; "
        "assert CliRunner().invoke(g, ['--help']).exit_code == 0",
        "from click.testing import CliRunner; from graphopt.cli import graphopt as g; "
        "assert 'quantize' in CliRunner().invoke(g, ['passes']).output",
        "from click.testing import CliRunner; from graphopt.cli import graphopt as g; "
        "assert 'ratio' in CliRunner().invoke(g, ['passes', 'prune-channels']).output",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code: str) -> None:
    loaded = python(f"import sys; {code}; print(*(m for m in {HEAVY!r} if m in sys.modules))")
    assert loaded.split() == []


def test_the_door_opens_on_everything_it_names() -> None:
    for name in graphopt.__all__:
        assert getattr(graphopt, name) is not None
    assert set(graphopt._HOMES) == set(graphopt.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        graphopt.nonsense  # noqa: B018


def test_the_wheel_installed_outside_the_checkout(tmp_path: Path) -> None:
    """Built, unpacked into an empty folder, and used from there."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(site)
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {
        "graphopt",
        "graphopt_passes",
    }
    assert "graphopt/py.typed" in names
    assert "graphopt/emit/tensorrt/bundle/build.sh" in names
    assert "graphopt_passes/py.typed" in names
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r}); import graphopt, graphopt_passes; "
        "from graphopt.pipeline.registry import find_pass, pass_names; "
        "print(graphopt.__file__, graphopt_passes.__file__, "
        "len([find_pass(name) for name in pass_names()]))"
    )
    (metadata,) = site.glob("*.dist-info")
    declared = (ROOT / "pyproject.toml").read_text().count(' = "graphopt_passes.')
    assert (metadata / "entry_points.txt").read_text().count("graphopt_passes.") == declared
    core, passes, count = python(code, cwd=tmp_path).split()
    assert core.startswith(str(site))
    assert passes.startswith(str(site))
    assert int(count) >= declared > 0
