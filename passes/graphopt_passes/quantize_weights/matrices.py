"""Matrices behind Transposes, as exporters write them."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.ir import is_standard


def behind_transposes(value: ir.Value | None) -> tuple[ir.Value | None, bool]:
    """The value that `value` is the transpose of, or itself; and whether its axes are swapped."""
    turned = False
    while value is not None and (producer := value.producer()) is not None:
        if not swaps_axes(producer):
            break
        value, turned = producer.inputs[0], not turned
    return value, turned


def swaps_axes(node: ir.Node) -> bool:
    """Whether `node` swaps the two axes of a matrix."""
    return is_standard(node, "Transpose") and (
        tuple(node.attributes.get_ints("perm", ())) == (1, 0)
    )
