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
        labels: [samples], integers from 0 on.

    Raises:
        GraphoptError: if shapes or dtypes do not fit, or a label is no class of the output.
    """
    fits = outputs.ndim == 2 and labels.ndim == 1 and len(outputs) == len(labels)
    if not fits or outputs.dtype.kind not in "fiuV" or labels.dtype.kind not in "iu":
        raise GraphoptError(
            "top1 takes numbers [samples, classes] and integer labels [samples], but the output "
            f"is {outputs.dtype} {list(outputs.shape)} and the labels are "
            f"{labels.dtype} {list(labels.shape)}"
        )
    strange = labels[(labels < 0) | (labels >= outputs.shape[1])]
    if strange.size:
        raise GraphoptError(
            f"label {strange[0]} is none of the {outputs.shape[1]} classes of the output",
            fix="number the classes from 0, in the order of the output",
        )
    numbers = outputs.astype(np.float64)
    hits = (numbers.argmax(axis=1) == labels) & ~np.isnan(numbers).any(axis=1)
    return float(hits.mean() * 100)


METRICS: dict[str, Metric] = {"top1": top1}
