"""How rules change a graph."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from graphopt.ir import (
    Names,
    add_constant,
    drop_unused_initializer,
    sole_use,
    subgraphs,
    take_over,
)
from graphopt.pipeline.base import PassContext
from graphopt.rewriting.questions import Questions

Attributes = Mapping[str, Any]

# Constants up to this are not made twice.
SHARED_BYTES = 1 << 14

# The users of a value that has lost one are looked at again if they are no more than these.
FEW_USERS = 4


class Rewriter(Questions):
    """The graph in the hands of rules: what they ask of it, and all the changes that they make.

    Args:
        touched: is told of each node around which something changes.
    """

    def __init__(
        self, model: ir.Model, context: PassContext, touched: Callable[[ir.Node], None]
    ) -> None:
        super().__init__(model, context)
        self._touched = touched
        self._rewritten: dict[ir.Node, None] = {}
        self._names: Names | None = None
        self._made: dict[Hashable, tuple[ir.Value, ir.TensorProtocol | None]] = {}

    def fresh(self, base: str) -> str:
        """A name that nothing in the model has."""
        if self._names is None:
            self._names = Names(self.model)
        return self._names.fresh(base)

    def constant(self, data: np.ndarray, base: str, before: ir.Node) -> ir.Value:
        """A constant, named after `base`, that `before` and the nodes after it can use.

        An initializer of this graph that these rewrites made of the same bytes is used again.
        """
        data = np.asarray(data)  # numpy makes scalars of arrays without dimensions
        if data.nbytes > SHARED_BYTES:
            return add_constant(self.model, self.fresh(base), data, before)
        key = (before.graph, data.dtype, data.shape, data.tobytes())
        made, tensor = self._made.get(key, (None, None))
        if made is not None and made.is_initializer() and made.const_value is tensor:
            return made
        value = add_constant(self.model, self.fresh(base), data, before)
        self._made[key] = value, value.const_value
        return value

    def insert(
        self,
        before: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Attributes | None = None,
        *,
        base: str | None = None,
    ) -> ir.Value:
        """The output of a new node right ahead of `before`, in its graph.

        Args:
            base: what its names begin with; the name of the first output of `before` if left out.
        """
        return self.insert_node(before, op_type, inputs, attributes, base=base).outputs[0]

    def insert_node(
        self,
        anchor: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Attributes | None = None,
        *,
        base: str | None = None,
        outputs: int = 1,
        after: bool = False,
    ) -> ir.Node:
        """A new node right ahead of `anchor`, or right `after` it; see `insert`."""
        graph = anchor.graph
        if graph is None:
            raise ValueError(f"node '{anchor.name}' is in no graph")
        base = base or f"{anchor.outputs[0].name}_{op_type.lower()}"
        node = self._new(op_type, inputs, attributes, base, outputs)
        if after:
            graph.insert_after(anchor, node)
        else:
            graph.insert_before(anchor, node)
        self._touched(node)
        return node

    def insert_behind(
        self,
        value: ir.Value,
        graph: ir.Graph | ir.Function,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Attributes | None = None,
        *,
        outputs: int = 1,
    ) -> ir.Node:
        """A new node as early in `graph` as `value` is there, its names after that of `value`.

        That is right behind the node that makes it, or at the start of the graph. Of the `inputs`
        none may be made later than `value`.
        """
        producer = value.producer()
        behind = producer is not None and producer.graph is graph
        anchor = producer if behind and producer is not None else graph[0]
        return self.insert_node(
            *(anchor, op_type, inputs, attributes),
            base=f"{value.name}_{op_type.lower()}",
            outputs=outputs,
            after=behind,
        )

    def compute(
        self,
        before: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value],
        attributes: Attributes | None = None,
        *,
        by: Callable[..., np.ndarray],
    ) -> ir.Value:
        """`insert`, or, where all inputs are constants, a constant that `by` makes of them."""
        arrays = [self.array(value) for value in inputs]
        if any(array is None for array in arrays):
            return self.insert(before, op_type, inputs, attributes)
        base = f"{inputs[0].name}_{op_type.lower()}"
        result = self.constant(np.array(by(*arrays)), base, before)
        for value in inputs:
            self.release(value)
        return result

    def _new(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Attributes | None,
        base: str,
        outputs: int,
    ) -> ir.Node:
        given = ir.convenience.convert_attributes(attributes or {})
        node = ir.Node("", op_type, inputs, given, num_outputs=outputs)
        for value in node.outputs:
            value.name = self.fresh(base)
        node.name = node.outputs[0].name
        return node

    def become(
        self,
        node: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Attributes | None = None,
    ) -> None:
        """Turns `node` into another operator that gives the same values in its first output.

        Its name and output stay; further outputs go, so nothing may use them. What it used and
        nothing uses any more is removed.
        """
        if not self.is_lone(node):
            raise ValueError(f"further outputs of node '{node.name}' are used")
        old = node.inputs
        node.op_type, node.domain, node.overload = op_type, "", ""
        node.resize_outputs(1)
        node.attributes.clear()
        node.attributes.update(
            {a.name: a for a in ir.convenience.convert_attributes(attributes or {})}
        )
        node.resize_inputs(len(inputs))
        for index, value in enumerate(inputs):
            if node.inputs[index] is not value:
                node.replace_input_with(index, value)
        self.facts.reconsider(node.outputs[0])
        self._around(node)
        for value in old:
            self.release(value)

    def set_input(self, node: ir.Node, index: int, value: ir.Value | None) -> None:
        """Makes `value` input `index` of `node`, which must not change what `node` gives."""
        old = node.inputs[index] if index < len(node.inputs) else None
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        node.replace_input_with(index, value)
        self._around(node)
        self.release(old)

    def replace(self, old: ir.Value, new: ir.Value) -> bool:
        """Makes every use of `old` a use of the equal value `new`; whether it could.

        It cannot if `old` is a graph output and `new` is an input, a constant, another output, or
        in another graph. The node of `old` goes if nothing else uses it.
        """
        users = [use.node for use in old.uses()]
        if not take_over(old, new):
            return False
        for user in users:
            self._rewritten[user] = None
            self._touched(user)
        producer = new.producer()
        if producer is not None:
            self._touched(producer)
        self._touch_producers(users)
        self.release(old)
        return True

    def replace_constant(self, node: ir.Node, index: int, data: np.ndarray, base: str) -> None:
        """Makes `data` the constant input `index` of `node`; what other nodes share stays.

        An initializer that only `node` uses keeps its name; any other gets one after `base`.
        """
        old = node.inputs[index] if index < len(node.inputs) else None
        if old is not None and old.is_initializer() and self._is_own(old, node):
            old.const_value = ir.Tensor(data, name=old.name)
            old.shape, old.type = ir.Shape(data.shape), ir.TensorType(old.const_value.dtype)
            self.facts.forget(old)
            self._around(node)
            return
        self.set_input(node, index, self.constant(data, base, node))

    def _is_own(self, value: ir.Value, node: ir.Node) -> bool:
        """Whether the initializer `value` is a constant that only `node` uses."""
        own = not value.is_graph_input() and sole_use(value) is node
        return own and value.graph is node.graph

    def release(self, value: ir.Value | None) -> None:
        """Removes what makes `value` if nothing uses it, and so on upwards."""
        pending = [value]
        while pending:
            value = pending.pop()
            if value is None:
                continue
            users = value.uses()
            if 0 < len(users) <= FEW_USERS:  # they may have it for themselves now
                for user in users:
                    self._touched(user.node)
            if users or value.is_graph_output():
                continue
            node = value.producer()
            if node is None:
                drop_unused_initializer(value)
            elif node.graph is not None and self._is_unused(node):
                pending.extend(node.inputs)
                node.graph.remove(node, safe=True)

    def _is_unused(self, node: ir.Node) -> bool:
        """Whether `node` can go: one that ONNX defines, nothing of which is used."""
        if any(value.uses() or value.is_graph_output() for value in node.outputs):
            return False
        return onnx.defs.has(node.op_type, node.domain) and next(subgraphs(node), None) is None

    def renew_facts(self) -> None:
        """Finds out anew about what has come to be computed in another way."""
        self.facts.renew(self._rewritten)
        self._rewritten.clear()

    def _around(self, node: ir.Node) -> None:
        self._rewritten[node] = None
        self._touched(node)
        for value in node.outputs:
            for use in value.uses():
                self._touched(use.node)
        self._touch_producers([node])

    def _touch_producers(self, nodes: Sequence[ir.Node]) -> None:
        for node in nodes:
            for value in node.inputs:
                producer = None if value is None else value.producer()
                if producer is not None:
                    self._touched(producer)
