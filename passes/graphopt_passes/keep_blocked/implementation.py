"""What `keep-blocked` does."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import onnx_ir as ir

from graphopt.pipeline.base import Analyses, PassContext, PassResult
from graphopt.rewriting import rewrite
from graphopt_passes.keep_blocked.padding import pad_channels
from graphopt_passes.keep_blocked.rules import RULES

if TYPE_CHECKING:
    from graphopt_passes.keep_blocked import KeepBlocked


def keep_blocked(options: KeepBlocked, model: ir.Model, context: PassContext) -> PassResult:
    """Runs the pass; see `KeepBlocked`."""
    if not context.target.blocked_channels:
        note = f"the target '{context.target.name}' has no blocked layout"
        return PassResult(model, False, notes=(note,))
    if not options.pad:
        return rewrite(model, context, RULES)
    padding = pad_channels(model, context)
    if not padding.groups:
        result = rewrite(model, context, RULES)
        return replace(result, notes=padding.notes)
    result = rewrite(model, replace(context, analyses=Analyses()), RULES)  # shapes are others now
    rewrites = {"padded-group": padding.groups, **result.rewrites}
    return replace(result, modified=True, rewrites=rewrites, notes=padding.notes)
