"""Which nodes give the same result whenever they get the same inputs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

import onnx
import onnx_ir as ir

from graphopt.ir import subgraphs
from graphopt.ir.query import DEFAULT_DOMAINS
from graphopt.ir.structure import attribute_key

_KNOWN_DOMAINS = (*DEFAULT_DOMAINS, "ai.onnx.ml")

# Two inputs of these may change places; the second group's only if they are integers, since the
# larger of 0.0 and -0.0 may be either.
_COMMUTE = frozenset(
    {"Add", "Mul", "Sum", "And", "Or", "Xor", "Equal", "BitwiseAnd", "BitwiseOr", "BitwiseXor"}
)
_COMMUTE_AS_INTEGERS = frozenset({"Max", "Min"})

# onnx calls these non-deterministic because of what they may contain.
_CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})

_GRAPHS = (onnx.defs.OpSchema.AttrType.GRAPH, onnx.defs.OpSchema.AttrType.GRAPHS)

# Before, an attribute told how the second input is broadcast to the first.
_BROADCASTING_BOTH_WAYS = 7


@dataclass(frozen=True)
class Operator:
    """An operator that always gives the same."""

    defaults: Mapping[str, Hashable] = field(default_factory=dict)
    """The keys of the attributes' default values."""
    commutes: bool = False
    as_integers: bool = False
    """Whether it commutes for integers only."""
    has_graphs: bool = False
    """Whether its attributes may be graphs."""


class Operators:
    """The operators that the nodes of one graph or function, and its subgraphs, mean."""

    def __init__(
        self,
        model: ir.Model,
        root: ir.Graph | ir.Function,
        known: dict[ir.OperatorIdentifier, bool] | None = None,
    ) -> None:
        self._model = model
        self._versions = _versions(root.opset_imports or model.opset_imports)
        self._pure_functions = {} if known is None else known
        self._found: dict[ir.OperatorIdentifier, Operator | None] = {}

    def of(self, node: ir.Node) -> Operator | None:
        """The operator of `node`; None if it may give another result each time, or is not known."""
        operator = self._lookup(node)
        if operator is None or not operator.has_graphs:
            return operator
        return operator if all(map(self._is_pure, subgraphs(node))) else None

    def has_graphs(self, node: ir.Node) -> bool:
        """Whether `node` may have graphs in its attributes."""
        operator = self._lookup(node)
        return operator is None or operator.has_graphs

    def _lookup(self, node: ir.Node) -> Operator | None:
        key = (node.domain, node.op_type, node.overload)
        if key not in self._found:
            self._found[key] = self._find(key)
        return self._found[key]

    def _is_pure(self, graph: ir.Graph) -> bool:
        return all(self.of(node) is not None for node in graph)

    def _find(self, key: ir.OperatorIdentifier) -> Operator | None:
        domain, name, overload = key
        domain = "" if domain in DEFAULT_DOMAINS else domain
        function = self._function(domain, name, overload)
        if function is not None:
            return Operator(has_graphs=True) if self._is_pure_function(function) else None
        version = self._versions.get(domain)
        if domain not in _KNOWN_DOMAINS or overload or version is None:
            return None
        if not onnx.defs.has(name, version, domain):
            return None
        schema = onnx.defs.get_schema(name, version, domain)
        determinism = schema.node_determinism  # type: ignore[attr-defined]  # not in the stubs
        random = determinism == onnx.defs.OpSchema.NodeDeterminism.NonDeterministic
        if schema.deprecated or (random and (domain or name not in _CONTROL_FLOW)):
            return None
        both_ways = not domain and version >= _BROADCASTING_BOTH_WAYS
        return Operator(
            _defaults(schema),
            both_ways and name in _COMMUTE | _COMMUTE_AS_INTEGERS,
            name in _COMMUTE_AS_INTEGERS,
            any(a.type in _GRAPHS for a in schema.attributes.values()),
        )

    def _function(self, domain: str, name: str, overload: str) -> ir.Function | None:
        domains = DEFAULT_DOMAINS if not domain else (domain,)
        found = (self._model.functions.get((d, name, overload)) for d in domains)
        return next((function for function in found if function is not None), None)

    def _is_pure_function(self, function: ir.Function) -> bool:
        key, known = function.identifier(), self._pure_functions
        if key not in known:
            known[key] = False  # of one that calls itself nothing is known
            operators = Operators(self._model, function, known)
            known[key] = all(operators.of(node) is not None for node in function)
        return known[key]


def _versions(imports: Mapping[str, int]) -> dict[str, int]:
    return {"" if d in DEFAULT_DOMAINS else d: version for d, version in imports.items()}


def _defaults(schema: onnx.defs.OpSchema) -> dict[str, Hashable]:
    defaults: dict[str, Hashable] = {}
    for name, attribute in schema.attributes.items():
        if attribute.default_value.type:
            key = attribute_key(ir.serde.deserialize_attribute(attribute.default_value))
            if key is not None:
                defaults[name] = key
    return defaults
