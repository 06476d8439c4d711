"""Calibration: what values the tensors of a model take on real samples, and which range to keep."""

from graphopt.calibration.channels import Channels
from graphopt.calibration.collect import collect, collect_channels
from graphopt.calibration.error import expected_squared_error, expected_squared_error_between
from graphopt.calibration.histogram import Histogram
from graphopt.calibration.ranges import METHODS, Range, choose_range

__all__ = [
    "METHODS",
    "Channels",
    "Histogram",
    "Range",
    "choose_range",
    "collect",
    "collect_channels",
    "expected_squared_error",
    "expected_squared_error_between",
]
