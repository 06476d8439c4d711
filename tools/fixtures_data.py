"""Fashion-MNIST cut into the fixtures' splits, and .npz files with the same bytes every time."""

from __future__ import annotations

import gzip
import io
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HELD_OUT = 2000
CALIBRATION = 512
EVALUATION_PER_CLASS = 350


@dataclass(frozen=True)
class Images:
    """Images as float32 [n, 1, 28, 28] in [0, 1], and their classes as int64 [n]."""

    image: np.ndarray
    label: np.ndarray

    def take(self, indices: np.ndarray) -> Images:
        return Images(self.image[indices], self.label[indices])


@dataclass(frozen=True)
class Splits:
    """Fashion-MNIST cut up: no image of `held_out` is in `train`, none at all is also in `test`."""

    train: Images
    held_out: Images
    test: Images

    @property
    def calibration(self) -> np.ndarray:
        return self.held_out.image[:CALIBRATION]

    @property
    def evaluation(self) -> Images:
        """The first test images of each class, in the order of the file."""
        by_class = [np.flatnonzero(self.test.label == c)[:EVALUATION_PER_CLASS] for c in range(10)]
        return self.test.take(np.sort(np.concatenate(by_class)))


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array in a gzipped IDX file (the format is on the MNIST page of Y. LeCun)."""
    if not path.is_file():
        sys.exit(f"{path}: no such file; install Debian's dataset-fashion-mnist, or give --data")
    raw = gzip.decompress(path.read_bytes())
    if raw[:3] != b"\0\0\x08":
        sys.exit(f"{path}: not an IDX file of unsigned bytes")
    rank = raw[3]
    shape = np.frombuffer(raw, ">u4", count=rank, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def read_images(folder: Path, prefix: str) -> Images:
    """The `train` or `t10k` images of `folder`."""
    pixels = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz")
    return Images(pixels[:, None].astype(np.float32) / np.float32(255), labels.astype(np.int64))


def read_splits(folder: Path) -> Splits:
    """Drop the training images that the test set repeats; hold 2,000 out by a fixed seed."""
    everything, test = read_images(folder, "train"), read_images(folder, "t10k")
    in_test = {image.tobytes() for image in test.image}
    fresh = np.array([image.tobytes() not in in_test for image in everything.image])
    order = np.random.default_rng(0).permutation(np.flatnonzero(fresh))
    held_out = everything.take(order[:HELD_OUT])
    return Splits(everything.take(np.sort(order[HELD_OUT:])), held_out, test)


def write(path: Path, data: bytes) -> None:
    """Write beside `path` and rename into place, so that no reader sees half a file."""
    beside = path.with_name(path.name + ".part")
    beside.write_bytes(data)
    beside.replace(path)


def npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """A compressed .npz whose bytes depend only on the arrays: numpy's own writer adds the time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_DEFLATED
            member.create_system = 3
            member.external_attr = 0o644 << 16
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(member, content.getvalue(), compresslevel=9)
    return buffer.getvalue()
