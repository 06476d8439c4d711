"""The rules, in the order in which they are tried."""

from __future__ import annotations

from graphopt.rewriting import Rule
from graphopt_passes.collapse_chains.across import merge_across_transpose, merge_before_transpose
from graphopt_passes.collapse_chains.casts import merge_casts
from graphopt_passes.collapse_chains.gathers import (
    concat_of_gathers,
    gather_of_concat,
    gather_of_unsqueeze,
    merge_gathers,
    unsqueeze_of_gather,
)
from graphopt_passes.collapse_chains.inverses import (
    ROUNDING,
    drop_double_inverse,
    drop_repeated,
    drop_requantization,
    drop_sign_under_abs,
    swap_branches,
)
from graphopt_passes.collapse_chains.joins import (
    concat_of_parts,
    merge_concats,
    merge_expands,
    merge_pads,
    merge_tiles,
    split_of_concat,
)
from graphopt_passes.collapse_chains.ranges import RANGED, merge_ranges
from graphopt_passes.collapse_chains.slices import merge_slices, slice_of_concat
from graphopt_passes.collapse_chains.transposes import merge_transposes
from graphopt_passes.collapse_chains.views import ALL_VIEWS, VIEWS, merge_views

RULES: tuple[Rule, ...] = (
    Rule("merge-transposes", ("Transpose",), merge_transposes),
    Rule("merge-views", ALL_VIEWS, merge_views),
    Rule("merge-view-across-transpose", ("Squeeze", "Unsqueeze"), merge_across_transpose),
    Rule("merge-view-before-transpose", VIEWS, merge_before_transpose),
    Rule("merge-casts", ("Cast",), merge_casts),
    Rule("merge-slices", ("Slice",), merge_slices),
    Rule("slice-of-concat", ("Slice",), slice_of_concat),
    Rule("gather-of-unsqueeze", ("Gather",), gather_of_unsqueeze),
    Rule("gather-of-concat", ("Gather",), gather_of_concat),
    Rule("merge-gathers", ("Gather",), merge_gathers),
    Rule("unsqueeze-of-gather", ("Unsqueeze",), unsqueeze_of_gather),
    Rule("concat-of-gathers", ("Concat",), concat_of_gathers),
    Rule("concat-of-parts", ("Concat",), concat_of_parts),
    Rule("merge-concats", ("Concat",), merge_concats),
    Rule("split-of-concat", ("Split",), split_of_concat),
    Rule("merge-pads", ("Pad",), merge_pads),
    Rule("merge-expands", ("Expand",), merge_expands),
    Rule("merge-tiles", ("Tile",), merge_tiles),
    Rule("merge-ranges", RANGED, merge_ranges),
    Rule("drop-double-inverse", ("Not", "Neg", "BitwiseNot"), drop_double_inverse),
    Rule("drop-sign-under-abs", ("Abs",), drop_sign_under_abs),
    Rule("drop-repeated", ("Abs",), drop_repeated("Abs")),
    Rule("drop-repeated", ROUNDING, drop_repeated(*ROUNDING)),
    Rule("drop-repeated", ("Sign",), drop_repeated("Sign")),
    Rule("swap-branches", ("Where",), swap_branches),
    Rule("drop-requantization", ("QuantizeLinear",), drop_requantization),
)
