"""Where samples come from. One home for the text that names a source."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from graphopt.data.feeds import InputSpec, Samples
from graphopt.data.functions import (
    FunctionSamples,
    function_name,
    import_function,
    is_function,
)
from graphopt.errors import GraphoptError
from graphopt.options import Scanner, build, scan_options


def open_samples(text: str, specs: tuple[InputSpec, ...]) -> Samples:
    """The samples that `text` names, checked against the inputs `specs` of a model.

        calib.npz                    one array per input, by name; the first axis is the sample
        folder                       of .npy (a model with one input) or .npz files, a sample each
        folder{size=224x224,...}     of images; see `graphopt.data.images.Preprocessing`
        module:function              a Python function that yields a feed (dict) or an array each
        random{n=32,seed=0}          noise, for want of anything better

    Raises:
        GraphoptError: if there is no such source, or names, shapes or dtypes do not fit.
    """
    place, options = split_options(text)
    if place == "random":
        from graphopt.data.random import RandomOptions, RandomSamples

        return RandomSamples(build(RandomOptions, *options, "'random'"), specs)
    path = Path(place)
    if is_folder(path):
        return _open_folder(path, options, specs)
    if path.suffix == ".npz" or path.is_file():
        from graphopt.data.arrays import open_npz

        refuse_options(options, f"'{place}'")
        return open_npz(path, specs)
    if is_function(place):
        refuse_options(options, f"'{place}'")
        return FunctionSamples(place, import_function(place), specs)
    raise GraphoptError(
        "no such file or folder",
        where=place,
        fix="data is an .npz file, a folder, module:function or random",
    )


SampleSource: TypeAlias = (
    "str | os.PathLike[str] | Mapping[str, Any] | Callable[[], Iterable[Any]] | Samples"
)
"""What Python code may give as samples: see `as_samples`."""


def as_samples(source: SampleSource, specs: tuple[InputSpec, ...]) -> Samples:
    """The samples that `source` is or names, checked against the inputs `specs` of a model.

    It is text or a path as `open_samples` takes it, a dict with an array per input by name (first
    axis: the sample), a function that yields a feed (dict) or an array each time it is called, or
    Samples, which are taken as they are.

    Raises:
        GraphoptError: if it is none of these, or names, shapes or dtypes do not fit.
    """
    if isinstance(source, (str, os.PathLike)):
        return open_samples(os.fspath(source), specs)
    if isinstance(source, Mapping):
        from graphopt.data.arrays import array_samples

        arrays = {name: np.asarray(array) for name, array in source.items()}
        return array_samples(arrays, specs, "arrays", where="the arrays given")
    if callable(source):
        return FunctionSamples(function_name(source), source, specs)
    if hasattr(source, "description"):
        return source
    raise GraphoptError(
        f"samples cannot be of type {type(source).__name__}",
        fix="give text, a path, a dict of arrays by input name or a function that yields samples",
    )


def is_folder(path: Path) -> bool:
    """Whether `path` is a folder; raises GraphoptError if it cannot even be asked for."""
    try:
        return path.is_dir()
    except OSError as error:  # a name that is too long, a link to itself
        raise GraphoptError(f"cannot be read ({error.strerror})", where=str(path)) from None


def split_options(text: str) -> tuple[str, tuple[dict[str, Any], Scanner]]:
    """A source's text as its place and its options, `place{key=value}`."""
    brace = text.find("{")
    place = text if brace < 0 else text[:brace]
    scanner = Scanner(text)
    scanner.position = len(place)
    options = scan_options(scanner)
    if scanner.peek():
        scanner.fail(f"'{scanner.peek()}' is left over after the options")
    return place.strip(), (options, scanner)


def refuse_options(options: tuple[dict[str, Any], Scanner], what: str) -> None:
    """Raises GraphoptError if a source that has no options was given some."""
    for key, (_, column) in options[0].items():
        options[1].fail(f"{what} has no option '{key}'", column)


def _open_folder(
    path: Path, options: tuple[dict[str, Any], Scanner], specs: tuple[InputSpec, ...]
) -> Samples:
    from graphopt.data.arrays import ArrayFolder, array_files
    from graphopt.data.images import ImageFolder, Preprocessing, image_files

    if array_files(path):
        refuse_options(options, f"the folder '{path}' of arrays")
        return ArrayFolder(path, specs)
    if image_files(path):
        return ImageFolder(path, build(Preprocessing, *options, f"'{path}'"), specs)
    raise GraphoptError("holds no .npy, .npz or image files", where=str(path))
