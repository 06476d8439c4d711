"""Number formats, and the arithmetic of QuantizeLinear and DequantizeLinear in numpy."""

from graphopt.quantization.arithmetic import (
    dequantize,
    expand,
    fake_quantize,
    parameter_shape,
    quantize,
)
from graphopt.quantization.formats import FORMATS, Format, get_format
from graphopt.quantization.loss import sqnr_db
from graphopt.quantization.scales import (
    DEAD_SCALE,
    affine_parameters,
    ranges,
    stored_scale,
    symmetric_scale,
)
from graphopt.quantization.search import mse_parameters

__all__ = [
    "DEAD_SCALE",
    "FORMATS",
    "Format",
    "affine_parameters",
    "dequantize",
    "expand",
    "fake_quantize",
    "get_format",
    "mse_parameters",
    "parameter_shape",
    "quantize",
    "ranges",
    "sqnr_db",
    "stored_scale",
    "symmetric_scale",
]
