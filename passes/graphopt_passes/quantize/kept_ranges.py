"""The ranges that a run chose, in a file for the next one."""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.calibration import Histogram, Range
from graphopt.calibration.range_file import TensorRange, save_ranges
from graphopt.pipeline.base import PassContext
from graphopt.quantization import get_format
from graphopt.targets.quantization import Numbers
from graphopt_passes.quantize.grids import Grid
from graphopt_passes.quantize.quantizer import Quantized, Quantizer


def keep_ranges(
    quantizer: Quantizer,
    quantized: Quantized,
    histograms: Mapping[str, Histogram],
    method: str,
    context: PassContext,
) -> tuple[str, ...]:
    """Writes the file of ranges that the context names, if it names one; a note on that.

    A file that is there already was read, and stays as it is.
    """
    path = context.ranges
    if path is None:
        return ()
    if quantizer.has_read_ranges:
        return (f"the ranges are those of {path}",)
    ranges = {
        str(value.name): TensorRange(
            covered(grid, quantizer.rules.numbers), method, histograms[str(value.name)].size
        )
        for value, grid in quantized.grids.items()
        if str(value.name) in histograms
    }
    save_ranges(path, quantizer.model, ranges)
    return (f"{len(ranges)} ranges written to {path}",)


def covered(grid: Grid, numbers: Numbers) -> Range:
    """The range of which `grids.grid_of` makes `grid` again."""
    least, greatest = get_format(numbers.data).limits
    scale, zero = float(grid.scale), float(grid.zero_point)
    if numbers.symmetric:
        return Range(-scale * greatest, scale * greatest)
    return Range(scale * (least - zero), scale * (greatest - zero))
