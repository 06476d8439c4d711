"""HardSigmoid and HardSwish in integers, for a runtime that has no such kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.calibration import Range
from graphopt.ir import Names, add_initializer, is_standard, take_over
from graphopt.targets.quantization import Numbers, QuantizationRules
from graphopt_passes.quantize.grids import Grid, grid_of

ALPHA, BETA = 0.2, 0.5
"""What HardSigmoid has by default: y = max(0, min(1, alpha * x + beta))."""


def spelled_out(model: ir.Model, rules: QuantizationRules) -> ir.Model:
    """`model` with each HardSwish as x * HardSigmoid(x), as another model if it has any.

    It is how ONNX defines it, and what ONNX Runtime makes of it too.
    """
    if not any(is_standard(node, *rules.spelled) for node in model.graph):
        return model
    model = model.clone()
    names = Names(model)
    for node in list(model.graph):
        if not is_standard(node, *rules.spelled):
            continue
        old, source, base = node.outputs[0], node.inputs[0], str(node.outputs[0].name)
        gate = _node(names, "HardSigmoid", f"{base}_gate", [source], alpha=1 / 6, beta=0.5)
        product = _node(names, "Mul", f"{base}_product", [source, gate.outputs[0]])
        for new in (gate.outputs[0], product.outputs[0]):
            new.type, new.shape = old.type, None if old.shape is None else old.shape.copy()
        model.graph.insert_before(node, (gate, product))
        name = old.name
        take_over(old, product.outputs[0])
        model.graph.remove(node, safe=True)
        product.outputs[0].name, product.name = name, node.name
    return model


def is_sum(gate: ir.Node) -> bool:
    """Whether `gate`, a HardSigmoid, rises, and adds something positive."""
    alpha, beta = _factors(gate)
    return alpha > 0 and beta > 0


def gate_grid(numbers: Numbers, dtype: np.dtype[Any]) -> Grid:
    """The grid of what a gate gives, which is 0 to 1."""
    return grid_of(Range(0.0, 1.0), numbers, dtype)


def spread(
    model: ir.Model, names: Names, gate: ir.Node, numbers: Numbers, dtype: np.dtype[Any]
) -> tuple[ir.Value, Grid]:
    """Puts an Add and a Clip, which ONNX Runtime computes in integers, beside a HardSigmoid.

    With a = alpha and b = beta, max(0, min(1, a * x + b)) = a * max(0, min(1 / a, x + b / a)). The
    factor a costs nothing: what is written here is quantized with a scale that is 1 / a times that
    of `gate_grid`, and DequantizeLinear then reads the same integers with that of `gate_grid`.

    Returns:
        The sum, clipped, and the grid to quantize it with.
    """
    alpha, beta = _factors(gate)
    base, graph = str(gate.outputs[0].name), model.graph
    # A constant is exact, to a rounding of its scale, if it is the greatest number of its grid.
    shift = grid_of(Range(0.0, beta / alpha), numbers, dtype)
    greatest = np.rint(shift.limits[1] / float(shift.scale)) + int(shift.zero_point)

    def constant(suffix: str, array: np.ndarray[Any, Any]) -> ir.Value:
        return add_initializer(graph, names.fresh(f"{base}_{suffix}"), array)

    stored = (
        constant("shift_quantized", np.array(greatest).astype(shift.zero_point.dtype)),
        constant("shift_scale", shift.scale),
        constant("shift_zero_point", shift.zero_point),
    )
    shifted = _node(names, "DequantizeLinear", f"{base}_shift", stored)
    total = _node(names, "Add", f"{base}_sum", [gate.inputs[0], shifted.outputs[0]])
    bounds = (
        constant("least", np.array(0, dtype)),
        constant("greatest", np.array(1 / alpha, dtype)),
    )
    clip = _node(names, "Clip", f"{base}_clipped", [total.outputs[0], *bounds])
    graph.insert_before(gate, (shifted, total, clip))
    return clip.outputs[0], grid_of(Range(0.0, 1 / alpha), numbers, dtype)


def _factors(gate: ir.Node) -> tuple[float, float]:
    get = gate.attributes.get_float
    return float(get("alpha", ALPHA)), float(get("beta", BETA))


def _node(names: Names, operator: str, base: str, inputs: Any, **attributes: float) -> ir.Node:
    output = ir.Value(name=names.fresh(base))
    factors = [ir.AttrFloat32(name, value) for name, value in attributes.items()]
    return ir.Node("", operator, inputs, factors, outputs=[output], name=names.fresh(base))
