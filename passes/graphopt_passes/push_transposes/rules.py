"""The rules, in the order in which they are tried."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.rewriting import Rewriter, Rule
from graphopt_passes.push_transposes.perms import inverse, is_identity
from graphopt_passes.push_transposes.rebuild import Rebuild
from graphopt_passes.push_transposes.region import Region, perm_of


def push_transposes(node: ir.Node, at: Rewriter) -> bool:
    """Does without as many Transposes around `node` as can be done without.

    What is behind it may do without it; or what is ahead of it may come out in its layout.
    """
    perm, graph = perm_of(node, at), node.graph
    if perm is None or graph is None or is_identity(perm):
        return False
    for value, missing in ((node.outputs[0], perm), (node.inputs[0], inverse(perm))):
        if value is None or at.is_constant(value):
            continue
        region = Region(at, graph)
        region.grow(value, missing)
        chosen = region.best() if region.nodes or region.ends else None
        if chosen is not None:
            Rebuild(region, chosen, at).run()
            return True
    return False


RULES: tuple[Rule, ...] = (Rule("push-transposes", ("Transpose",), push_transposes),)
