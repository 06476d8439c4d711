"""Samples from numpy files."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.data.feeds import Feed, InputSpec, check_names, fit
from graphopt.data.files import FileSamples
from graphopt.errors import GraphoptError


@dataclass(frozen=True)
class ArraySamples:
    """Samples in memory: for each input an array whose first axis is the sample."""

    description: str
    arrays: Feed
    specs: tuple[InputSpec, ...]
    is_random: bool = False

    def __iter__(self) -> Iterator[Feed]:
        for index in range(self.count()):
            yield {
                spec.name: fit(_sample(self.arrays[spec.name], index, spec), spec, self.description)
                for spec in self.specs
            }

    def count(self) -> int:
        return len(next(iter(self.arrays.values())))


def _sample(array: np.ndarray[Any, Any], index: int, spec: InputSpec) -> np.ndarray[Any, Any]:
    # The sample axis is the model's batch axis, or one in front of all that the model has.
    if array.ndim == len(spec.shape):
        return array[index : index + 1]
    return np.asarray(array[index])  # not the bare number that a scalar input would get


def open_npz(
    path: Path, specs: tuple[InputSpec, ...], ignore: tuple[str, ...] = ()
) -> ArraySamples:
    """The samples in `path`: one array per input of the model, by name.

    Args:
        ignore: names of arrays that are not inputs (labels).
    """
    arrays = {name: a for name, a in read_npz(path).items() if name not in ignore}
    return array_samples(arrays, specs, path.name, where=str(path))


def array_samples(
    arrays: Feed, specs: tuple[InputSpec, ...], name: str, *, where: str
) -> ArraySamples:
    """Samples from one array per input of the model, by name; `name` is for the report.

    Raises:
        GraphoptError: if names, numbers of samples, shapes or dtypes do not fit.
    """
    check_names(list(arrays), specs, where)
    lengths = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise GraphoptError(f"arrays differ in their number of samples: {lengths}", where=where)
    number = next(iter(lengths.values()))
    if number == 0:
        raise GraphoptError("holds no samples", where=where)
    samples = ArraySamples(f"{name} ({number} samples)", arrays, specs)
    next(iter(samples))  # the first sample shows whether shapes and dtypes fit
    return samples


def read_npz(path: Path) -> Feed:
    """All arrays of an .npz file, by name."""
    content = _read(path)
    if isinstance(content, np.ndarray):
        raise GraphoptError("is a single array, not an .npz file", where=str(path), fix=_HOW)
    return content


def _read(path: Path) -> Feed | np.ndarray[Any, Any]:
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            arrays = {name: content[name] for name in content.files}
    except FileNotFoundError:
        raise GraphoptError("no such file", where=str(path)) from None
    except _READ_ERRORS as error:
        if "allow_pickle" in str(error):  # its advice is to run whatever is in the file
            raise GraphoptError(
                "is no file of plain numpy arrays", where=str(path), fix=_HOW
            ) from None
        raise GraphoptError(f"is not a numpy file ({error})", where=str(path)) from None
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise GraphoptError(f"is not a numpy file ('{name}' is no array)", where=str(path))
    return arrays


_HOW = "save an array for each input with numpy.savez(FILE, INPUT=ARRAY)"
_READ_ERRORS = (
    OSError,
    ValueError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,  # a kind of compression that Python lacks
    RuntimeError,  # an encrypted file
)


def array_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix in (".npy", ".npz"))


class ArrayFolder(FileSamples):
    """A folder of numpy files, each one sample: .npz with an array per input, or .npy."""

    def __init__(self, folder: Path, specs: tuple[InputSpec, ...]) -> None:
        self._specs = specs
        files = array_files(folder)
        super().__init__(files, f"{folder} ({len(files)} samples)")

    def _feed(self, file: Path) -> Feed:
        content = _read(file)
        if isinstance(content, np.ndarray):
            if len(self._specs) != 1:
                raise GraphoptError(
                    f"holds one array, but the model has {len(self._specs)} inputs",
                    where=str(file),
                    fix="use .npz files with an array per input",
                )
            content = {self._specs[0].name: content}
        check_names(list(content), self._specs, str(file))
        return {spec.name: fit(content[spec.name], spec, str(file)) for spec in self._specs}
