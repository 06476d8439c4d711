"""The dimensions that convolutions, pools and resizings give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphopt.ir.facts.data_rules import Rule
from graphopt.ir.facts.dimension import Dim, Dims, add, divide, floor_divide, multiply, subtract
from graphopt.ir.facts.fact import Fact, Operation
from graphopt.ir.query import constant_tensor


def _ones(op: Operation, name: str, count: int) -> Sequence[int]:
    """An attribute with a number per spatial axis, 1 by default."""
    given: Sequence[int] = op.node.attributes.get_ints(name, ())
    return given or (1,) * count


def _extents(op: Operation, sizes: Dims, kernel: Sequence[Dim]) -> list[Dim] | None:
    """How many windows of `kernel` there are along the axes of `sizes`."""
    strides, dilations = _ones(op, "strides", len(sizes)), _ones(op, "dilations", len(sizes))
    pads: Sequence[int] = op.node.attributes.get_ints("pads", ()) or (0,) * (2 * len(sizes))
    kind = op.node.attributes.get_string("auto_pad", "NOTSET")
    lengths = (len(kernel), len(strides), len(dilations), len(pads) / 2)
    if any(length != len(sizes) for length in lengths) or any(step < 1 for step in strides):
        return None
    result: list[Dim] = []
    for axis, (size, step) in enumerate(zip(sizes, strides, strict=True)):
        if kind in ("SAME_UPPER", "SAME_LOWER"):
            result.append(floor_divide(add(size, step - 1), step))
            continue
        padding = pads[axis] + pads[axis + len(sizes)] if kind == "NOTSET" else 0
        width = kernel[axis]
        if isinstance(size, int) and isinstance(width, int):  # as below, in a tenth of the time
            result.append((size + padding - (width - 1) * dilations[axis] - 1) // step + 1)
            continue
        reach = add(multiply(subtract(width, 1), dilations[axis]), 1)
        left = subtract(add(size, padding), reach)
        result.append(add(floor_divide(left, step), 1))
    return result if all(not isinstance(dim, int) or dim >= 0 for dim in result) else None


def _conv(op: Operation) -> Fact | None:
    dims, weight = op.dims(0), op.dims(1)
    if dims is None or weight is None or len(dims) != len(weight) or len(dims) < 3:
        return None
    kernel = op.node.attributes.get_ints("kernel_shape", ()) or weight[2:]
    extents = _extents(op, dims[2:], kernel)
    return None if extents is None else Fact(op.fact(0).dtype, (dims[0], weight[0], *extents))


def _conv_transpose(op: Operation) -> Fact | None:
    dims, weight = op.dims(0), op.dims(1)
    if dims is None or weight is None or len(dims) != len(weight) or len(dims) < 3:
        return None
    sizes, attributes = dims[2:], op.node.attributes
    kernel = attributes.get_ints("kernel_shape", ()) or weight[2:]
    strides, dilations = _ones(op, "strides", len(sizes)), _ones(op, "dilations", len(sizes))
    pads = attributes.get_ints("pads", ()) or (0,) * (2 * len(sizes))
    more = attributes.get_ints("output_padding", ()) or (0,) * len(sizes)
    if attributes.get_string("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in attributes:
        return None
    lengths = (len(kernel), len(strides), len(dilations), len(pads) / 2, len(more))
    if any(length != len(sizes) for length in lengths):
        return None
    extents: list[Dim] = []
    for axis, size in enumerate(sizes):
        reach = add(multiply(subtract(kernel[axis], 1), dilations[axis]), 1)
        padding = pads[axis] + pads[axis + len(sizes)]
        last = multiply(subtract(size, 1), strides[axis])
        extents.append(add(add(last, reach), more[axis] - padding))
    channels = multiply(weight[1], attributes.get_int("group", 1))
    return Fact(op.fact(0).dtype, (dims[0], channels, *extents))


def _pool(op: Operation) -> Fact | None:
    dims, kernel = op.dims(0), op.node.attributes.get_ints("kernel_shape", ())
    rounds_up: int = op.node.attributes.get_int("ceil_mode", 0)
    if dims is None or len(dims) < 3 or rounds_up or len(op.node.outputs) != 1:
        return None
    extents = _extents(op, dims[2:], kernel)
    return None if extents is None else Fact(op.fact(0).dtype, (*dims[:2], *extents))


def _global_pool(op: Operation) -> Fact | None:
    dims = op.dims(0)
    if dims is None or len(dims) < 3:
        return None
    return Fact(op.fact(0).dtype, (*dims[:2], *(1 for _ in dims[2:])))


def _pad(op: Operation) -> Fact | None:
    dims = op.dims(0)
    if dims is None or op.opset < 2:
        return None
    if op.opset < 11:
        pads: Sequence[Dim | None] | None = op.node.attributes.get_ints("pads", ())
    else:
        pads = op.fact(1).items
    axes = op.axes(3, 18, len(dims)) if op.opset >= 18 else []
    if pads is None or axes is None:
        return Fact(op.fact(0).dtype, op.named([None] * len(dims)))
    axes = axes if op.opset >= 18 and op.has_input(3) else list(range(len(dims)))
    if len(pads) != 2 * len(axes):
        return None
    result: list[Dim | None] = list(dims)
    for axis, before, behind in zip(axes, pads, pads[len(axes) :], strict=False):
        known = before is not None and behind is not None
        result[axis] = add(dims[axis], add(before, behind)) if known else None  # type: ignore[arg-type]
    return Fact(op.fact(0).dtype, op.named(result))


def _resize(op: Operation) -> Fact | None:
    """By whole scales, or to sizes; what is scaled by fractions is computed as runtimes do."""
    dims, attributes = op.dims(0), op.node.attributes
    if dims is None or attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch":
        return None
    axes = [axis % len(dims) for axis in attributes.get_ints("axes", range(len(dims)))]
    result: list[Dim | None] = list(dims)
    sizes = op.fact(3).items if op.node.op_type == "Resize" else None
    if sizes is not None and len(sizes) == len(axes):
        for axis, size in zip(axes, sizes, strict=True):
            result[axis] = size
        return Fact(op.fact(0).dtype, op.named(result))
    scales = _scales(op)
    if scales is None or len(scales) != len(axes):
        return Fact(op.fact(0).dtype, op.named([None] * len(dims)))
    if attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        return None
    for axis, scale in zip(axes, scales, strict=True):
        if not scale.is_integer():
            if isinstance(dims[axis], int):
                return None
            result[axis] = None
        else:
            result[axis] = multiply(dims[axis], int(scale))
    return Fact(op.fact(0).dtype, op.named(result))


def _scales(op: Operation) -> list[float] | None:
    """The scales of a Resize or Upsample, if they are constant."""
    if op.node.op_type == "Upsample" and op.opset < 9:
        return list(op.node.attributes.get_floats("scales", ())) or None
    index = 2 if op.node.op_type == "Resize" and op.opset >= 11 else 1
    value = op.node.inputs[index] if index < len(op.node.inputs) else None
    tensor = constant_tensor(value)
    return None if tensor is None or tensor.size == 0 else [float(x) for x in tensor.numpy()]


def _depth_to_space(op: Operation) -> Fact | None:
    dims, size = op.dims(0), op.node.attributes.get_int("blocksize", 0)
    if dims is None or len(dims) != 4 or size < 1:
        return None
    channels = divide(dims[1], size * size)
    spatial = (multiply(dims[2], size), multiply(dims[3], size))
    return Fact(op.fact(0).dtype, op.named((dims[0], channels, *spatial)))


def _space_to_depth(op: Operation) -> Fact | None:
    dims, size = op.dims(0), op.node.attributes.get_int("blocksize", 0)
    if dims is None or len(dims) != 4 or size < 1:
        return None
    spatial = (divide(dims[2], size), divide(dims[3], size))
    return Fact(op.fact(0).dtype, op.named((dims[0], multiply(dims[1], size * size), *spatial)))


WINDOW_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("AveragePool", "LpPool", "MaxPool"), _pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool"), _global_pool),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DepthToSpace": _depth_to_space,
    "Pad": _pad,
    "Resize": _resize,
    "SpaceToDepth": _space_to_depth,
    "Upsample": _resize,
}
