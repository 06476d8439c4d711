"""Turning the heads of attention so that little of what they do is in most of their channels.

A product of two activations, Q K', stays the same if Q becomes Q A and K becomes K inverse(A)', for
any invertible A: the channels that it sums over have no basis of their own. The same goes for what
attention makes of V and the layer that reads it. So the layers that make Q, K and V are rewritten,
head by head, into the basis in which the channels carry their shares of the product one by one, in
descending order: the last ones are then cut at the least cost that any subspace of that size has.
It is the singular value decomposition of the product over the calibration data (SliceGPT, Ashkboos
et al. 2024, turns the residual stream so). Nothing but rounding changes before the cut.

A head is only turned if its channels are on their way moved and scaled as a whole, and nothing else
reads them: rotary embeddings, norms of Q and K and sharing of K by several heads leave it as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphopt.data.feeds import Samples
from graphopt.ir import Names, constant_array, is_standard, sole_use
from graphopt.progress import Progress
from graphopt.runtime.tap import require_finite, tap
from graphopt_passes.prune_channels.atoms import Labels
from graphopt_passes.prune_channels.labelling import Labelling, Layer
from graphopt_passes.prune_channels.moving import End, Ids, follow
from graphopt_passes.prune_channels.scores import batch_within, out_channel_axis
from graphopt_passes.prune_channels.scores.task import TAP_BYTES
from graphopt_passes.prune_channels.weights import LayerWeights

Array: TypeAlias = "NDArray[Any]"

LEAST = 1e-6
"""The least energy of a direction, relative to the mean or to the greatest: less is rounding."""


def turn_heads(
    model: ir.Model, found: Labelling, samples: Samples, limit: int, progress: Progress
) -> int:
    """Rewrites, in place, the layers around each product of activations that can be turned.

    Returns:
        How many products were; if any, `found` has to be made anew.

    Raises:
        GraphoptError: if one of their factors is NaN or infinite on the samples.
    """
    numbers = [
        number
        for number, node in enumerate(model.graph)
        if is_standard(node, "MatMul")
        and all(v is not None and v.name in found.labels for v in node.inputs)
    ]
    if not numbers:
        return 0
    makers = Makers(model, found)
    products = []
    for number in numbers:
        product = _scores(makers, number) or _values(makers, number)
        if product is not None:
            products.append(product)
    if not products:
        return 0
    names = list(dict.fromkeys(name for product in products for name in product.names))
    taps = tap(
        model, names, samples, batch=batch_within(found, names, TAP_BYTES), limit=limit,
        progress=progress, description="turning heads",
    )  # fmt: skip
    for values in taps:
        for name, array in values.items():
            require_finite(name, array)
        for product in products:
            product.add([values[name].astype(np.float64) for name in product.names])
    for product in products:
        product.turn(makers)
    makers.write(Names(model))
    return len(products)


class Makers:
    """The layers whose weights may be rewritten, and where the channels that they make end."""

    def __init__(self, model: ir.Model, found: Labelling) -> None:
        self.found = found
        self.nodes = list(model.graph)
        self._places = {id(node): number for number, node in enumerate(self.nodes)}
        self._layers: dict[int, tuple[Layer, LayerWeights]] = {}
        self._owner: list[tuple[int, int]] = []
        """Of each channel that is made (its id is its place here): the layer's node, the column."""
        self._changed: dict[int, tuple[Array, Array]] = {}
        self._ends: dict[tuple[int, int], Ids] = {}
        for layer in found.layers:
            weights = LayerWeights(self.nodes[layer.node], layer)
            if layer.groups == 1 and weights.declines() is None:
                self._layers[layer.node] = layer, weights
                columns = range(len(layer.out_labels))
                self._owner += [(layer.node, column) for column in columns]
        self._readers = np.zeros(len(self._owner), dtype=np.int64)
        first = 0
        for layer, weights in self._layers.values():
            ids = first + np.arange(len(layer.out_labels))
            first += len(ids)
            for end in self.follow(weights.sum, ids, out_channel_axis(layer)):
                self._readers[np.unique(end.ids)] += 1
                self._ends[self._number(end), end.index] = end.ids

    def follow(self, value: ir.Value, ids: Ids, axis: int) -> list[End]:
        """Where `ids`, those of the channels on `axis` of a value, end."""
        shape = self.found.facts.shapes[str(value.name)]
        along = ids.reshape([-1 if a == axis else 1 for a in range(len(shape))])
        return follow(self.found, value, np.broadcast_to(along, shape))

    def factor(self, number: int, index: int, channel: int) -> Lay | None:
        """How the channels of a factor of a product lie, if they are made and read only for it."""
        ids = self._ends.get((number, index))
        if ids is None:
            return None
        lay = Lay.of(ids, channel % ids.ndim)
        own = len(np.unique(lay.ids)) == lay.ids.size and (self._readers[lay.ids] == 1).all()
        return lay if own else None

    def reader(self, end: End) -> Layer | None:
        """The layer that reads at `end`, if one row of its weight is for each channel."""
        layer, weights = self._layers.get(self._number(end), (None, None))
        if layer is None or weights is None or end.index != 0:
            return None
        simple = weights.array.size == len(layer.in_labels) * len(layer.out_labels)
        return layer if simple else None

    def make(self, ids: Ids, turn: Array) -> None:
        """Has channels `ids` hold what they held, as a row, times `turn`."""
        number = self._owner[ids[0]][0]
        columns = [self._owner[channel][1] for channel in ids]
        for array in self.weights(number):
            array[:, columns] = array[:, columns] @ turn

    def is_one_layer(self, ids: Ids) -> bool:
        return len({self._owner[channel][0] for channel in ids}) == 1

    def weights(self, number: int) -> tuple[Array, Array]:
        """Of the layer that is node `number`, to be changed: [inputs, outputs] and [1, outputs]."""
        if number not in self._changed:
            weights = self._layers[number][1]
            self._changed[number] = weights.matrix()[0].copy(), weights.offset().copy()
        return self._changed[number]

    def write(self, names: Names) -> None:
        """Makes the changes; `names` are those of the model."""
        for number, (matrix, offset) in sorted(self._changed.items()):
            weights = self._layers[number][1]
            weights.write(names, matrix[None], offset - weights.behind())

    def _number(self, end: End) -> int:
        return self._places.get(id(end.node), -1)


@dataclass(frozen=True)
class Lay:
    """How the channels of heads lie in a tensor.

    Attributes:
        axes: those that tell heads apart, ascending.
        channel: the axis of the channels of a head.
        ids: [heads, channels].
    """

    axes: tuple[int, ...]
    channel: int
    ids: Ids

    @classmethod
    def of(cls, ids: Ids, channel: int) -> Lay:
        others = (axis for axis in range(ids.ndim) if axis != channel)
        axes = tuple(axis for axis in others if (ids != np.take(ids, [0], axis)).any())
        kept = (*axes, channel)
        one = ids[tuple(slice(None if axis in kept else 1) for axis in range(ids.ndim))]
        return cls(axes, channel, cls(axes, channel, ids).rows(one)[:, 0])

    def rows(self, array: Array) -> Array:
        """A value as [heads, rows, channels]."""
        last = array.ndim - 1
        moved = np.moveaxis(array, (*self.axes, self.channel), (*range(len(self.axes)), last))
        heads = int(np.prod([array.shape[axis] for axis in self.axes], initial=1))
        return moved.reshape(heads, -1, array.shape[self.channel])


@dataclass
class _Scores:
    """Q K': both factors are turned."""

    names: tuple[str, ...]
    query: Lay
    key: Lay
    centred: bool
    """Whether it does not matter what is added to a row of scores: a Softmax is behind."""
    squares: tuple[Array | float, Array | float] = (0.0, 0.0)

    def add(self, values: list[Array]) -> None:
        query, key = values
        if self.centred:
            key = key - key.mean(axis=-1, keepdims=True)
        rows = self.query.rows(query), self.key.rows(key)
        first, second = (np.swapaxes(part, 1, 2) @ part for part in rows)
        self.squares = self.squares[0] + first, self.squares[1] + second

    def turn(self, makers: Makers) -> None:
        pairs = zip(self.query.ids, self.key.ids, *map(np.asarray, self.squares), strict=True)
        for query, key, first, second in pairs:
            turn, inverse = _basis(_factor(first), _factor(second))
            makers.make(query, turn)
            makers.make(key, inverse.T)


@dataclass
class _Values:
    """What attention makes of V, and the layer that reads it."""

    names: tuple[str, ...]
    value: Lay
    output: Lay
    reader: int
    rows: Ids
    """The row of the reader's weight for each channel of each head: [heads, channels]."""
    count: int = 0
    sums: Array | float = 0.0
    squares: Array | float = 0.0

    def add(self, values: list[Array]) -> None:
        rows = self.output.rows(values[0])
        self.count += rows.shape[1]
        self.sums = self.sums + rows.sum(axis=1)
        self.squares = self.squares + np.swapaxes(rows, 1, 2) @ rows

    def turn(self, makers: Makers) -> None:
        sums = np.asarray(self.sums)
        means = sums[:, :, None] * sums[:, None, :] / max(self.count, 1)
        matrix, _ = makers.weights(self.reader)
        for value, rows, squares in zip(
            self.value.ids, self.rows, self.squares - means, strict=True
        ):
            turn, inverse = _basis(_factor(squares), matrix[rows])
            makers.make(value, turn)
            matrix[rows] = inverse @ matrix[rows]


def _factor(squares: Array) -> Array:
    """The lower triangular F with F F' = `squares` and, for it to exist, a little more."""
    mean = float(np.trace(squares)) / len(squares)
    return np.asarray(np.linalg.cholesky(squares + (LEAST * mean or 1.0) * np.eye(len(squares))))


def _basis(factor: Array, other: Array) -> tuple[Array, Array]:
    """The turn A of channels of covariance F F' that are multiplied by `other`, and its inverse.

    Behind A, channels do not correlate, and `other` is orthogonal: their shares of the product are
    those of its singular values, in descending order, half of each on either side.
    """
    product = factor.T @ other
    energy, left = np.linalg.eigh(product @ product.T)
    energy, left = energy[::-1], left[:, ::-1]
    scale = np.maximum(energy, LEAST**2 * energy[0] or 1.0) ** 0.25
    return np.linalg.solve(factor.T, left) * scale, (left.T @ factor.T) / scale[:, None]


def _scores(makers: Makers, number: int) -> _Scores | None:
    node = makers.nodes[number]
    names = tuple(str(value.name) for value in node.inputs if value is not None)
    labels = makers.found.labels[names[0]][-1]
    query, key = makers.factor(number, 0, -1), makers.factor(number, 1, -2)
    if query is None or key is None or not _is_free(makers.found, labels):
        return None
    heads = query.ids.shape == key.ids.shape
    if not heads or query.axes != key.axes or not _are_whole(makers, query, key):
        return None
    return _Scores(
        names,
        query,
        key,
        _is_softmax_behind(node.outputs[0], len(makers.found.facts.shapes[names[0]])),
    )


def _values(makers: Makers, number: int) -> _Values | None:
    node = makers.nodes[number]
    output = node.outputs[0]
    name, value = str(output.name), makers.factor(number, 1, -1)
    if value is None or name not in makers.found.labels or not _are_whole(makers, value):
        return None
    labels, shape = makers.found.labels[name][-1], makers.found.facts.shapes[name]
    if not _is_free(makers.found, labels) or len(shape) != value.channel + 1:
        return None
    # What the product gives is numbered anew, head by head, channel by channel.
    sizes = [
        shape[axis] if axis in (*value.axes, value.channel) else 1 for axis in range(len(shape))
    ]
    fresh = np.arange(value.ids.size, dtype=np.int64)
    if int(np.prod(sizes)) != fresh.size:
        return None
    ids = np.broadcast_to(fresh.reshape(sizes), shape)
    ends = follow(makers.found, output, ids)
    reader = makers.reader(ends[0]) if len(ends) == 1 else None
    if reader is None:
        return None
    read = Lay.of(ends[0].ids, reader.x_axis).ids
    if read.shape != (1, fresh.size) or len(np.unique(read)) != fresh.size:
        return None
    rows = np.argsort(read[0]).reshape(value.ids.shape)
    return _Values((name,), value, Lay.of(ids, value.channel), reader.node, rows)


def _is_free(found: Labelling, labels: Labels) -> bool:
    return len(found.atoms.free(labels)) > 0


def _are_whole(makers: Makers, *factors: Lay) -> bool:
    """Whether one layer makes all channels of a head, for each head."""
    return all(makers.is_one_layer(ids) for factor in factors for ids in factor.ids)


def _is_softmax_behind(value: ir.Value, rank: int) -> bool:
    """Whether `value`, scaled or with something added, goes to a Softmax over its last axis."""
    use = sole_use(value)
    while use is not None and is_standard(use, "Add", "Mul", "Div"):
        others = [v for v in use.inputs if v is not None and v is not value]
        one = [constant_array(other) for other in others]
        scaled = len(one) == 1 and one[0] is not None and one[0].size == 1
        if not scaled and use.op_type != "Add":
            return False
        value = use.outputs[0]
        use = sole_use(value)
    if use is None or not is_standard(use, "Softmax"):
        return False
    axis = use.attributes.get_int("axis", 0)  # what is left out means another axis before opset 13
    return axis == -1 or axis == rank - 1
