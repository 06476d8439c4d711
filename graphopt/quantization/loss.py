"""How much a tensor loses when it is quantized."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def sqnr_db(exact: Array, approximate: Array) -> float:
    """10 log10(sum x^2 / sum (x - y)^2), in float64; infinite where they are equal."""
    signal = exact.astype(np.float64)
    noise = float(np.square(signal - approximate.astype(np.float64)).sum())
    power = float(np.square(signal).sum())
    if noise == 0:
        return math.inf
    return 10 * math.log10(power / noise) if power else -math.inf
