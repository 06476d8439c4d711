"""What the fixtures are: measured from the files themselves, and told in fixtures/README.md."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from fixtures_data import CALIBRATION, HELD_OUT, Images, write

SUMMARIES = {
    "resnet": "residual CNN: 3x3 stem, 4 blocks of two 3x3 convolutions (two of them strided, with "
    "a 1x1 projection on the skip), 16-32-64 channels, BN, ReLU, global average pool, Flatten, "
    "Gemm",
    "mobilenet": "MobileNetV3-like: 5 inverted residuals with 3x3 and 5x5 depthwise convolutions, "
    "4 of them with squeeze-excite (hard sigmoid), BN, ReLU and hard-swish, 2 Gemms",
    "vit": "vision transformer: 4x4 patch convolution, class token, 4 pre-norm blocks of width 64 "
    "with 4 heads, fused query-key-value projection, attention spelt out, MLP of 192 with GELU",
}
NETS = tuple(SUMMARIES)
FILES = (*(f"{name}.onnx" for name in NETS), "calib.npz", "eval.npz")
TEMPLATE = Path(__file__).with_name("fixtures_readme.md")
RESULTS = "## What graphopt does to them"
RESULTS_MARKER = "<!-- results -->"


@dataclass(frozen=True)
class Measured:
    """One net as its file is.

    Attributes:
        name: of the file, without .onnx.
        operators: how many nodes of each operator.
        parameters: elements of all initializers.
        evaluation: top-1 on eval.npz, 0 to 1.
        test: top-1 on all test images, 0 to 1.
    """

    name: str
    operators: Counter[str]
    parameters: int
    evaluation: float
    test: float

    @property
    def nodes(self) -> int:
        return self.operators.total()


def predict(model: bytes, images: np.ndarray, *, optimized: bool = True) -> np.ndarray:
    """Logits float32 [n, 10] from ONNX Runtime, one thread, 250 images at a time."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimized:
        level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    parts = np.array_split(images, max(1, len(images) // 250))
    return np.concatenate([session.run(["logits"], {"image": part})[0] for part in parts])


def top1(model: bytes, images: Images) -> float:
    return float((predict(model, images.image).argmax(1) == images.label).mean())


def measure(folder: Path, test: Images) -> list[Measured]:
    """Every net of `folder` on its eval.npz and on `test`."""
    with np.load(folder / "eval.npz") as archive:
        evaluation = Images(archive["image"], archive["labels"])
    measured = []
    for name in NETS:
        data = (folder / f"{name}.onnx").read_bytes()
        graph = onnx.load_from_string(data).graph
        operators = Counter(node.op_type for node in graph.node)
        parameters = sum(prod(tensor.dims) for tensor in graph.initializer)
        measured.append(
            Measured(name, operators, parameters, top1(data, evaluation), top1(data, test))
        )
    return measured


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def net_table(folder: Path, measured: Sequence[Measured], count: int) -> str:
    """A row for each net: sizes, and top-1 on the `count` images of eval.npz and on all."""
    header = ("file", "nodes", "parameters", "bytes", f"top-1, {count} eval", "top-1, 10,000 test")
    rows = []
    for net in measured:
        size = (folder / f"{net.name}.onnx").stat().st_size
        accuracies = (f"{net.evaluation:.4f}", f"{net.test:.4f}")
        rows.append(
            (f"{net.name}.onnx", net.nodes, f"{net.parameters:,}", f"{size:,}", *accuracies)
        )
    return table(header, rows)


def operator_table(measured: Sequence[Measured]) -> str:
    """A row for each net: how many nodes of which operator."""
    rows = []
    for net in measured:
        counts = ", ".join(f"{operator} {n}" for operator, n in sorted(net.operators.items()))
        rows.append((net.name, counts))
    return table(("net", "nodes by operator"), rows)


def hash_table(folder: Path) -> str:
    """A row for each fixture file: its sha256."""
    rows = [(name, hashlib.sha256((folder / name).read_bytes()).hexdigest()) for name in FILES]
    return table(("file", "sha256"), rows)


def write_readme(folder: Path, measured: Sequence[Measured]) -> str:
    """Write README.md, but keep its results section as it is; return the table of the nets."""
    path = folder / "README.md"
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    kept = old[old.index(RESULTS) :] if RESULTS in old else f"{RESULTS}\n\n{RESULTS_MARKER}\n"
    with np.load(folder / "eval.npz") as archive:
        count = len(archive["labels"])
    nets = net_table(folder, measured, count)
    text = TEMPLATE.read_text(encoding="utf-8").format(
        summaries="\n".join(f"- `{name}.onnx`: {text}." for name, text in SUMMARIES.items()),
        nets=nets,
        operators=operator_table(measured),
        hashes=hash_table(folder),
        runtime=onnxruntime.__version__,
        calibration=CALIBRATION,
        held_out=f"{HELD_OUT:,}",
        count=count,
        per_class=count // 10,
    )
    write(path, (text.rstrip() + "\n\n" + kept).encode())
    return nets
