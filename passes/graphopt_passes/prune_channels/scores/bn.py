"""The scale of BatchNormalization."""

from __future__ import annotations

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.ir import is_standard
from graphopt_passes.prune_channels.groups import is_scored
from graphopt_passes.prune_channels.scores.task import Task


def bn_scores(task: Task) -> dict[int, float]:
    """For each atom the sum of |gamma| over the BatchNormalizations that scale its channels.

    Liu et al. 2017, "Learning Efficient Convolutional Networks through Network Slimming". It means
    most where training kept gamma small by an L1 penalty, as there.

    Raises:
        GraphoptError: if no group has a gamma.
    """
    scores: dict[int, float] = {}
    for slot in task.found.slots:
        for number, index in slot.uses:
            node = task.nodes[number]
            if index == 1 and is_standard(node, "BatchNormalization"):
                gamma = task.constant(node.inputs[1])
                if gamma is not None:
                    task.add(scores, slot.labels[0], np.abs(gamma))
    if not any(is_scored(group, scores) for group in task.groups):
        raise GraphoptError(
            "score=bn needs the scales of BatchNormalizations, but no channels that can be cut "
            "have one: they may be folded into the weights",
            where="prune-channels",
            fix="prune before BatchNormalizations are folded (by the exporter, or by the pass "
            "fuse-affine), or take another score",
        )
    reason = "no BatchNormalization scales its channels"
    task.declined = {group.name: reason for group in task.groups}
    return scores
