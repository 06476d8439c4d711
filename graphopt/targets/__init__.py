"""What a model may be meant to run on, as data."""

from graphopt.targets.pace import Pace
from graphopt.targets.table import Target, get_target, target_names

__all__ = ["Pace", "Target", "get_target", "target_names"]
