"""A layer's outputs as a linear problem in its weights: rows, moments, least squares."""

from graphopt.reconstruction.columns import (
    Geometry,
    conv_matrix,
    conv_rows,
    conv_weight,
    matrix_rows,
)
from graphopt.reconstruction.constants import adder_behind, is_own, set_constant
from graphopt.reconstruction.evidence import Choice, Evidence, choose
from graphopt.reconstruction.linear import Linear, added_behind
from graphopt.reconstruction.moments import RIDGE, Moments
from graphopt.reconstruction.refitting import Refit, enough_rows
from graphopt.reconstruction.rounding import round_to_type, round_weights
from graphopt.reconstruction.sides import MAX_INPUTS, SideBySide
from graphopt.reconstruction.stream import Lives, Stream

__all__ = [
    "MAX_INPUTS",
    "RIDGE",
    "Choice",
    "Evidence",
    "Geometry",
    "Linear",
    "Lives",
    "Moments",
    "Refit",
    "SideBySide",
    "Stream",
    "added_behind",
    "adder_behind",
    "choose",
    "conv_matrix",
    "conv_rows",
    "conv_weight",
    "enough_rows",
    "is_own",
    "matrix_rows",
    "round_to_type",
    "round_weights",
    "set_constant",
]
