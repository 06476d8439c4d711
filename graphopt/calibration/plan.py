"""How samples are run so that the watched tensors fit into memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic

import onnx_ir as ir

from graphopt.calibration.positions import Positions
from graphopt.calibration.sketches import LEAST_OPSET
from graphopt.calibration.watching import HistogramObserver, Observer, S, Task
from graphopt.data.feeds import Feed, batch_size, input_specs
from graphopt.errors import GraphoptError
from graphopt.ir import (
    default_opset,
    forget_shapes,
    infer_shapes,
    is_standard,
    nodes_of,
    static_shape,
)

BATCH = 32
"""The number of samples in a run, at most."""
BATCH_BYTES = 1 << 26
"""The bytes that the watched tensors of a run take, at most, but for those of a single sample."""
BUDGET_BYTES = 1 << 29
"""The bytes that all watched tensors of a process take at any time, at most."""
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Plan(Generic[S]):
    """What to run, and how much of it at a time.

    Attributes:
        at_once: how many runs the budget has room for at the same time.
    """

    task: Task[S]
    at_once: int

    @classmethod
    def of(
        cls, model: ir.Model, observers: Mapping[str, Observer[S]], first: Feed, budget: int
    ) -> Plan[S]:
        """The plan for tensors of the sizes that they have on the sample `first`.

        Smaller batches first; groups of tensors, in the order of the graph, only where those of
        a single sample do not fit. What the model sums up itself takes little room in a group, but
        counts in full for a batch, which has to be computed. The plan depends on nothing else, not
        on the machine either.
        """
        inferred = _inferred(model, first)
        sizes = _sizes(inferred, observers)
        total = sum(sizes.values())
        free = max(1, min(BATCH, min(budget, BATCH_BYTES) // max(total, 1)))
        batch, _ = batch_size(input_specs(model), free)
        observed = dict(_observed(model, inferred, observers))
        for name, observer in observed.items():
            if isinstance(observer, HistogramObserver) and observer.positions is not None:
                sizes[name] = observer.positions.count * FLOAT_BYTES
        groups = list(_groups(sizes, budget // batch))
        largest = batch * max(sum(sizes[name] for name in group) for group in groups)
        task = Task(tuple(observed.items()), tuple(groups), batch, _is_plain(inferred))
        return cls(task, budget // max(1, largest))


def _inferred(model: ir.Model, feed: Feed) -> ir.Model:
    """A copy of `model` with the shapes that its values have on `feed`, where they are certain."""
    copy = model.clone()
    forget_shapes(copy.graph)
    for value in copy.graph.inputs:
        if value.name in feed:
            value.shape = ir.Shape(feed[value.name].shape)
    for value in copy.graph.outputs:
        value.shape = None
    with suppress(GraphoptError):  # a graph written for another batch: its shapes stay unknown
        infer_shapes(copy)
    return copy


def _observed(
    model: ir.Model, inferred: ir.Model, observers: Mapping[str, Observer[S]]
) -> Iterator[tuple[str, Observer[Any]]]:
    """The observers, with positions where the model can sum the tensor up itself.

    Such tensors are of the same size in each sample, with the batch outermost, and not all of
    their values are counted.
    """
    fixed = all(
        spec.batched and all(isinstance(length, int) for length in spec.shape[1:])
        for spec in input_specs(model)
    )
    fixed = fixed and default_opset(model) >= LEAST_OPSET
    values = ir.convenience.create_value_mapping(inferred.graph)
    for name, observer in observers.items():
        value = values.get(name)
        if fixed and value is not None and isinstance(observer, HistogramObserver):
            yield name, HistogramObserver(_positions(value))
        else:
            yield name, observer


def _positions(value: ir.Value) -> Positions | None:
    """Those in one sample of `value`; None if it cannot be summed up or need not be."""
    shape = static_shape(value)
    if shape is None or value.dtype != ir.DataType.FLOAT or shape[:1] != (1,):
        return None
    if len(shape) == 4 and _is_map(value):
        positions = Positions.of_maps(*shape[1:])
    else:
        positions = Positions.of(math.prod(shape), 1)
    return None if positions.every else positions


_OF_MAPS = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool")


def _is_map(value: ir.Value) -> bool:
    """Whether its axes are batch, channels, height and width: its neighbours tell."""
    neighbours = [use.node for use in value.uses() if use.idx == 0]
    neighbours += [producer] if (producer := value.producer()) is not None else []
    return any(is_standard(node, *_OF_MAPS) for node in neighbours)


def _sizes(model: ir.Model, names: Mapping[str, object]) -> dict[str, int]:
    """The bytes of each tensor, in the order of the graph; unknown ones count as the largest."""
    values = ir.convenience.create_value_mapping(model.graph)
    order = [name for name in values if name in names]
    order += [name for name in names if name not in values]
    known = {name: _bytes(values[name]) for name in order if name in values}
    largest = max((size for size in known.values() if size is not None), default=1)
    return {name: largest if (size := known.get(name)) is None else size for name in order}


def _bytes(value: ir.Value) -> int | None:
    shape = static_shape(value)
    if shape is None:
        return None
    return math.prod(shape) * FLOAT_BYTES


def _groups(sizes: Mapping[str, int], budget: int) -> Iterator[tuple[str, ...]]:
    """Splits tensors, in order, into groups of at most `budget` bytes; of one where that fails."""
    group: list[str] = []
    used = 0
    for name, size in sizes.items():
        if group and used + size > budget:
            yield tuple(group)
            group, used = [], 0
        group.append(name)
        used += size
    if group:
        yield tuple(group)


_SMALL_FLOATS = (
    ir.DataType.FLOAT16,
    ir.DataType.BFLOAT16,
    ir.DataType.FLOAT8E4M3FN,
    ir.DataType.FLOAT8E4M3FNUZ,
    ir.DataType.FLOAT8E5M2,
    ir.DataType.FLOAT8E5M2FNUZ,
)


def _is_plain(model: ir.Model) -> bool:
    """Whether ONNX Runtime's rewrites change no more than the last bits of `model`'s numbers.

    They do where numbers are rounded on the way: it computes groups of quantized nodes in
    integers, and small floats in float32 if its rewrites let it.
    """
    if any("Linear" in n.op_type or n.op_type.endswith("Integer") for n in nodes_of(model)):
        return False
    values = ir.convenience.create_value_mapping(model.graph)
    return not any(value.dtype in _SMALL_FLOATS for value in values.values())
