"""What a rule is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from graphopt.rewriting.rewriter import Rewriter


class DeclinedError(Exception):
    """A near miss: a pattern that is there but must not be rewritten.

    The message is the reason, as half a sentence that follows "kept: ".
    """


@dataclass(frozen=True)
class Rule:
    """A rewrite that starts at nodes of certain operators of the default domain.

    `apply` gets such a node and the `Rewriter`, through which it asks and changes everything. It
    returns whether it has changed the graph. It raises DeclinedError, having changed nothing, where
    a user who reads the graph would expect the rewrite to happen.

    `apply` must look at a bounded number of nodes around its own, and must not fit its own result.
    """

    name: str
    """In kebab-case; what the report counts."""
    operators: tuple[str, ...]
    apply: Callable[[ir.Node, Rewriter], bool]
    needs: tuple[str, ...] = ()
    """Operators of which every match holds one: a model without any is not searched. Not such as
    other rules of the same pass make. () if there are none to name."""
