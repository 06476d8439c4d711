"""What a model is measured on: data beside it, what its kind reads, or noise."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
from quantize_files import files
from quantize_ocr import lines, pages
from random_samples import random_samples

from graphopt.data.arrays import ArraySamples
from graphopt.data.feeds import Samples, input_specs
from graphopt.data.samples import open_samples

DATA = "calib.npz"
COUNT, PAGES = 96, 40
FILE_TYPES = ["csv", "html", "ini", "json", "npy", "npz", "sql", "xml", "zip"]
"""Those that are made, whatever is on the machine."""


def samples_of(path: Path, model: ir.Model) -> Samples:
    """The calib.npz beside a model; drawn text for PP-OCR and files for Magika, by name; or noise.

    For noise these nets find nothing: a map of numbers that fp16 does not have, say.
    """
    specs, data, name = input_specs(model), path.with_name(DATA), path.stem
    if data.exists():
        return open_samples(str(data), specs)
    if name.endswith("_det"):
        made, what = pages(PAGES, seed=0)[0], "drawn pages"
    elif name.endswith(("_cls", "_rec")):
        made, what = lines(COUNT, seed=0)[0], "drawn lines"
    elif name.startswith("magika"):
        made, what = files(COUNT, 0, FILE_TYPES)[0], "files"
    else:
        return random_samples(model, name)
    return ArraySamples(what, {specs[0].name: made}, specs)
