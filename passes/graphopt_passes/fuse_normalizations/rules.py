"""The rules, in the order in which they are tried."""

from __future__ import annotations

from graphopt.rewriting import Rule
from graphopt_passes.fuse_normalizations.groups import group_normalization
from graphopt_passes.fuse_normalizations.layers import (
    instance_normalization,
    layer_normalization,
    narrow,
    rms_normalization,
    split_normalization,
)
from graphopt_passes.fuse_normalizations.norms import (
    lp_normalization,
    reduce_of_elements,
    root_of_squares,
)
from graphopt_passes.fuse_normalizations.parameters import scale_into, shift_into

_ROOTS = ("Sqrt", "Pow")

RULES: tuple[Rule, ...] = (
    Rule("layer-normalization", ("Div", "Mul"), layer_normalization, _ROOTS),
    Rule("layer-normalization", ("Add",), split_normalization, _ROOTS),
    Rule("rms-normalization", ("Div", "Mul"), rms_normalization, _ROOTS),
    Rule("instance-normalization", ("Div", "Mul"), instance_normalization, _ROOTS),
    Rule("group-normalization", ("Reshape",), group_normalization),
    Rule("scale-of-normalization", ("Mul",), scale_into),
    Rule("bias-of-normalization", ("Add",), shift_into),
    Rule("normalization-in-half", ("Cast",), narrow),
    Rule("sum-of-elements", ("ReduceSum",), reduce_of_elements),
    Rule("root-of-squares", ("Sqrt",), root_of_squares),
    Rule("lp-normalization", ("Div",), lp_normalization),
)
