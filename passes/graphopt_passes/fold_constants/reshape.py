"""Reshape to a shape that is partly dynamic, as a Reshape to a constant shape.

Exporters write `x.view(batch, -1)` as Shape, Gather, Unsqueeze, Concat, Reshape. The same is said
by the constant shape [0, -1], where 0 copies the dimension of the input and -1 is what remains.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphopt.ir import Names, add_constant, constant_tensor, is_standard
from graphopt.ir.facts import Dims, Facts, Item
from graphopt_passes.fold_constants.constants import can_hold


def constant_reshape(
    model: ir.Model,
    node: ir.Node,
    facts: Facts,
    names: Names,
) -> bool:
    """Gives `node`, if it is a Reshape to a partly known shape, an equal constant one if it can."""
    if not is_standard(node, "Reshape") or facts.opset < 5 or len(node.inputs) != 2:
        return False
    data, shape = node.inputs
    if data is None or shape is None or constant_tensor(shape) is not None:
        return False
    items: Sequence[Item] | None = facts[shape].items
    if not facts.dims(shape) or items is None or not can_hold(model, ir.DataType.INT64):
        return False
    copies = node.attributes.get_int("allowzero", 0) == 0
    result = facts.dims(node.outputs[0]) or ()
    if len(result) == len(items):  # a -1 whose number is known leaves room for another
        pairs = zip(items, result, strict=True)
        items = [n if i in (-1, None) and isinstance(n, int) and n > 0 else i for i, n in pairs]
    target = equal_target(items, facts.dims(data) or (), copies=copies)
    if target is None:
        return False
    name = names.fresh(f"{node.outputs[0].name}_shape")
    node.replace_input_with(1, add_constant(model, name, np.array(target, np.int64), node))
    return True


def equal_target(items: Sequence[Item], data: Dims, *, copies: bool) -> list[int] | None:
    """A constant shape that means the same as `items` for every input that `items` works for.

    A 0 may stand for a dimension that is the data's own at that place: where it happens to be 0
    at run time, the original meant "copy" too. A -1 may stand for a single unknown beside positive
    numbers only: with a 0 among them, a tensor without elements would leave it undetermined.

    Args:
        items: the shape that Reshape is given.
        data: the dimensions of what is reshaped, () if not known.
        copies: whether 0 means "copy" (allowzero=0) rather than a dimension of 0.
    """
    target: list[int | None] = []
    for axis, item in enumerate(items):
        if isinstance(item, int):
            if item < -1 or (item == 0 and not copies):
                return None
            known = data[axis] if item == 0 and axis < len(data) else item
            target.append(known if isinstance(known, int) and known > 0 else item)
        elif item is not None and copies and axis < len(data) and data[axis] == item:
            target.append(0)
        else:
            target.append(None)
    if None in target:
        others = [dim for dim in target if dim is not None]
        if len(others) != len(target) - 1 or any(dim <= 0 for dim in others):
            return None
    return [-1 if dim is None else dim for dim in target]
