"""The operators that can take over a scale and a shift per channel.

Each function changes the constants of a node, or raises DeclinedError and changes nothing.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.ir import Names, add_constant, drop_unused_initializer, is_standard, sole_use
from graphopt_passes.fuse_conv_bn.norm import Affine, DeclinedError, parameter


class Editor:
    """Replaces constants of nodes, leaving alone what other nodes share."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._names: Names | None = None

    def fresh(self, base: str) -> str:
        """A free name."""
        self._names = self._names or Names(self._model)
        return self._names.fresh(base)

    def replace(self, node: ir.Node, index: int, data: np.ndarray, base: str) -> None:
        """Makes `data` the input `index` of `node`.

        An initializer that only `node` uses keeps its name; any other is left as it is, and the
        new constant is named after `base`.
        """
        old = node.inputs[index] if index < len(node.inputs) else None
        if old is not None and old.is_initializer() and sole_use(old) is node:
            old.const_value = ir.tensor(data, name=old.name)
            old.shape = ir.Shape(data.shape)
            return
        value = add_constant(self._model, self.fresh(base), data, node)
        node.resize_inputs(max(len(node.inputs), index + 1))
        node.replace_input_with(index, value)
        release(old)


def release(value: ir.Value | None) -> None:
    """Removes a constant that nothing uses any more."""
    drop_unused_initializer(value)
    node = None if value is None else value.producer()
    if value is None or node is None or not isinstance(node.graph, ir.Graph):
        return
    if is_standard(node, "Constant") and not value.uses() and not value.is_graph_output():
        node.graph.remove(node)


def fuse_conv(node: ir.Node, affine: Affine, edit: Editor) -> None:
    """Weights [out, in/groups, ...]: each output channel is scaled."""
    weight = parameter(node.inputs[1], "the weight before it")
    if weight.ndim < 3 or weight.shape[0] != affine.channels:
        raise DeclinedError("the weight before it has another number of channels")
    per_channel = affine.scale.reshape(-1, *[1] * (weight.ndim - 1))
    scaled, bias = _rounded(weight, per_channel, 0), _conv_bias(node, affine, weight.dtype)
    _replace_both(node, scaled, bias, edit)


def fuse_conv_transpose(node: ir.Node, affine: Affine, edit: Editor) -> None:
    """Weights [in, out/groups, ...]: the input channels of a group make its output channels."""
    weight = parameter(node.inputs[1], "the weight before it")
    groups: int = node.attributes.get_int("group", 1)
    if weight.ndim < 3 or weight.shape[1] * groups != affine.channels or weight.shape[0] % groups:
        raise DeclinedError("the weight before it has another number of channels")
    scale = np.repeat(affine.scale.reshape(groups, -1), weight.shape[0] // groups, axis=0)
    per_channel = scale.reshape(*weight.shape[:2], *[1] * (weight.ndim - 2))
    scaled, bias = _rounded(weight, per_channel, 1), _conv_bias(node, affine, weight.dtype)
    _replace_both(node, scaled, bias, edit)


def fuse_gemm(node: ir.Node, affine: Affine, edit: Editor) -> None:
    """alpha * A @ B + beta * C: B is scaled, and beta * C becomes a bias with beta 1."""
    weight = parameter(node.inputs[1], "the weight before it")
    columns = 0 if node.attributes.get_int("transB", 0) else 1
    if weight.ndim != 2 or weight.shape[columns] != affine.channels:
        raise DeclinedError("the weight before it has another number of channels")
    per_channel = affine.scale if columns == 1 else affine.scale.reshape(-1, 1)
    scaled = _rounded(weight, per_channel, columns)
    beta: float = node.attributes.get_float("beta", 1.0)
    has_bias = len(node.inputs) > 2 and node.inputs[2] is not None
    bias = _row(node.inputs[2], affine) * beta if has_bias else np.zeros(affine.channels)
    shifted = _cast(bias * affine.scale + affine.shift, weight.dtype)
    _replace_both(node, scaled, shifted, edit)
    node.attributes.pop("beta", None)


def fuse_matmul(node: ir.Node, affine: Affine, edit: Editor) -> np.ndarray:
    """A @ B: B is scaled; returns the shift that is still to be added, in the type of B."""
    scaled = _scaled_matmul_weight(node, affine)
    shift = _cast(affine.shift, scaled.dtype)
    edit.replace(node, 1, scaled, _base(node, "scaled"))
    return shift


def fuse_matmul_add(node: ir.Node, add: ir.Node, affine: Affine, edit: Editor) -> None:
    """A @ B + c: B is scaled, c is scaled and shifted. `add` has the product as one input."""
    index = 1 if add.inputs[0] is node.outputs[0] else 0
    bias = _row(add.inputs[index], affine)
    scaled = _scaled_matmul_weight(node, affine)
    shifted = _cast(bias * affine.scale + affine.shift, scaled.dtype)
    edit.replace(node, 1, scaled, _base(node, "scaled"))
    edit.replace(add, index, shifted, _base(node, "bias"))


def _scaled_matmul_weight(node: ir.Node, affine: Affine) -> np.ndarray:
    weight = parameter(node.inputs[1], "the weight before it")
    if weight.ndim != 2 or weight.shape[1] != affine.channels:
        raise DeclinedError("the weight before it has another number of channels")
    return _rounded(weight, affine.scale, 1)


def _replace_both(node: ir.Node, weight: np.ndarray, bias: np.ndarray, edit: Editor) -> None:
    bias_name = _base(node, "bias")
    edit.replace(node, 1, weight, _base(node, "scaled"))
    edit.replace(node, 2, bias, bias_name)


def _base(node: ir.Node, suffix: str) -> str:
    weight = node.inputs[1]
    return f"{weight.name if weight is not None else node.name}_{suffix}"


def _conv_bias(node: ir.Node, affine: Affine, dtype: np.dtype) -> np.ndarray:
    bias = np.zeros(affine.channels)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = parameter(node.inputs[2], "the bias before it").astype(np.float64)
        if bias.shape != (affine.channels,):
            raise DeclinedError("the bias before it has another number of channels")
    return _cast(bias * affine.scale + affine.shift, dtype)


def _row(value: ir.Value | None, affine: Affine) -> np.ndarray:
    """A bias that is added to each row, as float64 [channels]."""
    bias = parameter(value, "the bias before it")
    if bias.ndim > 2 or (bias.ndim == 2 and bias.shape[0] != 1):
        raise DeclinedError("the bias before it is not one row")
    if bias.size not in (1, affine.channels):
        raise DeclinedError("the bias before it has another number of channels")
    return np.broadcast_to(bias.reshape(-1).astype(np.float64), (affine.channels,))


def _rounded(weight: np.ndarray, per_channel: np.ndarray, axis: int) -> np.ndarray:
    """`weight * per_channel` in the type of `weight`, with the usual relative error only.

    Args:
        axis: that of the channels, along which overflow and underflow are looked at.
    """
    exact = weight.astype(np.float64) * per_channel
    rounded = _cast(exact, weight.dtype)
    others = tuple(i for i in range(exact.ndim) if i != axis)
    error = np.abs(rounded - exact).max(axis=others, initial=0.0)
    peak = np.abs(exact).max(axis=others, initial=0.0)
    if (error > peak * float(np.finfo(weight.dtype).eps)).any():
        raise DeclinedError(f"the folded weights would be too small for {weight.dtype}")
    return rounded


def _cast(exact: np.ndarray, dtype: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore"):
        rounded = exact.astype(dtype)
    if not np.isfinite(rounded).all():
        raise DeclinedError(f"the folded weights would not be finite in {dtype}")
    return rounded
