"""Calibration: what values the tensors of a model take on real samples, and which range to keep."""

from graphopt.calibration.collect import collect
from graphopt.calibration.error import expected_squared_error, expected_squared_error_between
from graphopt.calibration.histogram import Histogram
from graphopt.calibration.ranges import METHODS, Range, choose_range

__all__ = [
    "METHODS",
    "Histogram",
    "Range",
    "choose_range",
    "collect",
    "expected_squared_error",
    "expected_squared_error_between",
]
