"""Real inputs, and what the model makes of them: what an engine is held to on the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.data.feeds import Feed, InputSpec, input_specs, join
from graphopt.data.samples import open_samples
from graphopt.emit.tensorrt.shapes import ShapeRange
from graphopt.errors import GraphoptError
from graphopt.progress import Progress
from graphopt.runtime.session import Session

REFERENCE_FOLDER = "reference"
_CASES = 3
_MAX_SAMPLES = 64
# More than that is no proof of a better engine, only a bigger folder.
_MAX_CASE_BYTES = 1 << 26
_NOISE = "random{n=4}"


@dataclass(frozen=True)
class Reference:
    """What was written.

    Attributes:
        samples: where the inputs come from.
        is_random: whether they are noise.
        cases: of each, the files of its inputs and outputs by tensor name, relative to the bundle.
        notes: what was left out and why.
    """

    samples: str
    is_random: bool
    cases: tuple[dict[str, dict[str, str]], ...]
    notes: tuple[str, ...]


def write_reference(
    model: ir.Model,
    samples_text: str | None,
    profile: Mapping[str, ShapeRange],
    bundle: Path,
    progress: Progress,
) -> Reference:
    """Writes a case for the least, the optimal and the greatest shapes of `profile`.

    A static model gets its first samples, one a case. The outputs are ONNX Runtime's on a CPU, with
    its own rewrites off.

    Raises:
        GraphoptError: if the samples do not fit the model or the profile, or it cannot be run.
    """
    specs = input_specs(model)
    samples = open_samples(samples_text or _NOISE, specs)
    if samples.is_random:  # noise can have any size
        samples = open_samples(samples_text or _NOISE, _at_best(specs, profile))
    feeds, notes = _feeds(list(islice(samples, _MAX_SAMPLES)), specs, profile)
    session = Session(model)
    cases = []
    for index, feed in enumerate(progress.track(feeds, "reference", total=len(feeds))):
        folder = bundle / REFERENCE_FOLDER / f"case{index}"
        folder.mkdir(parents=True)
        cases.append(
            {
                "inputs": _write(feed, folder, "input", bundle),
                "outputs": _write(session.run(feed), folder, "output", bundle),
            }
        )
    return Reference(samples.description, samples.is_random, tuple(cases), tuple(notes))


def _at_best(
    specs: tuple[InputSpec, ...], profile: Mapping[str, ShapeRange]
) -> tuple[InputSpec, ...]:
    """`specs` with the best sizes for all free axes but a batch."""
    fixed = []
    for spec in specs:
        shape: tuple[int | None, ...] = spec.shape
        if spec.name in profile:
            best = profile[spec.name][1]
            shape = (None, *best[1:]) if spec.batched and shape[0] is None else best
        fixed.append(replace(spec, shape=shape))
    return tuple(fixed)


def _feeds(
    samples: list[Feed], specs: tuple[InputSpec, ...], profile: Mapping[str, ShapeRange]
) -> tuple[list[Feed], list[str]]:
    if not samples:
        raise GraphoptError("there is no sample to make a reference of")
    notes: list[str] = []
    feeds: list[Feed] = []
    for index, size in enumerate(_batch_sizes(specs, profile)):
        feed = _joined(samples, index, size)
        problem = _misfit(feed, profile)
        if problem is not None:
            raise GraphoptError(problem, fix="give --shapes that hold the samples, or others")
        if sum(array.nbytes for array in feed.values()) > _MAX_CASE_BYTES and feeds:
            notes.append(f"no reference for a batch of {size}: its inputs pass 64 MiB")
            continue
        feeds.append(feed)
    return feeds, notes


def _batch_sizes(
    specs: tuple[InputSpec, ...], profile: Mapping[str, ShapeRange]
) -> Iterator[int | None]:
    """The batch of each case; None for a sample as it is."""
    if not specs or not all(spec.batched for spec in specs):
        yield from [None] * _CASES
    elif specs[0].static_batch is not None:
        yield from [max(spec.static_batch or 1 for spec in specs)] * _CASES
    else:
        shapes = profile[specs[0].name]
        yield from dict.fromkeys(shape[0] for shape in shapes)


def _joined(samples: list[Feed], index: int, size: int | None) -> Feed:
    """`size` samples from the one at `index` on, from the first again after the last."""
    if size is None or any(array.shape[:1] != (1,) for array in samples[0].values()):
        return samples[index % len(samples)]
    first = samples[index % len(samples)]
    alike = [
        sample
        for sample in samples
        if all(array.shape == first[name].shape for name, array in sample.items())
    ]
    return join([alike[(index + i) % len(alike)] for i in range(size)])


def _misfit(feed: Feed, profile: Mapping[str, ShapeRange]) -> str | None:
    for name, (least, _, greatest) in profile.items():
        shape = feed[name].shape
        if any(
            not low <= size <= high for low, size, high in zip(least, shape, greatest, strict=True)
        ):
            ends = ("x".join(map(str, end)) for end in (shape, least, greatest))
            return "a sample of input '{}' is {}, outside of {} to {}".format(name, *ends)
    return None


def _write(arrays: Mapping[str, Any], folder: Path, kind: str, bundle: Path) -> dict[str, str]:
    """Files by tensor name: a name may hold what no file's can."""
    files = {}
    for index, (name, array) in enumerate(arrays.items()):
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
            raise GraphoptError(
                "is of a type that an engine cannot have", where=f"{kind} '{name}' of the model"
            )
        path = folder / f"{kind}{index}.npy"
        np.save(path, array)
        files[name] = path.relative_to(bundle).as_posix()
    return files
