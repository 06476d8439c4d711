"""The operators that can take over a scale and a shift per channel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.rewriting import DeclinedError, Rewriter
from graphopt_passes.fuse_affine.norm import NORM, parameter
from graphopt_passes.fuse_affine.quantized import multiplied_scales
from graphopt_passes.fuse_affine.scaling import Layout, cast, contracted, scaled

HOSTS = ("Conv", "ConvTranspose", "Gemm", "MatMul", NORM)

WEIGHT, BIAS = 1, 2
"""The indices of these inputs of a host; a MatMul has no bias."""


@dataclass(frozen=True)
class Change:
    """New data for the constant input `index` of `node`; `base` is what to call it if it is new."""

    node: ir.Node
    index: int
    data: np.ndarray
    base: str

    def apply(self, at: Rewriter) -> None:
        at.replace_constant(self.node, self.index, self.data, self.base)


@dataclass(frozen=True)
class Host:
    """A node whose weight has a known shape."""

    node: ir.Node
    layout: Layout
    axis: int
    """That of the channels in its input and its output, counted from the end."""
    rank: int | None
    """Of its input and its output."""

    @property
    def channels(self) -> int:
        """The number of its output channels."""
        return self.layout.channels(self.layout.outputs)

    @property
    def input_channels(self) -> int:
        return self.layout.channels(self.layout.inputs)

    @property
    def weight(self) -> ir.Value | None:
        return self.node.inputs[WEIGHT]

    @property
    def bias(self) -> ir.Value | None:
        return self.node.inputs[BIAS] if len(self.node.inputs) > BIAS else None

    def base(self, suffix: str) -> str:
        """What to call a new constant of it."""
        weight = self.weight
        return f"{self.node.name if weight is None else weight.name}_{suffix}"


def host_of(node: ir.Node | None, at: Rewriter) -> Host | None:
    """`node` as a host; None if it is none, or the shape of its weight is not known."""
    if node is None or len(node.inputs) <= WEIGHT or not at.is_op(node, *HOSTS):
        return None
    dims = at.facts[node.inputs[WEIGHT]].static_dims
    if dims is None:
        return None
    if node.op_type == "MatMul":
        return _matmul(node, dims, at) if len(dims) >= 2 else None
    if node.op_type == "Gemm":
        return _gemm(node, dims) if len(dims) == 2 and at.opset >= 7 else None
    if node.op_type == NORM:
        rank = at.rank(node.inputs[0])
        layout = Layout((dims[0], 1, 1, 1), 1) if len(dims) == 1 else None
        return None if rank is None or layout is None else Host(node, layout, 1 - rank, rank)
    return _convolution(node, dims) if len(dims) >= 3 else None


def _convolution(node: ir.Node, dims: tuple[int, ...]) -> Host | None:
    """Weights [out, in/groups, ...], or of a ConvTranspose [in, out/groups, ...]."""
    groups: int = node.attributes.get_int("group", 1)
    if groups < 1 or dims[0] % groups:
        return None
    view = (groups, dims[0] // groups, dims[1], math.prod(dims[2:]))
    outputs = 1 if node.op_type == "Conv" else 2
    return Host(node, Layout(view, outputs), 1 - len(dims), len(dims))


def _gemm(node: ir.Node, dims: tuple[int, ...]) -> Host:
    """alpha * A @ B + beta * C."""
    outputs = 1 if node.attributes.get_int("transB", 0) else 2
    return Host(node, Layout((1, dims[0], dims[1], 1), outputs), -1, 2)


def _matmul(node: ir.Node, dims: tuple[int, ...], at: Rewriter) -> Host:
    """A @ B; the columns of B are the channels."""
    rank = at.rank(node.inputs[0])
    if len(dims) > 2:
        rank = None if rank is None else max(rank, len(dims))
    view = (math.prod(dims[:-2]), dims[-2], dims[-1], 1)
    layout = Layout(view, 2, grouped=len(dims) == 2)
    return Host(node, layout, -1, rank)


def scale_weight(
    host: Host, factor: np.ndarray, axis: int, at: Rewriter, max_growth: int
) -> list[Change]:
    """The weight times `factor` along `axis` of its layout.

    Raises:
        DeclinedError: if it is not constant, not the host's own, or would not fit its type.
    """
    if (factor == 1).all():
        return []
    node, weight = host.node, host.weight
    source = at.producer(weight, "DequantizeLinear")
    if source is not None:
        if at.before(node, WEIGHT, "DequantizeLinear") is None:
            raise DeclinedError("the quantized weight is used elsewhere too")
        quantized = multiplied_scales(source, host.layout, factor, axis, at)
        return [Change(source, 1, quantized, host.base("scale"))]
    array = parameter(weight, "the weight")
    if not at.owns(node, WEIGHT) and array.nbytes > max_growth:
        raise DeclinedError(
            f"other nodes share the weight, and a copy would add {array.nbytes:,} bytes"
        )
    data = scaled(array, host.layout, factor, axis)
    return [Change(node, WEIGHT, data, host.base("scaled"))]


def change_bias(host: Host, scale: np.ndarray, shift: np.ndarray, at: Rewriter) -> list[Change]:
    """The bias as scale * bias + shift, each [channels] or [1]. Not for a MatMul."""
    old = host.bias
    if old is None and not shift.any():
        return []
    if (scale == 1).all() and not shift.any():
        return []
    exact = np.broadcast_to(_bias(host) * scale + shift, (host.channels,))
    dtype = at.dtype(host.weight if old is None else old)
    if dtype is None:
        raise DeclinedError("the type of the weight is not known")
    return [Change(host.node, BIAS, cast(exact, dtype.numpy()), host.base("bias"))]


def _bias(host: Host) -> np.ndarray:
    """What is added to each channel, as float64 [channels] or [1]."""
    if host.bias is None:
        return np.zeros(1)
    bias = parameter(host.bias, "the bias").astype(np.float64)
    if host.node.op_type == "Gemm":
        bias = bias * host.node.attributes.get_float("beta", 1.0)
        if bias.ndim > 2 or (bias.ndim == 2 and bias.shape[0] != 1):
            raise DeclinedError("the bias is not one row")
    if bias.size not in (1, host.channels):
        raise DeclinedError("the bias has another number of channels")
    return bias.reshape(-1)


def apply(changes: list[Change], at: Rewriter) -> None:
    """Applies `changes`; the new bias of a Gemm has its beta in it."""
    for change in changes:
        change.apply(at)
        if change.node.op_type == "Gemm" and change.index == BIAS:
            change.node.attributes.pop("beta", None)


def pushed_through(host: Host, shift: np.ndarray) -> np.ndarray:
    """What adding `shift` to the input of `host` adds to its output: [channels], float64."""
    weight = parameter(host.weight, "the weight")
    alpha = host.node.attributes.get_float("alpha", 1.0) if host.node.op_type == "Gemm" else 1.0
    return alpha * contracted(weight, host.layout, shift)


def is_unpadded(node: ir.Node) -> bool:
    """Whether the convolution `node` reads nothing but its input."""
    pads = node.attributes.get_ints("pads", ())
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    return mode == "VALID" or (mode == "NOTSET" and not any(pads))
