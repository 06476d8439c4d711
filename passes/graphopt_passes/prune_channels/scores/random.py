"""Scores that mean nothing: what any idea has to beat."""

from __future__ import annotations

import numpy as np

from graphopt_passes.prune_channels.scores.task import Task


def random_scores(task: Task) -> dict[int, float]:
    """A number between 0 and 1 for each atom: always the same one for the same model."""
    numbers = np.random.default_rng(0).random(len(task.found.atoms))
    return {atom: float(numbers[atom]) for group in task.groups for atom in group.atoms.tolist()}
