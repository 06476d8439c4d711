"""Where samples come from. One home for the text that names a source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphopt.data.feeds import InputSpec, Samples
from graphopt.data.functions import FunctionSamples, import_function, is_function
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
