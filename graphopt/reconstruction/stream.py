"""The values of a model over all samples, computed a stretch of nodes at a time.

Layers are visited in order. What the nodes ahead still need is held in memory, so that each node
runs once over the samples; where that would take too much memory, the stretch since the last place
where it did not is run again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from graphopt.data.feeds import Feed
from graphopt.ir import Parts, is_standard, main_inputs, reads, stretch
from graphopt.runtime.session import Session


class Stream:
    """Runs `model` forward. Weights of nodes that have not been passed may change meanwhile.

    Nothing else of it may: what is known of its nodes is found out once.
    """

    def __init__(
        self,
        model: ir.Model,
        feeds: Callable[[], Iterator[Feed]],
        *,
        budget: int,
    ) -> None:
        """Starts before the first node.

        Args:
            feeds: gives the batches of samples, the same ones each time.
            budget: bytes that may be held between two calls.
        """
        self._parts = Parts(model)
        self._lives = Lives(model)
        self._inputs = [str(value.name) for value in main_inputs(model)]
        self._feeds = feeds
        self._budget = budget
        self._held: list[Feed] | None = None

    def values(self, node: ir.Node, name: str, *, after: bool) -> Iterator[np.ndarray]:
        """The value `name` for each batch.

        Args:
            node: a node of the model, not before that of an earlier call.
            name: an input of `node`, or (after) an output.
            after: whether `node` itself has run then.
        """
        if not self._move(sorted({*self._lives.needed(node, after), name})):
            for feed in self._run([name]):
                yield feed[name]
            return
        assert self._held is not None
        for feed in self._held:
            yield feed[name]

    def pass_to(self, node: ir.Node, wanted: Collection[str] = ()) -> bool:
        """Moves to right before `node`; False if what is needed from there on cannot be held.

        Args:
            wanted: values that are asked for there, whether or not a node reads them.
        """
        return self._move(sorted(self._lives.needed(node, after=False, wanted=wanted)))

    def ahead(
        self, names: Sequence[str], free: Sequence[str] = ()
    ) -> Callable[[int, Feed], Feed] | None:
        """A function that computes values further on, from where the stream is, for one batch.

        Args:
            names: values that are computed behind here.
            free: initializers that the function is given anew each time, as its second argument;
                the first is the number of the batch.

        Returns:
            The function, or None if nothing is held: then it would have to start from the inputs.
        """
        held = self._held
        if held is None:
            return None
        session = Session(self._parts.stretch([*held[0], *free], list(names), self._types()))

        def run(number: int, given: Feed) -> Feed:
            feed = {**held[number], **given}
            return session.run({name: feed[name] for name in session.inputs})

        return run

    def continued(self, model: ir.Model, names: Sequence[str]) -> Iterator[Feed]:
        """The values `names` of another model for each batch, computed from where the stream is.

        Args:
            model: the same up to there but for what it has no use for, and what it reads from
                there on has the same names.
            names: those that are computed before have to be `wanted` by `pass_to`.
        """
        there = ir.convenience.create_value_mapping(model.graph)
        known = [name for name in (self._held[0] if self._held else self._inputs) if name in there]
        session = Session(stretch(model, known, names, self._types()))
        for feed in self._source():
            yield session.run({name: feed[name] for name in session.inputs})

    def _move(self, names: list[str]) -> bool:
        """Holds the values `names`, and no others; whether they fit."""
        if self._held is None or any(key not in self._held[0] for key in names):
            held = self._hold(names)
            if held is None:
                return False
            self._held = held
        self._held = [{key: feed[key] for key in names} for feed in self._held]
        return True

    def _hold(self, names: Sequence[str]) -> list[Feed] | None:
        """The values `names` for all batches, or None if they cannot be held."""
        held: list[Feed] = []
        size = 0
        for feed in self._run(names):
            if not all(isinstance(value, np.ndarray) for value in feed.values()):
                return None
            size += sum(array.nbytes for array in feed.values())
            if size > self._budget:
                return None
            held.append(feed)
        return held

    def _run(self, names: Sequence[str]) -> Iterator[Feed]:
        known = list(self._held[0]) if self._held else self._inputs
        wanted = [name for name in names if name not in known]
        session = Session(self._parts.stretch(known, wanted, self._types())) if wanted else None
        for feed in self._source():
            computed = {}
            if session is not None:
                computed = session.run({name: feed[name] for name in session.inputs})
            yield {name: computed[name] if name in computed else feed[name] for name in names}

    def _types(self) -> dict[str, ir.TypeProtocol]:
        held = self._held[0] if self._held else {}
        return {
            name: ir.TensorType(ir.DataType.from_numpy(array.dtype)) for name, array in held.items()
        }

    def _source(self) -> Iterator[Feed]:
        if self._held is not None:
            yield from self._held
            return
        yield from self._feeds()


class Lives:
    """From where to where in a model each value is needed that is not the same for each batch.

    It stays right while the nodes stay and read the same, but for constants.
    """

    def __init__(self, model: ir.Model) -> None:
        self._places = {node: place for place, node in enumerate(model.graph)}
        self._made: dict[str | None, int] = {value.name: -1 for value in main_inputs(model)}
        last: dict[str | None, int] = {}
        for node, place in self._places.items():
            last |= {value.name: place for value in reads(node) if value.name in self._made}
            if not _is_fixed(node, self._made):
                self._made |= {value.name: place for value in node.outputs}
        self._names = [str(name) for name in last]
        self._first = np.array([self._made[name] for name in last], dtype=int)
        self._last = np.array(list(last.values()), dtype=int)

    def needed(self, node: ir.Node, after: bool, wanted: Collection[str] = ()) -> set[str]:
        """What is there before `node`, or when it has run, and is read later, or among `wanted`."""
        place = self._places[node] + after
        read = np.flatnonzero((self._first < place) & (place <= self._last))
        there = {name for name in wanted if self._made.get(name, place) < place}
        return {self._names[index] for index in read} | there


def _is_fixed(node: ir.Node, varying: Container[str | None]) -> bool:
    """Whether `node` gives the same for each batch: a weight, perhaps in other words.

    It is not held but computed again where it is read, for weights may change.
    """
    if is_standard(node, "Constant"):
        return True
    return is_standard(node, *_REWORDING) and not any(v.name in varying for v in node.inputs if v)


_REWORDING = ("Cast", "DequantizeLinear", "Gather", "Reshape", "Transpose")
