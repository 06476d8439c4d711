"""Calls of the model's own functions."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir import walk
from graphopt.ir.query import DEFAULT_DOMAINS
from graphopt.rewriting import DeclinedError
from graphopt_passes.inline.splice import Part, Splicer, emptied

# Functions that call functions twice, and so on, grow beyond all bounds.
_MOST_NODES = 100_000

_Key = tuple[str, str, str]


class Calls:
    """The functions of `model`, and what takes the place of calls of them."""

    def __init__(self, model: ir.Model, splicer: Splicer) -> None:
        self._model = model
        self._splicer = splicer
        self._functions = {_key(*name): function for name, function in model.functions.items()}
        self._versions = _versions(model.opset_imports)
        self._sizes: dict[_Key, int] = {}
        self._obstacles: dict[_Key, str | None] = {}

    def function(self, node: ir.Node) -> ir.Function | None:
        """The function that `node` calls, if it calls one."""
        if not self._functions:
            return None
        return self._functions.get(_key(node.domain, node.op_type, node.overload))

    def expand(self, node: ir.Node) -> list[ir.Node]:
        """Puts the body of the function in place of the call `node`; the nodes that are new there.

        Raises:
            DeclinedError: if that cannot be done.
            GraphoptError: if the function calls itself.
        """
        function = self.function(node)
        if function is None:
            raise ValueError(f"node '{node.name}' calls no function")
        self._check(node, function)
        self._splicer.require_identity(node)
        self._import(function)
        self._splicer.release(node)
        prefix = f"{node.name or node.op_type}/"
        body = function.clone()
        given = {**_defaults(function), **node.attributes}
        for inner in walk(body):
            _resolve(inner, given)
            inner.metadata_props.update({**node.metadata_props, **inner.metadata_props})
        actual = dict(zip(body.inputs, _arguments(node, function), strict=True))
        results = [actual.get(value, value) for value in body.outputs]
        nodes = emptied(body.graph)
        for value, argument in actual.items():
            for user, index in value.uses():
                user.replace_input_with(index, argument)
        return self._splicer.splice(node, [Part(nodes, prefix)], results)

    def _check(self, node: ir.Node, function: ir.Function) -> None:
        """Raises DeclinedError if the call must stay."""
        name = _key(*function.identifier())
        if self._size(name, ()) > _MOST_NODES:
            raise DeclinedError(f"inlined it would be more than {_MOST_NODES:,} nodes")
        if name not in self._obstacles:
            self._obstacles[name] = self._obstacle(function)
        reason = self._obstacles[name]
        if reason is not None:
            raise DeclinedError(reason)
        if len(node.inputs) > len(function.inputs) or len(node.outputs) > len(function.outputs):
            raise DeclinedError("it has more inputs or outputs than the function")
        given = {**_defaults(function), **node.attributes}
        if any(a.type in _GRAPHS and not a.is_ref() for a in given.values()):
            raise DeclinedError("a graph is passed to the function as an attribute")
        arguments = dict(zip(function.inputs, _arguments(node, function), strict=True))
        for value in function.outputs:
            if value in arguments and arguments[value] is None:
                raise DeclinedError(f"input '{value.name}' is left out, but also an output")
        for inner in walk(function):
            for attribute in inner.attributes.values():
                if attribute.is_ref() and attribute.ref_attr_name not in given:
                    self._check_optional(function, inner, attribute)

    def _check_optional(self, function: ir.Function, node: ir.Node, attribute: ir.Attr) -> None:
        """Raises DeclinedError if `node` cannot do without `attribute`, which is not given."""
        version = _versions(function.opset_imports).get(_norm(node.domain))
        known = version is not None and onnx.defs.has(node.op_type, version, node.domain)
        required = node.op_type == "Constant"
        if known and version is not None and not required:
            schema = onnx.defs.get_schema(node.op_type, version, node.domain)
            declared = schema.attributes.get(attribute.name)
            required = declared is not None and declared.required
        if required:
            raise DeclinedError(f"attribute '{attribute.ref_attr_name}' is not given")

    def _size(self, name: _Key, callers: tuple[_Key, ...]) -> int:
        """The nodes of the function once all that it calls is inlined."""
        if name in callers:
            cycle = " -> ".join(_text(key) for key in (*callers[callers.index(name) :], name))
            raise GraphoptError(
                f"a function calls itself: {cycle}",
                fix="ONNX has no recursion; export the model without it",
            )
        if name not in self._sizes:
            size = 0
            for node in walk(self._functions[name]):
                key = _key(node.domain, node.op_type, node.overload)
                size += self._size(key, (*callers, name)) if key in self._functions else 1
            self._sizes[name] = size
        return self._sizes[name]

    def _obstacle(self, function: ir.Function) -> str | None:
        """Why no call of `function` can be inlined, if so."""
        imports = _versions(function.opset_imports)
        for node in walk(function):
            domain = _norm(node.domain)
            if _key(node.domain, node.op_type, node.overload) in self._functions:
                continue
            inside, outside = imports.get(domain), self._versions.get(domain)
            if inside is None or outside is None or inside == outside:
                continue
            if not _same_operator(node, inside, outside):
                return (
                    f"{node.op_type} of opset {inside}, which the function '{function.name}' is "
                    f"written in, is not that of opset {outside}, which the model uses"
                )
        return None

    def _import(self, function: ir.Function) -> None:
        for domain, version in function.opset_imports.items():
            if _norm(domain) not in self._versions:
                self._model.opset_imports[domain] = version
                self._versions[_norm(domain)] = version


_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _norm(domain: str) -> str:
    return "" if domain in DEFAULT_DOMAINS else domain


def _key(domain: str, name: str, overload: str) -> _Key:
    return (_norm(domain), name, overload)


def _text(key: _Key) -> str:
    return ".".join(part for part in key if part)


def _versions(imports: Mapping[str, int]) -> dict[str, int]:
    return {_norm(domain): version for domain, version in imports.items()}


def _defaults(function: ir.Function) -> dict[str, ir.Attr]:
    return {name: a for name, a in function.attributes.items() if a.value is not None}


def _arguments(node: ir.Node, function: ir.Function) -> list[ir.Value | None]:
    """The inputs of the call, None for those left out."""
    return [*node.inputs, *[None] * (len(function.inputs) - len(node.inputs))]


def _same_operator(node: ir.Node, version: int, other: int) -> bool:
    domain = _norm(node.domain)
    if not all(onnx.defs.has(node.op_type, v, domain) for v in (version, other)):
        return False
    one, two = (onnx.defs.get_schema(node.op_type, v, domain) for v in (version, other))
    return bool(one.since_version == two.since_version)


def _resolve(node: ir.Node, given: Mapping[str, ir.Attr]) -> None:
    """Puts what is `given` for the parameters of the function in place of references to them."""
    for name, attribute in list(node.attributes.items()):
        if not attribute.is_ref():
            continue
        actual = given.get(attribute.ref_attr_name or "")
        if actual is None:
            del node.attributes[name]
        else:
            node.attributes[name] = ir.Attr(
                name, actual.type, actual.value, doc_string=attribute.doc_string
            )
