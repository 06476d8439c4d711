"""The facts of a model's values, found out as they are asked for.

A shape that a file records for an intermediate value is a claim: no runtime enforces it, and after
an edit of the inputs (a batch made dynamic, say) it is often stale. What a runtime does enforce is
the shape of the graph's inputs. So all others follow from those. Dimensions of inputs that have one
name are one number, as ONNX defines it and as runtimes assume when they plan memory; but a name
that says nothing ("?", "None") is used for unrelated ones. An element type that a file records is
right, since no runtime loads a model with wrong ones.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Sequence

import onnx_ir as ir

from graphopt.dimensions import UNKNOWN_DIMENSIONS
from graphopt.ir.facts.data_rules import DATA_RULES, Rule
from graphopt.ir.facts.dimension import Dim, Dims, Expr, symbol
from graphopt.ir.facts.fact import MAX_ITEMS, NOTHING, RANGES, Fact, Item, Operation
from graphopt.ir.facts.onnx_rules import OnnxRules
from graphopt.ir.facts.output_rules import OUTPUT_RULES, TYPE_RULES
from graphopt.ir.facts.shape_rules import SHAPE_RULES
from graphopt.ir.facts.window_rules import WINDOW_RULES
from graphopt.ir.query import (
    DEFAULT_DOMAINS,
    constant_tensor,
    default_opset,
    dims_of,
    replaced_operators,
    subgraphs,
)


class Facts:
    """What is certain about the values of `model`; see `Fact`.

    A fact stays true as long as its value goes on to mean the same: passes that change what a value
    is must make a new value, or tell with `forget`. Functions are read by the model's opset: theirs
    may be another one only if it has the same versions of the operators in them.
    """

    def __init__(self, model: ir.Model) -> None:
        self.opset = default_opset(model)
        self._replaced = replaced_operators(model)
        self._has_functions = bool(model.functions)
        self._known: dict[ir.Value, Fact] = {}
        self._unknowns = 0
        self._onnx = OnnxRules(self.opset, self._unknown)
        self.batch_symbols: set[str] = set()
        """The symbols that are the first dimension of an input."""
        for number, value in enumerate(model.graph.inputs):
            fact = self._known[value] = _input(value, number)
            if fact.dims and isinstance(fact.dims[0], Expr):
                self.batch_symbols.add(str(fact.dims[0].terms[0][0][0]))

    def __getitem__(self, value: ir.Value | None) -> Fact:
        if value is None:
            return NOTHING
        found = self._known.get(value)
        return self._find(value) if found is None else found

    def dtype(self, value: ir.Value | None) -> ir.DataType | None:
        return self[value].dtype

    def dims(self, value: ir.Value | None) -> Dims | None:
        return self[value].dims

    def rank(self, value: ir.Value | None) -> int | None:
        dims = self[value].dims
        return None if dims is None else len(dims)

    def forget(self, value: ir.Value) -> None:
        """Drops the fact of `value`, which has changed. Those of what depends on it stay."""
        self._known.pop(value, None)

    def renew(self, nodes: Iterable[ir.Node]) -> None:
        """Finds out anew about the outputs of `nodes`, which have come to compute the same values
        in another way, and so about what depends on those of which that tells something else.

        That may be less than before. But so another run, which does not know the former way, finds
        out the same.
        """
        pending = deque(nodes)
        waiting = set(pending)
        while pending:
            node = pending.popleft()
            waiting.discard(node)
            oldest = self._unknowns
            before = {value: self._known.pop(value, None) for value in node.outputs}
            for value, fact in before.items():
                if fact is None or node.graph is None:
                    continue
                if _is_renamed(self[value], fact, oldest):
                    self._known[value] = fact
                    continue
                users = dict.fromkeys(use.node for use in value.uses())
                pending.extend(user for user in users if user not in waiting)
                waiting.update(users)

    def reconsider(self, value: ir.Value) -> None:
        """Drops the fact of `value` if its shape is not known: another node makes it now."""
        known = self._known.get(value)
        if known is not None and known.dims is None:
            del self._known[value]

    def refine(self) -> None:
        """Drops what was not wholly known, since more has become constant."""
        self._known = {
            value: fact
            for value, fact in self._known.items()
            if value.is_graph_input() or fact.is_complete
        }

    def _find(self, wanted: ir.Value) -> Fact:
        """Without recursion, since chains of nodes are long."""
        known = self._known
        stack = [wanted]
        while stack:
            value = stack[-1]
            if value in known:
                stack.pop()
                continue
            node = value.producer()
            if node is None or node.op_type == "Constant":
                leaf = _leaf(value)
                if leaf is not None:
                    known[value] = leaf
                    continue
            assert node is not None
            waiting = len(stack)
            for source in node.inputs:
                if source is not None and source not in known:
                    stack.append(source)
            if node.op_type in _BRANCHING:
                for graph in subgraphs(node):
                    stack.extend(source for source in graph.outputs if source not in known)
            if len(stack) == waiting:
                self._infer(node)
        return known[wanted]

    def _infer(self, node: ir.Node) -> None:
        facts = self._apply(node) or ()
        for index, value in enumerate(node.outputs):
            fact = facts[index] if index < len(facts) else NOTHING
            self._known[value] = _with_declared_type(fact, value) if fact.dtype is None else fact

    def _apply(self, node: ir.Node) -> Sequence[Fact] | None:
        op = node.op_type
        if node.domain not in DEFAULT_DOMAINS or op in self._replaced or node.overload:
            return None
        if self._has_functions and any(a.is_ref() for a in node.attributes.values()):
            return None
        if op in _BRANCHING:
            return self._control_flow(node)
        known = self._known
        facts = [NOTHING if value is None else known[value] for value in node.inputs]
        operation = Operation(node, self.opset, facts, self._unknown)
        for rule in RULES.get(op, ()):
            fact = rule(operation)
            if fact is not None:
                return (fact,)
        several = OUTPUT_RULES.get(op)
        found = None if several is None else several(operation)
        if found is not None or (node.attributes and next(subgraphs(node), None) is not None):
            return found
        return self._onnx.infer(operation)

    def _unknown(self) -> Expr:
        self._unknowns += 1
        return symbol(f"?{self._unknowns}")

    def _control_flow(self, node: ir.Node) -> list[Fact] | None:
        bodies = [[self._known[v] for v in graph.outputs] for graph in subgraphs(node)]
        if node.op_type == "Loop":  # the first output of the body is the condition
            return [Fact(fact.dtype) for fact in bodies[0][1:]] if bodies else None
        if len(bodies) != 2 or len(bodies[0]) != len(bodies[1]):
            return None
        return [_common(*pair) for pair in zip(*bodies, strict=True)]


def _rules() -> dict[str, tuple[Rule, ...]]:
    """The rules of each operator, in the order in which they are tried."""
    rules: dict[str, tuple[Rule, ...]] = {}
    for table in (DATA_RULES, SHAPE_RULES, WINDOW_RULES, TYPE_RULES):
        for operator, rule in table.items():
            rules[operator] = (*rules.get(operator, ()), rule)
    return rules


RULES = _rules()
_BRANCHING = frozenset({"If", "Loop"})


_UNKNOWN = re.compile(r"\?(\d+)")


def _is_renamed(fact: Fact, former: Fact, oldest: int) -> bool:
    """Whether `fact` is `former`, but for the names of unknown sizes that came after `oldest`."""
    if fact == former:
        return True
    one, other = (_UNKNOWN.split(repr(each)) for each in (fact, former))
    if one[::2] != other[::2]:
        return False
    pairs = set(zip(one[1::2], other[1::2], strict=True))
    if any(int(new) <= oldest and new != old for new, old in pairs):
        return False
    return len(pairs) == len({new for new, _ in pairs}) == len({old for _, old in pairs})


def _input(value: ir.Value, number: int) -> Fact:
    if not isinstance(value.type, ir.TensorType):
        return NOTHING
    if value.shape is None:
        return Fact(value.type.dtype)
    dims: list[Dim] = []
    for axis, dim in enumerate(value.shape):
        if isinstance(dim, int):
            dims.append(dim if dim >= 0 else symbol(f"input{number}[{axis}]"))
        elif dim.value is None or dim.value in UNKNOWN_DIMENSIONS:
            dims.append(symbol(f"input{number}[{axis}]"))
        else:
            dims.append(symbol(f"'{dim.value}'"))
    return Fact(value.type.dtype, tuple(dims))


def _leaf(value: ir.Value) -> Fact | None:
    """A constant, or an input of a subgraph or function; None if a node computes it."""
    tensor = constant_tensor(value)
    if tensor is None:
        return _with_declared_type(NOTHING, value) if value.producer() is None else None
    dtype = tensor.dtype
    dims = dims_of(tensor)
    items: tuple[Item, ...] | None = None
    if dtype in RANGES and len(dims) <= 1 and tensor.size <= MAX_ITEMS:
        items = tuple(map(int, tensor.numpy().reshape(-1).tolist()))
    return Fact(dtype, dims, items)


def _with_declared_type(fact: Fact, value: ir.Value) -> Fact:
    if fact.dtype is not None or not isinstance(value.type, ir.TensorType):
        return fact
    return Fact(value.type.dtype, fact.dims, fact.items)


def _common(one: Fact, other: Fact) -> Fact:
    """What holds of a value that is either of two."""
    return Fact(
        one.dtype if one.dtype == other.dtype else None,
        one.dims if one.dims == other.dims else None,
    )
