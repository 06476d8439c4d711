"""What a model may be meant to run on, as data."""

from graphopt.targets.table import Target, get_target, target_names

__all__ = ["Target", "get_target", "target_names"]
