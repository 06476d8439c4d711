"""A layer's outputs as a linear problem in its weights: rows, moments, least squares."""

from graphopt.reconstruction.columns import (
    Geometry,
    conv_matrix,
    conv_rows,
    conv_weight,
    matrix_rows,
)
from graphopt.reconstruction.constants import adder_behind, is_own, set_constant
from graphopt.reconstruction.moments import RIDGE, Moments
from graphopt.reconstruction.refitting import Refit, enough_rows
from graphopt.reconstruction.rounding import round_weights
from graphopt.reconstruction.stream import Stream, needed_from, stretch

__all__ = [
    "RIDGE",
    "Geometry",
    "Moments",
    "Refit",
    "Stream",
    "adder_behind",
    "conv_matrix",
    "conv_rows",
    "conv_weight",
    "enough_rows",
    "is_own",
    "matrix_rows",
    "needed_from",
    "round_weights",
    "set_constant",
    "stretch",
]
