"""A scale and a shift ahead of a host go into the input channels of its weight, and its bias."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.rewriting import DeclinedError, Rewriter
from graphopt_passes.fuse_affine.affine import ARITHMETIC, Affine, Step, require_arithmetic, step_of
from graphopt_passes.fuse_affine.hosts import (
    Change,
    Host,
    apply,
    change_bias,
    host_of,
    is_unpadded,
    pushed_through,
    scale_weight,
)
from graphopt_passes.fuse_affine.norm import NORM, affine_of, parameter
from graphopt_passes.fuse_affine.scaling import cast


def fold_ahead(node: ir.Node, at: Rewriter, max_growth: int) -> bool:
    """Mul, Div, Add, Sub or Neg with a constant, or BatchNormalization -> Conv and the like."""
    before = at.before(node, 0, NORM, *ARITHMETIC)
    host = None if before is None else host_of(node, at)
    if before is None or host is None or _is_transposed(node):
        return False
    if not at.is_constant(host.weight):
        return False
    if before.op_type == NORM:
        return _fold_norm(before, host, at, max_growth)
    step = step_of(before, at)
    if step is None or not _fits(step, host, at):
        return False
    if _halves_gelu(step, at):
        raise DeclinedError("it is a part of Gelu, which runtimes compute in one")
    if node.op_type == NORM:
        return _fold_into_norm(step, host, at)
    if step.is_scale or _takes_shift(host, at):
        return _fold(step.value, host, step.affine(), at, max_growth)
    if _scale_from_under(step, host, at, max_growth):
        return True
    if node.op_type == "Conv":
        raise DeclinedError("what is added before it does not go through its zero padding")
    return False


def _is_transposed(node: ir.Node) -> bool:
    return node.op_type == "Gemm" and bool(node.attributes.get_int("transA", 0))


def _halves_gelu(step: Step, at: Rewriter) -> bool:
    """Whether it is the last factor of x * (1 + erf(...)) * 0.5, or of the same with tanh."""
    product = at.before(step.node, step.data, "Mul")
    if product is None or not step.is_scale or not at.is_number(step.constant, 0.5):
        return False
    gates = [at.before(product, index, "Add") for index in (0, 1)]
    return any(
        at.before(gate, index, "Erf", "Tanh") is not None
        for gate in gates
        if gate is not None
        for index in (0, 1)
    )


def _fits(step: Step, host: Host, at: Rewriter) -> bool:
    """Whether the constant runs along the channels, and makes nothing of its input larger."""
    rank = at.rank(step.value) if host.node.op_type == "MatMul" else host.rank
    if not step.runs_along(host.axis, host.input_channels, rank):
        return False
    return step.constant is None or at.keeps_shape(step.constant, step.value)


def _fold_norm(norm: ir.Node, host: Host, at: Rewriter, max_growth: int) -> bool:
    try:
        affine = affine_of(norm, at.opset)
    except DeclinedError:
        return False  # what is wrong with `norm` is told where it is visited itself
    if affine.scale.size != host.input_channels or host.node.op_type == NORM:
        return False  # one behind the other is folded at the second
    if host.axis == -1 and at.rank(norm.inputs[0]) != 2:
        return False
    if affine.shifts and host.node.op_type == "MatMul":
        return _norm_before_product(norm.inputs[0], host, affine, at, max_growth)
    if affine.shifts and not _takes_shift(host, at):
        return False
    return _fold(norm.inputs[0], host, affine, at, max_growth)


def _takes_shift(host: Host, at: Rewriter) -> bool:
    """Whether something added to the input of `host` can go into its bias, or one behind it."""
    op = host.node.op_type
    if op == "Conv":
        return is_unpadded(host.node)
    return op == "Gemm" or (op == "MatMul" and _bias_behind(host, at) is not None)


def _bias_behind(host: Host, at: Rewriter) -> Step | None:
    """The Add of a constant behind a MatMul with a matrix."""
    add = at.after(host.node, "Add", "Sub") if host.layout.grouped else None
    step = None if add is None else step_of(add, at)
    return None if step is None or step.value is not host.node.outputs[0] else step


def _fold(
    value: ir.Value | None, host: Host, affine: Affine, at: Rewriter, max_growth: int
) -> bool:
    """`host` reads `value` in place of `affine` of it."""
    changes = scale_weight(host, affine.scale, host.layout.inputs, at, max_growth)
    if affine.shifts:
        pushed = pushed_through(host, affine.shift)
        if host.node.op_type == "MatMul":
            changes.append(_moved_bias(host, pushed, at))
        else:
            changes += change_bias(host, np.ones(1), pushed, at)
    apply(changes, at)
    at.set_input(host.node, 0, value)
    return True


def _moved_bias(host: Host, pushed: np.ndarray, at: Rewriter) -> Change:
    bias = _bias_behind(host, at)
    if bias is None:
        raise ValueError(f"there is no bias behind '{host.node.name}'")
    # The constant of a Sub is taken away: from the product, or the product from it.
    sign = -1.0 if bias.node.op_type == "Sub" else 1.0
    array = parameter(bias.constant, "the bias").astype(np.float64)
    moved = array + sign * pushed
    if moved.size > max(array.size, host.channels):
        raise DeclinedError("the bias behind it would grow")
    dtype = parameter(bias.constant, "the bias").dtype
    return Change(bias.node, 1 - bias.data, cast(moved, dtype), host.base("bias"))


def _norm_before_product(
    value: ir.Value | None, host: Host, affine: Affine, at: Rewriter, max_growth: int
) -> bool:
    """BatchNormalization -> MatMul becomes MatMul -> Add, if there is no Add behind it yet."""
    if _bias_behind(host, at) is not None:
        return _fold(value, host, affine, at, max_growth)
    require_arithmetic(at)
    node = host.node
    changes = scale_weight(host, affine.scale, host.layout.inputs, at, max_growth)
    weight = parameter(host.weight, "the weight")
    shift = cast(pushed_through(host, affine.shift), weight.dtype)
    apply(changes, at)
    product = at.insert(node, "MatMul", [value, node.inputs[1]])
    at.become(node, "Add", [product, at.constant(shift, host.base("bias"), node)])
    return True


def _scale_from_under(step: Step, host: Host, at: Rewriter, max_growth: int) -> bool:
    """a * x + c -> padded Conv: a goes into the weight, x + c / a stays."""
    scaling = at.before(step.node, step.data, "Mul", "Div")
    under = None if scaling is None else step_of(scaling, at)
    if under is None or step.tensor is None or not _fits(under, host, at):
        return False
    factor, shift = under.affine(), step.affine()
    total = factor.scale * shift.scale
    if not total.all() or step.tensor.dtype.itemsize < 4:
        return False
    require_arithmetic(at)
    changes = scale_weight(host, total, host.layout.inputs, at, max_growth)
    channels = (-1, *[1] * (-1 - host.axis))
    moved = cast((shift.shift / total).reshape(channels), step.tensor.dtype.numpy())
    apply(changes, at)
    constant = at.constant(moved, host.base("shift"), host.node)
    added = at.insert(host.node, "Add", [under.value, constant])
    at.set_input(host.node, 0, added)
    return True


def _fold_into_norm(step: Step, host: Host, at: Rewriter) -> bool:
    """A BatchNormalization of a * x + c is one of x: around a mean of 0, with another bias."""
    norm = host.node
    inner, outer = step.affine(), affine_of(norm, at.opset)
    gamma = parameter(norm.inputs[1], "its scale")
    beta = parameter(norm.inputs[2], "its bias")
    mean = parameter(norm.inputs[3], "its mean")
    shift = outer.scale * inner.shift + outer.shift
    changes = [
        Change(norm, 1, cast(gamma * np.broadcast_to(inner.scale, gamma.shape), gamma.dtype), "s"),
        Change(norm, 2, cast(shift, beta.dtype), "b"),
        Change(norm, 3, np.zeros_like(mean), "m"),
    ]
    apply(changes, at)
    at.set_input(norm, 0, step.value)
    return True
