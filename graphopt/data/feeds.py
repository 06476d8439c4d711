"""What a model is fed with: one array per input, by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol, TypeAlias

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError, did_you_mean
from graphopt.ir import main_inputs

Feed: TypeAlias = "dict[str, np.ndarray[Any, Any]]"


class Samples(Protocol):
    """Samples for a model, in a fixed order; each iteration starts from the first.

    Every sample is a feed of its own: one array per input, with a first axis of one where the
    model has a batch axis.
    """

    @property
    def description(self) -> str:
        """For the report: where they come from and how many."""
        ...

    @property
    def is_random(self) -> bool:
        """True when nobody chose these samples: then what is measured on them means little."""
        ...

    def __iter__(self) -> Iterator[Feed]: ...

    def count(self) -> int | None:
        """How many there are, if that is known without reading them."""
        ...


@dataclass(frozen=True)
class InputSpec:
    """An input of a model that must be fed: its shape (None for a free dimension) and dtype."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]
    batched: bool = True
    """Whether the first axis is the batch, over which samples can be joined."""

    def __str__(self) -> str:
        dims = ",".join("?" if dim is None else str(dim) for dim in self.shape)
        return f"{self.dtype}[{dims}]"

    @property
    def static_batch(self) -> int | None:
        """The batch size, if the model fixes it."""
        return self.shape[0] if self.batched and self.shape else None

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of `shape` can be fed."""
        return len(shape) == len(self.shape) and all(
            want is None or want == got for want, got in zip(self.shape, shape, strict=True)
        )


def input_specs(model: ir.Model) -> tuple[InputSpec, ...]:
    """The inputs of `model` that a caller must feed.

    Their first axis is the batch if all of them leave it free, or all fix the same size of at
    least one; otherwise samples cannot be joined, and are fed one by one.

    Raises:
        GraphoptError: if one is not a tensor of known rank.
    """
    specs = []
    for value in main_inputs(model):
        if not isinstance(value.type, ir.TensorType) or value.shape is None:
            raise GraphoptError(
                f"is {value.type or 'of unknown type'}; only tensors of known rank can be fed",
                where=f"input '{value.name}'",
            )
        # Paddle writes -1 for a size that is free.
        shape = tuple(d if isinstance(d, int) and d >= 0 else None for d in value.shape)
        specs.append(InputSpec(str(value.name), shape, value.type.dtype.numpy()))
    batch = {spec.shape[0] if spec.shape else 0 for spec in specs}
    if len(batch) == 1 and 0 not in batch:
        return tuple(specs)
    return tuple(replace(spec, batched=False) for spec in specs)


def check_names(names: list[str], specs: tuple[InputSpec, ...], where: str) -> None:
    """Raises GraphoptError unless `names` are exactly the model's inputs."""
    wanted = [spec.name for spec in specs]
    for name in names:
        if name not in wanted:
            raise GraphoptError(
                f"holds an array '{name}', but the model has no such input",
                where=where,
                fix=did_you_mean(name, wanted),
            )
    for name in wanted:
        if name not in names:
            raise GraphoptError(f"holds no array for the model's input '{name}'", where=where)


def fit(
    array: np.ndarray[Any, Any], spec: InputSpec, where: str, fix: str | None = None
) -> np.ndarray[Any, Any]:
    """`array`, one sample, as `spec` wants it: a missing first axis added, the dtype cast.

    A cast that could lose more than floating-point precision is refused.

    Args:
        fix: what to do about a shape that does not fit, for the message.
    """
    if array.ndim + 1 == len(spec.shape):
        array = array[np.newaxis]
    shape = array.shape
    if shape and shape[0] == 1 and spec.static_batch is not None:
        shape = (spec.static_batch, *shape[1:])  # `batches` joins that many
    if not spec.accepts(shape):
        raise GraphoptError(
            f"a sample for input '{spec.name}' has shape {list(array.shape)}, "
            f"but the model takes {spec}",
            where=where,
            fix=fix,
        )
    if array.dtype == spec.dtype:
        return array
    if array.dtype == np.dtype(f"V{spec.dtype.itemsize}") and spec.dtype.kind == "V":
        return array.view(spec.dtype)  # how numpy's files store a type that numpy does not know
    lossless = np.can_cast(array.dtype, spec.dtype, "safe")
    both_float = array.dtype.kind == "f" and "float" in spec.dtype.name
    if not (lossless or both_float):
        raise GraphoptError(
            f"the data for input '{spec.name}' is {array.dtype}, but the model takes {spec.dtype}",
            where=where,
            fix="store it in that type",
        )
    return array.astype(spec.dtype)


def batches(
    samples: Iterable[Feed], specs: tuple[InputSpec, ...], size: int, limit: int | None = None
) -> Iterator[tuple[Feed, int]]:
    """Joins samples along the first axis into feeds of `size` samples, in order.

    A model with a fixed first axis gets feeds of that size instead; the last one is then filled
    up by repeating its last sample. A sample whose first axis is longer than one is fed as it is,
    and those that differ in another axis do not share a feed.
    Yields each feed with the number of real samples in it.
    """
    size, fixed = batch_size(specs, size)
    pending: list[Feed] = []
    for sample in islice(samples, limit):
        if any(array.shape[:1] != (1,) for array in sample.values()):
            yield sample, 1
            continue
        if len(pending) == size or (pending and not _same_shapes(sample, pending[-1])):
            yield _filled(pending, size if fixed else 0), len(pending)
            pending = []
        pending.append(sample)
    if pending:
        yield _filled(pending, size if fixed else 0), len(pending)


def _same_shapes(one: Feed, other: Feed) -> bool:
    return all(array.shape == other[name].shape for name, array in one.items())


def _filled(feeds: list[Feed], size: int) -> Feed:
    """`feeds` joined, with the last one repeated until there are `size` of them."""
    return join(feeds + [feeds[-1]] * (size - len(feeds)))


def batch_count(samples: Samples, specs: tuple[InputSpec, ...], size: int) -> int | None:
    """How many feeds `batches` will yield, if the number of samples is known."""
    number = samples.count()
    return None if number is None else -(-number // batch_size(specs, size)[0])


def batch_size(specs: tuple[InputSpec, ...], size: int) -> tuple[int, bool]:
    """The number of samples in a feed, `size` if that is free, and whether the model fixes it."""
    if not all(spec.batched for spec in specs):
        return 1, False
    fixed = [spec.static_batch for spec in specs if spec.static_batch is not None]
    return (max(fixed), True) if fixed else (size, False)


def join(feeds: list[Feed]) -> Feed:
    """Feeds of one sample each, joined along the first axis of every input."""
    if len(feeds) == 1:
        return feeds[0]
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


def as_feed(data: Any, specs: tuple[InputSpec, ...], where: str) -> Feed:
    """What a user's function gave, as a feed: a dict by name, or one array for a single input."""
    if isinstance(data, Mapping):
        check_names([str(name) for name in data], specs, where)
        return {spec.name: fit(np.asarray(data[spec.name]), spec, where) for spec in specs}
    if len(specs) != 1:
        raise GraphoptError(
            f"gave {type(data).__name__}, but the model has {len(specs)} inputs",
            where=where,
            fix="give a dict of arrays by input name",
        )
    return {specs[0].name: fit(np.asarray(data), specs[0], where)}
