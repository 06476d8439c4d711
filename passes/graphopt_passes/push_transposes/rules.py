"""The rules, in the order in which they are tried."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.rewriting import Rewriter, Rule
from graphopt_passes.push_transposes.perms import is_identity
from graphopt_passes.push_transposes.rebuild import Rebuild
from graphopt_passes.push_transposes.region import Region, perm_of


def push_transposes(node: ir.Node, at: Rewriter) -> bool:
    """Does without as many Transposes around `node` as can be done without."""
    perm, graph = perm_of(node, at), node.graph
    if perm is None or graph is None or is_identity(perm):
        return False
    region = Region(at, graph)
    region.grow(node.outputs[0], perm)
    if not region.nodes and not region.ends:
        return False
    chosen = region.best()
    if chosen is None:
        return False
    Rebuild(region, chosen, at).run()
    return True


RULES: tuple[Rule, ...] = (Rule("push-transposes", ("Transpose",), push_transposes),)
