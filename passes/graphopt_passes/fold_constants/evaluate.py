"""Evaluating constant nodes: moves of elements in numpy, the rest in ONNX Runtime, many at once."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir.facts import Facts
from graphopt.runtime.session import Session
from graphopt_passes.fold_constants.island import TYPES, Island, constant_type, constant_value
from graphopt_passes.fold_constants.moves import MOVES, move

# One session holds about this much of constants; a model may have many gigabytes.
BATCH_BYTES = 64 << 20
# Sessions to find the nodes that ONNX Runtime refuses; what is unclear by then is left alone.
MAX_SESSIONS = 256

_NO_KERNEL = "ONNX Runtime does not have it for these types"


class Evaluator:
    """Runs nodes whose inputs are all constant.

    Args:
        facts: what is known of the model's values.
    """

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._refused: set[object] = set()
        self._sessions = 0
        self.failed: dict[ir.Node, str] = {}
        """Nodes that could not be evaluated, and why (what follows "since"). They stay so."""

    def run(
        self,
        nodes: list[ir.Node],
        known: dict[ir.Value, np.ndarray],
        wanted: Iterable[ir.Value],
    ) -> dict[ir.Value, np.ndarray]:
        """The `wanted` outputs of `nodes`.

        Args:
            nodes: in topological order.
            known: arrays of what the nodes use, beside initializers and Constant nodes.

        Returns:
            The arrays; what could not be evaluated is missing, and its node is in `failed`.
        """
        targets = set(wanted)
        results = dict(known)
        rest = [node for node in nodes if not self._move(node, results)]
        batches = self._batches(rest, results)
        home = {node: i for i, batch in enumerate(batches) for node in batch}
        crossing = {
            value
            for node in rest
            for value in node.inputs
            if value is not None
            and (producer := value.producer()) in home
            and home[producer] != home[node]
        }
        for batch in batches:
            self._run(batch, targets | crossing, results)
        return {value: array for value, array in results.items() if value in targets}

    def _move(self, node: ir.Node, results: dict[ir.Value, np.ndarray]) -> bool:
        """Evaluates `node` if it only moves elements of what is known so far; whether it did."""
        if node.op_type not in MOVES:
            return False
        inputs: list[np.ndarray | None] = []
        for value in node.inputs:
            array = None if value is None else constant_value(value, results)
            if value is not None and array is None:
                return False
            inputs.append(array)
        moved = move(node, inputs, self._facts.opset)
        if moved is not None:
            results[node.outputs[0]] = moved
        return moved is not None

    def _run(
        self, nodes: list[ir.Node], wanted: set[ir.Value], results: dict[ir.Value, np.ndarray]
    ) -> None:
        nodes = self._runnable(nodes, results)
        outputs = [v for node in nodes for v in node.outputs if v in wanted]
        if not outputs:
            return
        if self._sessions >= MAX_SESSIONS:
            self.failed.update(dict.fromkeys(nodes, "too many others failed to be evaluated"))
            return
        self._sessions += 1
        island, started = Island(nodes, results, self._facts.opset), False
        try:
            session = Session(island.model(outputs), threads=1)
            started = True
            arrays = session.run(island.feed)
        except GraphoptError:
            self._divide(nodes, wanted, results, refused=not started)
            return
        for value in outputs:
            results[value] = np.asarray(arrays[island.name(value)])

    def _divide(
        self,
        nodes: list[ir.Node],
        wanted: set[ir.Value],
        results: dict[ir.Value, np.ndarray],
        *,
        refused: bool,
    ) -> None:
        """Finds the node that fails; all of its kind, if ONNX Runtime has no kernel for it."""
        if len(nodes) == 1:
            self.failed[nodes[0]] = _NO_KERNEL if refused else "it fails on these values"
            if refused:
                self._refused.add(self._kind(nodes[0]))
            return
        middle = len(nodes) // 2
        later = {value for node in nodes[middle:] for value in node.inputs if value is not None}
        self._run(nodes[:middle], wanted | later, results)
        self._run(nodes[middle:], wanted, results)

    def _runnable(self, nodes: list[ir.Node], results: dict[ir.Value, np.ndarray]) -> list[ir.Node]:
        runnable: list[ir.Node] = []
        ready: set[ir.Value] = set()
        for node in nodes:
            reason = self._why_not(node, ready, results)
            if reason is None:
                runnable.append(node)
                ready.update(node.outputs)
            else:
                self.failed[node] = reason
        return runnable

    def _why_not(
        self, node: ir.Node, ready: set[ir.Value], results: dict[ir.Value, np.ndarray]
    ) -> str | None:
        if node in self.failed:
            return self.failed[node]
        if self._refused and self._kind(node) in self._refused:
            return _NO_KERNEL
        for value in node.inputs:
            if value is None or value in ready:
                continue
            constant = constant_type(value, results)
            if constant is None:
                return "one of its inputs could not be evaluated"
            if constant[0] not in TYPES:
                return _NO_KERNEL
        return None

    def _kind(self, node: ir.Node) -> object:
        """What decides whether ONNX Runtime has a kernel for `node`."""
        inputs = tuple(self._facts.dtype(value) for value in node.inputs)
        return (node.op_type, inputs, tuple(self._facts.dtype(value) for value in node.outputs))

    def _batches(
        self, nodes: list[ir.Node], known: dict[ir.Value, np.ndarray]
    ) -> list[list[ir.Node]]:
        """Cuts `nodes` where a session would hold too much, and after float16 results.

        ONNX Runtime computes float16 in float32 and keeps that precision from one node to the
        next; what is folded must be rounded where the model says so.
        """
        levels: dict[ir.Node, int] = {}
        for node in nodes:
            sources = [v for v in node.inputs if v is not None and v.producer() in levels]
            levels[node] = max((self._level_after(v, levels) for v in sources), default=0)
        batches: list[list[ir.Node]] = []
        held: set[ir.Value] = set()
        total, level = 0, -1
        for node in sorted(nodes, key=levels.__getitem__):
            inputs = {v for v in node.inputs if v is not None} - held
            constants = [constant_type(v, known) for v in inputs]
            size = sum(constant[1] for constant in constants if constant is not None)
            if levels[node] != level or total + size > BATCH_BYTES:
                batches.append([])
                held, total, level = set(), 0, levels[node]
            batches[-1].append(node)
            held |= inputs
            total += size
        return batches

    def _level_after(self, value: ir.Value, levels: dict[ir.Node, int]) -> int:
        producer = value.producer()
        level = 0 if producer is None else levels[producer]
        return level + (self._facts.dtype(value) == ir.DataType.FLOAT16)
