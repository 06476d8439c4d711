"""Rendered text with known places and directions, and scores over it.

Everything is drawn from the words of this repository's licence in fonts of Debian's packages
fonts-dejavu-core and fonts-liberation, by a fixed seed. Preprocessing is that of the package
rapidocr-onnxruntime 1.4.4: lines 48 high and at most 192 wide, (x / 255 - 0.5) / 0.5.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LICENSE = Path(__file__).resolve().parents[1] / "LICENSE"
FONT_FOLDERS = tuple(Path("/usr/share/fonts/truetype") / name for name in ("dejavu", "liberation"))
LINE_HEIGHT, LINE_WIDTH = 48, 192
PAGE = 320
INSET = 0.27
"""Of a line's height, off each side: the detector's net marks lines shrunk (Liao et al. 2019,
arXiv:1911.08947), and this is what its map agrees best with.
"""


class Pen:
    """Draws text; everything random comes from its seed."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._words = re.findall(r"[A-Za-z]{2,}", LICENSE.read_text())
        self._fonts = sorted(file for folder in FONT_FOLDERS for file in folder.glob("*.ttf"))
        if not self._fonts:
            sys.exit("no fonts; install Debian's fonts-dejavu-core and fonts-liberation")

    def line(self) -> Image.Image:
        """One line of text, one to four words, as an image that it fills."""
        font = self._font(24, 44)
        text = self._text(1, 4)
        ink, paper = self._colours()
        left, top, right, bottom = font.getbbox(text)
        pad_x, pad_y = (int(v) for v in self._random.integers(1, 7, 2))
        size = (int(right - left) + 2 * pad_x, int(bottom - top) + 2 * pad_y)
        image = Image.new("RGB", size, paper)
        ImageDraw.Draw(image).text((pad_x - left, pad_y - top), text, fill=ink, font=font)
        return self._noisy(image)

    def page(self) -> tuple[np.ndarray, np.ndarray]:
        """A page uint8 [PAGE, PAGE, 3] and its mask uint8 [PAGE, PAGE], 1 in a line's core."""
        ink, paper = self._colours()
        image = Image.new("RGB", (PAGE, PAGE), paper)
        mask = np.zeros((PAGE, PAGE), np.uint8)
        draw = ImageDraw.Draw(image)
        y = int(self._random.integers(5, 30))
        while True:
            font, text = self._font(14, 30), self._text(1, 3)
            left, top, right, bottom = (int(v) for v in font.getbbox(text))
            x = int(self._random.integers(5, 60))
            if y + bottom - top > PAGE - 5:
                return np.asarray(self._noisy(image)), mask
            if x + right - left <= PAGE - 5:
                draw.text((x - left, y - top), text, fill=ink, font=font)
                inset = int(INSET * (bottom - top))
                mask[y + inset : y + bottom - top - inset, x + inset : x + right - left - inset] = 1
            y += bottom - top + int(self._random.integers(12, 40))

    def is_turned(self) -> bool:
        return bool(self._random.integers(2))

    def _font(self, low: int, high: int) -> ImageFont.FreeTypeFont:
        file = self._fonts[int(self._random.integers(len(self._fonts)))]
        return ImageFont.truetype(str(file), int(self._random.integers(low, high)))

    def _text(self, low: int, high: int) -> str:
        start = int(self._random.integers(len(self._words) - high))
        return " ".join(self._words[start : start + int(self._random.integers(low, high + 1))])

    def _colours(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        dark = tuple(int(v) for v in self._random.integers(0, 90, 3))
        light = tuple(int(v) for v in self._random.integers(150, 256, 3))
        return (dark, light) if self._random.random() < 0.8 else (light, dark)

    def _noisy(self, image: Image.Image) -> Image.Image:
        pixels = np.asarray(image, np.float32)
        noise = self._random.normal(0, self._random.uniform(0, 12), pixels.shape)
        return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def lines(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Lines float32 [count, 3, 48, 192], and 1 for those turned by 180 degrees, int64 [count]."""
    pen = Pen(seed)
    images = np.zeros((count, 3, LINE_HEIGHT, LINE_WIDTH), np.float32)
    labels = np.zeros(count, np.int64)
    for index in range(count):
        image = pen.line()
        if pen.is_turned():
            labels[index] = 1
            image = image.transpose(Image.Transpose.ROTATE_180)
        width = min(LINE_WIDTH, -(-LINE_HEIGHT * image.width // image.height))
        resized = image.resize((width, LINE_HEIGHT), Image.Resampling.BILINEAR)
        images[index, :, :, :width] = normalized(np.asarray(resized))
    return images, labels


def pages(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pages float32 [count, 3, PAGE, PAGE], and masks uint8 [count, PAGE, PAGE]."""
    pen = Pen(seed)
    drawn = [pen.page() for _ in range(count)]
    return np.stack([normalized(image) for image, _ in drawn]), np.stack([m for _, m in drawn])


def normalized(image: np.ndarray) -> np.ndarray:
    """Pixels [height, width, 3], 0 to 255, as the nets take them: [3, height, width], -1 to 1."""
    return (image.transpose(2, 0, 1).astype(np.float32) / np.float32(255) - 0.5) / np.float32(0.5)
