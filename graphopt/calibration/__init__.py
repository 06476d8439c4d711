"""Calibration: what values the tensors of a model take on real samples, and which range to keep."""

from graphopt.calibration.collect import collect
from graphopt.calibration.histogram import Histogram
from graphopt.calibration.ranges import METHODS, choose_range, expected_squared_error

__all__ = ["METHODS", "Histogram", "choose_range", "collect", "expected_squared_error"]
