"""How much each channel matters: one function per idea, one entry point.

A score is only compared with those of the same group. Where an idea says nothing of a group, its
fallback scores the whole group, and a note says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from graphopt.pipeline.base import PassContext
from graphopt_passes.prune_channels.groups import Group, is_scored
from graphopt_passes.prune_channels.labelling import Labelling
from graphopt_passes.prune_channels.scores.activation import activation_scores
from graphopt_passes.prune_channels.scores.bn import bn_scores
from graphopt_passes.prune_channels.scores.magnitude import l1_scores, l2_scores
from graphopt_passes.prune_channels.scores.obs import obs_scores
from graphopt_passes.prune_channels.scores.random import random_scores
from graphopt_passes.prune_channels.scores.task import (
    Task,
    batch_within,
    is_depthwise,
    out_channel_axis,
)
from graphopt_passes.prune_channels.scores.taylor import taylor_scores

if TYPE_CHECKING:
    from graphopt_passes.prune_channels import PruneChannels

__all__ = ["SCORES", "Idea", "Scores", "batch_within", "is_depthwise", "out_channel_axis", "score"]


@dataclass(frozen=True)
class Idea:
    """A way to score. `function` gives atoms their scores; a group that it leaves out, or of which
    it leaves out an atom, gets those of `fallback`."""

    function: Callable[[Task], dict[int, float]]
    fallback: str | None = None


SCORES = {
    "activation": Idea(activation_scores),
    "bn": Idea(bn_scores, fallback="l2"),
    "l1": Idea(l1_scores),
    "l2": Idea(l2_scores, fallback="l1"),
    "obs": Idea(obs_scores, fallback="activation"),
    "random": Idea(random_scores),
    "taylor": Idea(taylor_scores, fallback="activation"),
}


class Scores(dict[int, float]):
    """A score for each atom, scaled so that those of one group have mean 1.

    Attributes:
        raw: as they were measured, by atom. Of two groups with the same idea (see `notes`) those of
            `activation`, `obs` and `taylor` can be compared: they are shares of the energy of what
            reads the channels (summed over the readers), or changes of the loss.
        notes: sentences for the user.
    """

    def __init__(self, raw: dict[int, float], groups: list[Group], notes: list[str]) -> None:
        self.raw = raw
        self.notes = tuple(notes)
        super().__init__(raw)
        for group in groups:
            atoms = group.atoms.tolist()
            if is_scored(group, raw):
                largest = max(abs(raw[atom]) for atom in atoms) or 1.0
                total = sum(raw[atom] / largest for atom in atoms)  # which cannot overflow
                scale = len(atoms) / total if total > 0 else 0.0
                self.update({atom: raw[atom] / largest * scale for atom in atoms})


def score(
    options: PruneChannels,
    model: ir.Model,
    found: Labelling,
    groups: list[Group],
    context: PassContext,
) -> Scores:
    """Scores the atoms of `groups` by the idea that `options.score` names.

    Raises:
        GraphoptError: if what the idea measures is NaN or infinite on the calibration data, or
            if it has nothing to say of any group (`bn` where there is no BatchNormalization).
    """
    if not groups:
        return Scores({}, [], [])
    samples, limit = context.calibration, options.samples
    task = Task(model, found, groups, samples, limit, context.progress)
    name: str | None = options.score
    raw = SCORES[options.score].function(task)
    while name is not None and SCORES[name].fallback is not None:
        missing = [g for g in groups if any(atom not in raw for atom in g.atoms.tolist())]
        if not missing:
            break
        name = SCORES[name].fallback
        assert name is not None
        task.tell_fallback(missing, name)
        other = SCORES[name].function(task)
        for group in missing:
            atoms = group.atoms.tolist()
            raw.update({atom: other[atom] for atom in atoms if atom in other})
    return Scores(raw, groups, task.notes)
