"""QuantizeLinear and DequantizeLinear in numpy, to the bit as ONNX defines them.

Each takes a scale for the whole tensor (no axis; shape [] or [1]), one for each index of an axis
(shape [n]), or one for each block of `block_size` along an axis, the last of which may be shorter
(the tensor's shape, with ceil(n / block_size) on that axis).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from graphopt.quantization.formats import Format

Array = np.ndarray[Any, Any]


def quantize(
    x: Array,
    scale: Array,
    zero_point: Array | None,
    format: Format,
    *,
    axis: int | None = None,
    block_size: int | None = None,
    limits: tuple[int, int] | None = None,
    precision: DTypeLike | None = None,
) -> Array:
    """saturate(round(x / scale) + zero_point), halves to the even integer; `format.dtype`.

    Infinities and overflow saturate. NaN becomes the least integer, as in ONNX Runtime and in the
    reference evaluator (ONNX says nothing); in fp8 it stays NaN. fp8 saturates to +-448, as
    QuantizeLinear does by default (`saturate=1`).

    Args:
        x: float32, float16 or bfloat16.
        scale: of the dtype of `x`, as ONNX demands below opset 23.
        zero_point: of `format.dtype` and the shape of `scale`; None for 0.
        limits: narrower limits than those of the format, such as `format.symmetric_limits`.
        precision: the dtype of the division; by default that of the scale. It is the attribute
            that QuantizeLinear has from opset 23. ONNX Runtime always divides in float32.

    Raises:
        ValueError: for shapes or dtypes that do not fit.
    """
    scale = np.asarray(scale)
    if precision is None and scale.dtype != x.dtype:
        raise ValueError(f"the scale is {scale.dtype}, the tensor {x.dtype}")
    wide = np.dtype(scale.dtype if precision is None else precision)
    divisor = expand(scale, x.shape, axis, block_size)
    least, greatest = format.limits if limits is None else limits
    with np.errstate(divide="ignore", over="ignore", under="ignore", invalid="ignore"):
        steps = np.divide(x.astype(wide, copy=False), divisor.astype(wide, copy=False))
        if format.is_float:
            _require_zero(zero_point, format)
            return np.asarray(np.clip(steps, wide.type(least), wide.type(greatest))).astype(
                format.dtype
            )
        # float32 holds every float16 and bfloat16, and every sum that does not saturate.
        values = np.asarray(np.rint(steps.astype(np.float32, copy=False)))
        if zero_point is not None:
            values += _offset(zero_point, format, scale.shape, x.shape, axis, block_size)
        values = np.fmin(np.fmax(values, np.float32(least)), np.float32(greatest))
    return _as_integers(values, format)


def dequantize(
    q: Array,
    scale: Array,
    zero_point: Array | None,
    format: Format,
    *,
    axis: int | None = None,
    block_size: int | None = None,
) -> Array:
    """(q - zero_point) * scale, computed in float32 and given in the dtype of `scale`.

    Args:
        q: of `format.dtype`.
        scale: float32, float16 or bfloat16.
        zero_point: of `format.dtype` and the shape of `scale`; None for 0.

    Raises:
        ValueError: for shapes or dtypes that do not fit.
    """
    scale = np.asarray(scale)
    if q.dtype != format.dtype:
        raise ValueError(f"the integers are {q.dtype}, not {format.dtype}")
    values = q.astype(np.float32)
    if format.is_float:
        _require_zero(zero_point, format)
    elif zero_point is not None:
        values -= _offset(zero_point, format, scale.shape, q.shape, axis, block_size)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        values *= expand(scale, q.shape, axis, block_size).astype(np.float32, copy=False)
        return np.asarray(values.astype(scale.dtype, copy=False))


def fake_quantize(
    x: Array,
    scale: Array,
    zero_point: Array | None,
    format: Format,
    *,
    axis: int | None = None,
    block_size: int | None = None,
    limits: tuple[int, int] | None = None,
    precision: DTypeLike | None = None,
) -> Array:
    """What `x` is after `quantize` and `dequantize`, in the dtype of the scale."""
    q = quantize(
        x,
        scale,
        zero_point,
        format,
        axis=axis,
        block_size=block_size,
        limits=limits,
        precision=precision,
    )
    return dequantize(q, scale, zero_point, format, axis=axis, block_size=block_size)


def parameter_shape(
    shape: tuple[int, ...], axis: int | None, block_size: int | None
) -> tuple[int, ...]:
    """The shape of the scales, and of the zero points, of a tensor of this shape.

    Raises:
        ValueError: if there is no such axis, or the block is no positive number.
    """
    if axis is None:
        return ()
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"there is no axis {axis} in shape {shape}")
    axis %= len(shape)
    if block_size is None:
        return (shape[axis],)
    if block_size < 1:
        raise ValueError(f"a block of {block_size}")
    return (*shape[:axis], -(-shape[axis] // block_size), *shape[axis + 1 :])


def expand(
    parameter: Array, shape: tuple[int, ...], axis: int | None, block_size: int | None
) -> Array:
    """A scale or zero point as it meets a tensor of this shape: it broadcasts against that.

    Raises:
        ValueError: if it is not of the shape that the module's docstring describes.
    """
    parameter = np.asarray(parameter)
    wanted = parameter_shape(shape, axis, block_size)
    if axis is None and parameter.shape == (1,):
        parameter = parameter.reshape(())
    if parameter.shape != wanted:
        raise ValueError(f"scales of shape {parameter.shape}, not {wanted}, for shape {shape}")
    if axis is None:
        return parameter
    axis %= len(shape)
    if block_size is None:
        return parameter.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    inside = (slice(None),) * axis + (slice(shape[axis]),)
    return np.repeat(parameter, block_size, axis=axis)[inside]


def _offset(
    zero_point: Array,
    format: Format,
    scale: tuple[int, ...],
    shape: tuple[int, ...],
    axis: int | None,
    block_size: int | None,
) -> Array:
    zero_point = np.asarray(zero_point)
    if zero_point.dtype != format.dtype or zero_point.shape != scale:
        raise ValueError(
            f"a zero point of {zero_point.dtype} {zero_point.shape} for scales of shape {scale} "
            f"and {format.name}"
        )
    return expand(zero_point, shape, axis, block_size).astype(np.float32)


def _require_zero(zero_point: Array | None, format: Format) -> None:
    if zero_point is not None and np.asarray(zero_point).astype(np.float32).any():
        raise ValueError(f"the zero point of {format.name} is 0")


def _as_integers(values: Array, format: Format) -> Array:
    """Integers that `format` has, in its dtype; ml_dtypes converts int8 faster than floats."""
    if format.bits < 8:
        values = values.astype(np.int8)
    return np.asarray(values.astype(format.dtype))
