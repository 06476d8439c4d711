"""Metrics over labelled data. Each takes the outputs and the labels; higher is better."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from graphopt.errors import GraphoptError

Metric: TypeAlias = "Callable[[np.ndarray[Any, Any], np.ndarray[Any, Any]], float]"


def top1(outputs: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> float:
    """The percentage of samples whose largest output is the labelled class.

    Args:
        outputs: [samples, classes], any float or integer type. A NaN never counts as a hit.
        labels: [samples], integers.
    """
    if outputs.ndim != 2 or labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise GraphoptError(
            f"top1 takes outputs [samples, classes] and integer labels [samples], but got "
            f"{list(outputs.shape)} and {labels.dtype} {list(labels.shape)}"
        )
    hits = (outputs.argmax(axis=1) == labels) & ~np.isnan(outputs).any(axis=1)
    return float(hits.mean() * 100)


METRICS: dict[str, Metric] = {"top1": top1}
