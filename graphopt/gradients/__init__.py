"""Reverse mode: gradients of a model's outputs with respect to what its nodes read."""

from graphopt.gradients.backward import Backward, Edge
from graphopt.gradients.call import Call, Rule
from graphopt.gradients.rules import RULES

__all__ = ["RULES", "Backward", "Call", "Edge", "Rule"]
