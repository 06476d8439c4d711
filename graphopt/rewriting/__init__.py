"""Local rewrites of a graph: rules, and the engine that applies them until none fits."""

from graphopt.rewriting.engine import rewrite
from graphopt.rewriting.region import require_private
from graphopt.rewriting.rewriter import Rewriter
from graphopt.rewriting.rule import DeclinedError, Rule

__all__ = ["DeclinedError", "Rewriter", "Rule", "require_private", "rewrite"]
