"""Stand-ins for `trtexec`: each has the options of one version, and refuses all others as it does.

The stand-in appends its arguments to `calls.json` beside itself. What it is told to do besides is
in the environment variable FAKE_TRTEXEC: "fail" ends it with half an engine written, "empty" says
that all went well and writes none, "kill" has it die of a signal, "hang" wait with half an engine.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

_COMMON = (
    *("help", "verbose", "onnx", "saveEngine", "minShapes", "optShapes", "maxShapes"),
    *("memPoolSize", "timingCacheFile", "useDLACore", "allowGPUFallback", "sparsity"),
    *("profilingVerbosity", "exportLayerInfo", "loadInputs", "exportOutput", "refit"),
)
_OLD_PRECISION = ("fp16", "int8", "best", "calib")
_LATER_PRECISION = (*_OLD_PRECISION, "bf16", "fp8", "int4")
_LATER = ("skipInference", "stronglyTyped", "stripWeights", "versionCompatible")
OPTIONS = {
    "8.5": (*_COMMON, *_OLD_PRECISION, "buildOnly"),
    "8.6": (*_COMMON, *_OLD_PRECISION, "buildOnly", "skipInference", "versionCompatible"),
    "10.3": (*_COMMON, *_LATER_PRECISION, *_LATER),
    "10.13": (*_COMMON, *_LATER_PRECISION, *_LATER),
    "11.4": (*_COMMON, *_LATER),
}
VERSIONS = tuple(OPTIONS)

_PROGRAM = """#!{python}
import json, os, pathlib, signal, sys, time

DIGITS, OPTIONS, PRECISION = {digits!r}, {options!r}, {precision!r}
here = pathlib.Path(__file__).parent
given = sys.argv[1:]
print(f"&&&& RUNNING TensorRT.trtexec [TensorRT v{{DIGITS}}] # trtexec {{' '.join(given)}}")
if "--help" in given:
    print("=== Model Options ===")
    for name in OPTIONS:
        print(f"  --{{name}}  what it does; --unknown=<spec> is no option")
    sys.exit(0)
calls = here / "calls.json"
calls.write_text(json.dumps((json.loads(calls.read_text()) if calls.exists() else []) + [given]))
names = [argument[2:].partition("=")[0] for argument in given]
values = dict(argument[2:].partition("=")[::2] for argument in given)
for name in names:
    if name not in OPTIONS:
        print(f"[E] Unknown option: --{{name}}")
        sys.exit(1)
if "stronglyTyped" in names and set(names) & set(PRECISION):
    print("[E] Invalid usage, fp16, int8 and so on are not allowed with --stronglyTyped")
    sys.exit(1)
if not pathlib.Path(values["onnx"]).is_file():
    print("[E] Could not open file " + values["onnx"])
    sys.exit(1)
asked = os.environ.get("FAKE_TRTEXEC")
engine = pathlib.Path(values["saveEngine"])
if asked in ("fail", "kill", "hang"):
    engine.write_text("half an en")
    if asked == "hang":
        time.sleep(60)
    print("[I] Building\\n[E] Error[10]: Could not find any implementation for node conv1")
    sys.stdout.flush()
    if asked == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(1)
if asked != "empty":
    engine.write_text("engine of " + DIGITS)
    pathlib.Path(values["exportLayerInfo"]).write_text("{{}}")
    pathlib.Path(values["timingCacheFile"]).write_text("cache")
print("&&&& PASSED TensorRT.trtexec")
"""


def digits(version: str) -> str:
    """The version as trtexec writes it: 8.5.3 is 8503, and from TensorRT 10 on 10.3.0 is 100300."""
    major, minor = map(int, version.split("."))
    if major < 10:
        return f"{major * 1000 + minor * 100 + 3}"
    return f"{major * 10000 + minor * 100 + 1}"


def write(path: Path, version: str, *, like: str | None = None) -> Path:
    """Writes the stand-in of `version`, with the options of `like`."""
    program = _PROGRAM.format(
        python=sys.executable,
        digits=digits(version),
        options=OPTIONS[like or version],
        precision=_LATER_PRECISION,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(program)
    path.chmod(0o755)
    return path


def calls(path: Path) -> list[list[str]]:
    """What the stand-in at `path` was called with, without the calls for help."""
    record = path.parent / "calls.json"
    return json.loads(record.read_text()) if record.exists() else []  # type: ignore[no-any-return]
