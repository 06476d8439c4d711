"""Samples from a folder of images."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from graphopt.data.feeds import Feed, InputSpec, fit
from graphopt.data.files import FileSamples
from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_HOW = "say how the model wants its images: FOLDER{size=WxH,color=gray,layout=nhwc}"


@dataclass(frozen=True)
class Preprocessing:
    """From an image to an input: resize, centre crop, scale, normalize, lay out, in that order.

    `x = (pixel * scale - mean) / std`, with pixels from 0 to 255 and one mean and std per channel
    (or one for all).
    """

    size: str = "none"
    """WIDTHxHEIGHT to scale to; `none` takes the model's own, or the image's if that is free."""
    crop: str = "none"
    """WIDTHxHEIGHT to cut from the centre after scaling."""
    color: Literal["rgb", "bgr", "gray"] = "rgb"
    scale: float | None = None
    """None (default): 1/255, but 1 for a model that takes integers."""
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Literal["nchw", "nhwc"] = "nchw"

    def __post_init__(self) -> None:
        parse_size(self.size, "size")
        parse_size(self.crop, "crop")
        channels = 1 if self.color == "gray" else 3
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise ValueError(f"{name} has {len(values)} numbers for {channels} channels")
        numbers = (*self.mean, *self.std, self.scale or 1.0)
        if 0.0 in self.std or not all(map(math.isfinite, numbers)):
            raise ValueError("mean, std and scale must be finite numbers, and std not 0")


def parse_size(text: str, what: str) -> tuple[int, int] | None:
    """`WIDTHxHEIGHT` as two numbers, `none` as None; raises ValueError for anything else."""
    if text == "none":
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,4}x[1-9][0-9]{0,4}", text):
        raise ValueError(f"{what} must be WIDTHxHEIGHT or none, not '{text}'")
    width, height = text.split("x")
    return int(width), int(height)


def image_files(folder: Path) -> list[Path]:
    """The images in `folder` and the folders below it, in order of name."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)


class ImageFolder(FileSamples):
    """The images of a folder, each a sample for a model with one float or uint8 input."""

    def __init__(
        self, folder: Path, preprocessing: Preprocessing, specs: tuple[InputSpec, ...]
    ) -> None:
        if len(specs) != 1 or len(specs[0].shape) != 4:
            raise GraphoptError(
                "images fit a model with one input of four dimensions, but this one has "
                + ", ".join(f"'{spec.name}' {spec}" for spec in specs),
                where=str(folder),
                fix="use .npz data",
            )
        self._spec = specs[0]
        self._preprocessing = preprocessing
        files = image_files(folder)
        super().__init__(files, f"{folder} ({len(files)} images)")

    def _feed(self, file: Path) -> Feed:
        pixels = np.asarray(self._resized(file), dtype=np.float32)
        if pixels.ndim == 2:
            pixels = pixels[..., np.newaxis]
        options = self._preprocessing
        if options.color == "bgr":
            pixels = pixels[..., ::-1]
        mean = np.asarray(options.mean, dtype=np.float32)
        std = np.asarray(options.std, dtype=np.float32)
        scale = options.scale
        if scale is None:
            scale = 1.0 if self._spec.dtype.kind in "iu" else 1 / 255
        pixels = (pixels * np.float32(scale) - mean) / std
        if options.layout == "nchw":
            pixels = pixels.transpose(2, 0, 1)
        array: np.ndarray[Any, Any] = np.ascontiguousarray(pixels)
        if self._spec.dtype == np.uint8:
            array = np.clip(np.rint(array), 0, 255).astype(np.uint8)
        return {self._spec.name: fit(array, self._spec, str(file), fix=_HOW)}

    def _resized(self, file: Path) -> Image.Image:
        pil = _pillow()
        try:
            image: Image.Image = pil.open(file)
            image = image.convert("L" if self._preprocessing.color == "gray" else "RGB")
        except (OSError, ValueError, pil.DecompressionBombError) as error:
            raise GraphoptError(f"is not an image ({error})", where=str(file)) from None
        crop = parse_size(self._preprocessing.crop, "crop")
        size = parse_size(self._preprocessing.size, "size") or (None if crop else self._own_size())
        if size is not None and image.size != size:
            image = image.resize(size, pil.Resampling.BILINEAR)
        if crop is not None:
            left, top = (image.width - crop[0]) // 2, (image.height - crop[1]) // 2
            image = image.crop((left, top, left + crop[0], top + crop[1]))
        return image

    def _own_size(self) -> tuple[int, int] | None:
        first = 2 if self._preprocessing.layout == "nchw" else 1
        height, width = self._spec.shape[first : first + 2]
        return None if height is None or width is None else (width, height)


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise GraphoptError(
            "reading images needs Pillow", fix="pip install 'graphopt[images]'"
        ) from None
    return Image
