"""The pass: nodes first, then the functions and initializers that those have used."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graphopt.pipeline.base import PassResult
from graphopt_passes.eliminate_dead.unused import (
    Functions,
    Sweep,
    remove_unused_functions,
    remove_unused_initializers,
)


def eliminate_dead(model: ir.Model) -> PassResult:
    """Removes what has no effect from `model`, in place; see `EliminateDead`."""
    functions = Functions(model)
    sweep = Sweep(functions)
    sweep.remove_unused_nodes(model.graph)
    for function in model.functions.values():
        sweep.remove_unused_nodes(function)
    rewrites = {
        "unused-function": remove_unused_functions(model, functions),
        "unused-initializer": remove_unused_initializers(sweep.graphs),
        "unused-node": sweep.count,
    }
    done = {name: count for name, count in rewrites.items() if count}
    return PassResult(model, bool(done), done, _notes(sweep.foreign))


def _notes(foreign: Sequence[ir.Node]) -> tuple[str, ...]:
    if not foreign:
        return ()
    first = f"'{foreign[0].name}' ({foreign[0].domain}.{foreign[0].op_type})"
    count = f"{len(foreign)} nodes" if len(foreign) > 1 else "1 node"
    return (
        f"Kept {count} of unknown domains although nothing uses the outputs, since what else they "
        f"do is not known: {first}{' first' if len(foreign) > 1 else ''}.",
    )
