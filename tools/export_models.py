"""Write real ONNX models into a folder: common architectures, exported as users export them.

    python tools/export_models.py FOLDER                         # every architecture, three styles
    python tools/export_models.py FOLDER --only resnet18 bert_tiny
    python tools/export_models.py FOLDER --wheels                # trained models of wheels too

Needs torch, timm (with torchvision and pillow), transformers, onnx, onnxscript and onnxruntime. The
files are `<architecture>.<style>.onnx` with their weights embedded, and INDEX.txt lists every ONNX
file of the folder. The weights are random, from a fixed seed. The styles:

    raw      the older exporter, nothing folded or fused: BatchNormalization and Constant nodes stay
    legacy   the older exporter as it comes
    dynamo   the newer exporter as it comes

The newer exporter notes the paths of source files in its models, so those differ by where it runs.
Each file is run once in ONNX Runtime and compared with torch. What cannot be exported is told in
one line; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model_list import Example

NEEDED = (
    "torch",
    "timm",
    "torchvision",
    "PIL",
    "transformers",
    "onnx",
    "onnxscript",
    "onnxruntime",
)
STYLES = ("raw", "legacy", "dynamo")
LEGACY_OPSET = 17
DYNAMO_OPSET = 20
TOLERANCE = 1e-3  # of the output's peak, torch against ONNX Runtime; float32 convolutions differ
LIMIT_S = 900

WHEELS = {
    "rapidocr-onnxruntime==1.4.4": (
        "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
        {
            "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx": "ppocr_v4_det",
            "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx": "ppocr_v4_rec",
            "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx": "ppocr_v2_cls",
        },
    ),
    "magika==1.0.3": (
        "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529",
        {"magika/models/standard_v3_3/model.onnx": "magika_v3_3"},
    ),
    "nudenet==3.4.2": (
        "5937dbd84e5d8e5de038f08ffea5a1bb50a08475776bf2b4795914ce0eaf0331",
        {"nudenet/320n.onnx": "nudenet_320n"},
    ),
}
"""Wheels by requirement: their SHA-256, and the ONNX files to take out of them."""


def export(name: str, style: str, path: Path) -> None:
    """Writes architecture `name` to `path` in `style` and compares it with torch.

    Raises whatever the exporter raises; RuntimeError if the outputs differ.
    """
    import torch
    from model_list import build

    torch.set_num_threads(1)
    example = build(name)
    with torch.no_grad():
        expected = example.net(*example.args)
        if style == "dynamo":
            _dynamo(example, path)
        else:
            _legacy(example, path, raw=style == "raw")
    _compare(example, expected, path)


def _legacy(example: Example, path: Path, *, raw: bool) -> None:
    import torch

    options: dict[str, Any] = {"opset_version": LEGACY_OPSET}
    if raw:
        options["training"] = torch.onnx.TrainingMode.PRESERVE
        options["do_constant_folding"] = False
    if example.dynamic:
        options["dynamic_axes"] = {**example.dynamic, **example.dynamic_outputs}
    torch.onnx.export(
        example.net,
        example.args,
        str(path),
        input_names=list(example.inputs),
        output_names=list(example.outputs),
        dynamo=False,
        **options,
    )


def _dynamo(example: Example, path: Path) -> None:
    import torch

    shapes = None
    if example.dynamic:
        shapes = tuple(
            {axis: torch.export.Dim(symbol) for axis, symbol in example.dynamic[name].items()}
            for name in example.inputs
        )
    torch.onnx.export(
        example.net,
        example.args,
        str(path),
        input_names=list(example.inputs),
        output_names=list(example.outputs),
        opset_version=DYNAMO_OPSET,
        dynamic_shapes=shapes,
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def _compare(example: Example, expected: Any, path: Path) -> None:
    import numpy as np
    import onnxruntime as ort

    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feed = {k: v.numpy() for k, v in zip(example.inputs, example.args, strict=True)}
    wanted = expected if isinstance(expected, (tuple, list)) else (expected,)
    for tensor, got in zip(wanted, session.run(None, feed), strict=True):
        want = tensor.numpy()
        peak = float(np.abs(want).max())
        error = float(np.abs(want - got).max())
        if not np.isfinite(want).all() or peak == 0.0 or want.std() < 1e-6 * peak:
            raise RuntimeError(f"the net's outputs say nothing: peak {peak:g}, std {want.std():g}")
        if not error <= TOLERANCE * peak:
            raise RuntimeError(f"differs from torch by {error:g}, where the peak is {peak:g}")


def _child(name: str, style: str, path: str, log: str) -> None:
    """One export in a process of its own, what it prints into `log`."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    export(name, style, Path(path))


def export_apart(name: str, style: str, path: Path) -> str | None:
    """Exports in a child process; None, or why it failed. A failed export leaves no file."""
    context = multiprocessing.get_context("fork")  # torch is imported once, before
    with tempfile.TemporaryDirectory() as folder:
        log, draft = Path(folder) / "log", path.with_suffix(".part")
        process = context.Process(target=_child, args=(name, style, str(draft), str(log)))
        process.start()
        process.join(LIMIT_S)
        if process.is_alive():
            process.kill()
            process.join()
            draft.unlink(missing_ok=True)
            return f"took more than {LIMIT_S} s"
        if process.exitcode == 0:
            draft.replace(path)
            return None
        draft.unlink(missing_ok=True)
        told = log.read_text(errors="replace") if log.exists() else ""
        return _reason(told) or f"the process ended with {process.exitcode}"


def _reason(log: str) -> str:
    """The error that began it all, out of a log that ends in a chain of tracebacks."""
    first = log.partition("The above exception was the direct cause")[0]
    errors = [line for line in first.splitlines() if re.match(r"[A-Za-z_][\w.]*(: |$)", line)]
    return errors[-1][:300] if errors else ""


def unpack(requirement: str, folder: Path) -> str | None:
    """Takes the ONNX files out of a wheel; None, or why that failed."""
    digest, files = WHEELS[requirement]
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        done = subprocess.run(
            [*command, "--only-binary=:all:", "--dest", scratch, requirement],
            capture_output=True,
            text=True,
            check=False,
        )
        wheels = sorted(Path(scratch).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            lines = [x for x in done.stderr.splitlines() if not x.startswith("WARNING")]
            return f"pip download failed: {' '.join(lines)[-300:]}"
        found = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
        if found != digest:
            return f"{wheels[0].name} has SHA-256 {found}, expected {digest}"
        with zipfile.ZipFile(wheels[0]) as archive:
            for member, name in files.items():
                (folder / f"{name}.onnx").write_bytes(archive.read(member))
    return None


def index(folder: Path) -> str:
    """A line for each ONNX file of `folder`: nodes, of them Constant, opset, bytes, free axes."""
    import onnx

    lines = [f"{'file':45}{'nodes':>7}{'Constant':>10}{'opset':>7}{'bytes':>13}  inputs"]
    for path in sorted(folder.glob("*.onnx")):
        model = onnx.load(path, load_external_data=False)
        nodes = list(_nodes(model))
        constants = sum(node.op_type == "Constant" for node in nodes)
        opset = max(
            (o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0
        )
        inputs = ", ".join(_input(value) for value in model.graph.input)
        lines.append(
            f"{path.name:45}{len(nodes):7}{constants:10}{opset:7}{path.stat().st_size:13}  {inputs}"
        )
    return "\n".join(lines) + "\n"


def _nodes(model: Any) -> Iterator[Any]:
    """The nodes of the graph, its subgraphs and the functions."""
    pending = [model.graph.node, *(function.node for function in model.functions)]
    while pending:
        for node in pending.pop():
            yield node
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    pending.append(attribute.g.node)
                pending.extend(graph.node for graph in attribute.graphs)


def _input(value: Any) -> str:
    dims = (dim.dim_param or str(dim.dim_value) for dim in value.type.tensor_type.shape.dim)
    return f"{value.name}[{','.join(dims)}]"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these architectures alone")
    parser.add_argument("--styles", nargs="+", choices=STYLES, default=STYLES)
    parser.add_argument("--wheels", action="store_true", help="trained models out of wheels too")
    arguments = parser.parse_args()
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        print(f"not installed: {', '.join(missing)}", file=sys.stderr)
        return 2
    import torch
    from model_list import ARCHITECTURES

    torch.set_num_threads(1)
    names = arguments.only or list(ARCHITECTURES)
    unknown = [name for name in names if name not in ARCHITECTURES]
    if unknown:
        print(f"unknown: {', '.join(unknown)}; known: {', '.join(ARCHITECTURES)}", file=sys.stderr)
        return 2
    arguments.folder.mkdir(parents=True, exist_ok=True)
    failures = _export_all(names, arguments.styles, arguments.folder)
    if arguments.wheels:
        for requirement in WHEELS:
            reason = unpack(requirement, arguments.folder)
            print(f"{requirement}: {'ok' if reason is None else 'FAILED: ' + reason}", flush=True)
            failures += reason is not None
    (arguments.folder / "INDEX.txt").write_text(index(arguments.folder))
    if failures:
        print(f"{failures} could not be made", file=sys.stderr)
    return 1 if failures else 0


def _export_all(names: list[str], styles: list[str], folder: Path) -> int:
    failures = 0
    for number, name in enumerate(names, 1):
        for style in styles:
            path = folder / f"{name}.{style}.onnx"
            reason = export_apart(name, style, path)
            failures += reason is not None
            told = f"{path.stat().st_size} bytes" if reason is None else f"FAILED: {reason}"
            print(f"[{number}/{len(names)}] {path.name}: {told}", flush=True)
    return failures


if __name__ == "__main__":
    sys.exit(main())
