"""The pass: no-ops out first, then what nothing uses."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from graphopt.ir import replaced_operators
from graphopt.pipeline.base import PassResult
from graphopt_passes.eliminate_dead.noops import Types, bypass_noops
from graphopt_passes.eliminate_dead.unused import (
    Functions,
    remove_unused_functions,
    remove_unused_initializers,
    remove_unused_nodes,
)


def eliminate_dead(model: ir.Model) -> PassResult:
    """Removes what has no effect from `model`, in place; see `EliminateDead`."""
    rewrites: Counter[str] = Counter()
    foreign: list[ir.Node] = []
    types, functions = Types(model), Functions(model)
    replaced = replaced_operators(model)
    for graph in _roots(model):
        opset = _opset(graph, model)
        rewrites.update(bypass_noops(graph, opset, types, replaced))
        rewrites["unused-node"] += remove_unused_nodes(graph, functions, foreign)
    rewrites["unused-function"] += remove_unused_functions(model, functions)
    rewrites["unused-initializer"] += remove_unused_initializers(model)
    done = {name: count for name, count in sorted(rewrites.items()) if count}
    return PassResult(model, bool(done), done, _notes(foreign))


def _roots(model: ir.Model) -> list[ir.Graph | ir.Function]:
    return [model.graph, *model.functions.values()]


def _opset(graph: ir.Graph | ir.Function, model: ir.Model) -> int | None:
    """The version of the default domain in `graph`; None if it is not stated."""
    imports = graph.opset_imports or model.opset_imports
    return next((imports[domain] for domain in ("", "ai.onnx") if domain in imports), None)


def _notes(foreign: list[ir.Node]) -> tuple[str, ...]:
    if not foreign:
        return ()
    first = f"'{foreign[0].name}' ({foreign[0].domain}.{foreign[0].op_type})"
    count = f"{len(foreign)} nodes" if len(foreign) > 1 else "1 node"
    return (
        f"Kept {count} of unknown domains although nothing uses the outputs, since what else they "
        f"do is not known: {first}{' first' if len(foreign) > 1 else ''}.",
    )
