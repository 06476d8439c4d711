"""Nets that are hard to quantize although their function is that of an easy one.

Channels of a trained net are scaled by powers of two where they are made, and by the inverse where
they are read. A power of two commutes with every rounding of floating-point numbers, so the outputs
stay the same (to the bit, short of denormals), while one scale per tensor no longer fits all
channels of it:

- `imbalance` scales what Conv and Gemm hand to each other through ReLU, pooling and residual adds:
  what cross-layer equalization undoes (Nagel et al. 2019, arXiv:1906.04721);
- `add_outliers` scales a few features behind each LayerNorm far up, as large transformers have
  them: what SmoothQuant moves into the weights (Xiao et al. 2022, arXiv:2211.10438).

    python tools/hard_nets.py imbalance fixtures/mobilenet.onnx hard.onnx
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import onnx_ir as ir

from graphopt.ir import constant_array, is_standard, load, save

BALANCED = (-4, 4)
OUTLIERS = (4, 6)
OUTLIER_SHARE = 0.05
HOMOGENEOUS = ("Relu", "Identity", "MaxPool", "AveragePool", "GlobalAveragePool", "Dropout")
"""f(s x) = s f(x) for s > 0, channel by channel."""


@dataclass
class Stream:
    """Tensors whose channels must be scaled together, who makes them and who reads them."""

    makers: list[ir.Node] = field(default_factory=list)
    readers: list[ir.Node] = field(default_factory=list)


def imbalance(
    source: ir.Model,
    seed: int = 0,
    exponents: tuple[int, int] = BALANCED,
    *,
    pairs_only: bool = False,
) -> ir.Model:
    """A copy of `source` with channels scaled by 2^k, k drawn evenly from `exponents`.

    Every stream of channels is scaled that starts at Conv, Gemm or the BatchNormalization behind
    one, and ends at Conv or Gemm, with nothing but homogeneous operators and adds between.

    Args:
        pairs_only: leave out what several nodes make or read, such as a residual stream.

    Raises:
        ValueError: if there is no such stream.
    """
    model = source.clone()
    generator = np.random.default_rng(seed)
    streams = _streams(model)
    if pairs_only:
        streams = [s for s in streams if len(s.makers) == len(s.readers) == 1]
    for stream in streams:
        channels = _size(stream.makers[0])
        low, high = exponents
        factors = np.exp2(generator.integers(low, high + 1, channels)).astype(np.float32)
        for node in stream.makers:
            _scale_made(node, factors)
        for node in stream.readers:
            _scale_read(node, 1 / factors)
    if not streams:
        raise ValueError("no Conv or Gemm hands its channels to another in a way that scales")
    return model


def add_outliers(
    source: ir.Model, seed: int = 0, exponents: tuple[int, int] = OUTLIERS
) -> ir.Model:
    """A copy of `source` with some features behind each LayerNormalization scaled by 2^k.

    One in 20 features, at least 2, where only MatMuls by a weight read the result.

    Raises:
        ValueError: if there is no such LayerNormalization.
    """
    model = source.clone()
    generator = np.random.default_rng(seed)
    found = False
    for node in model.graph:
        readers = [user for user, _ in node.outputs[0].uses() if user.op_type != "Shape"]
        if not is_standard(node, "LayerNormalization") or not readers:
            continue
        if not all(_reads_by_weight(user, node.outputs[0]) for user in readers):
            continue
        features = _size(node)
        count = max(2, round(OUTLIER_SHARE * features))
        factors = np.ones(features, np.float32)
        chosen = generator.choice(features, count, replace=False)
        factors[chosen] = np.exp2(generator.integers(exponents[0], exponents[1] + 1, count))
        _scale_made(node, factors)
        for user in readers:
            _scale_read(user, 1 / factors)
        found = True
    if not found:
        raise ValueError("no LayerNormalization is read by weights alone")
    return model


def _streams(model: ir.Model) -> list[Stream]:
    """The streams of `model` that can be scaled, in the order of their first makers."""
    found, seen = [], set()
    for node in model.graph:
        for value in node.outputs:
            if value not in seen and _makes(node):
                tensors: list[ir.Value] = []
                stream = _grow(value, tensors)
                seen.update(tensors)
                if stream is not None:
                    found.append(stream)
    return found


def _grow(start: ir.Value, tensors: list[ir.Value]) -> Stream | None:
    """The stream of `start`, or None if something in it does not scale; fills `tensors`."""
    stream, pending, scales = Stream(), [start], True
    while pending:
        value = pending.pop()
        if value in tensors:
            continue
        tensors.append(value)
        producer = value.producer()
        if producer is None or value.is_graph_output():
            scales = False
            continue
        if _carries(producer):
            pending += [other for other in producer.inputs if other is not None]
        elif _makes(producer):
            stream.makers.append(producer)
        else:
            scales = False
        for user, index in value.uses():
            if _carries(user):
                pending += user.outputs
            elif index == 0 and _reads(user):
                stream.readers.append(user)
            elif user.op_type != "Shape":
                scales = False
    return stream if scales and stream.readers else None


def _carries(node: ir.Node) -> bool:
    """Whether the outputs of `node` have its inputs' channels, scaled alike."""
    if is_standard(node, "Add"):
        return not any(_is_constant(value) for value in node.inputs)
    if is_standard(node, "Flatten"):
        pooled = node.inputs[0].producer() if node.inputs[0] is not None else None
        return pooled is not None and is_standard(pooled, "GlobalAveragePool")
    return is_standard(node, *HOMOGENEOUS) and len(node.outputs) == 1


def _makes(node: ir.Node) -> bool:
    constants = all(_is_constant(value) for value in node.inputs[1:] if value is not None)
    return is_standard(node, "Conv", "Gemm", "BatchNormalization") and constants


def _reads(node: ir.Node) -> bool:
    return is_standard(node, "Conv", "Gemm") and _is_constant(node.inputs[1])


def _reads_by_weight(node: ir.Node, value: ir.Value) -> bool:
    return is_standard(node, "MatMul", "Gemm") and node.inputs[0] is value and _made_of(node) != []


def _made_of(node: ir.Node) -> list[ir.Value]:
    """The initializer that `node` multiplies by, perhaps behind a Transpose; empty if none."""
    weight = node.inputs[1]
    producer = weight.producer() if weight is not None else None
    if producer is not None and is_standard(producer, "Transpose"):
        weight = producer.inputs[0]
    return [weight] if weight is not None and _is_constant(weight) else []


def _is_constant(value: ir.Value | None) -> bool:
    """Whether `value` is a constant of one use, so that it can be changed."""
    return value is not None and constant_array(value) is not None and len(value.uses()) == 1


def _size(node: ir.Node) -> int:
    """How many channels `node` makes."""
    weight = _array(node.inputs[1])
    transposed = node.op_type == "Gemm" and not node.attributes.get_int("transB", 0)
    return int(weight.shape[1 if transposed else 0])


def _scale_made(node: ir.Node, factors: np.ndarray) -> None:
    """Scales the channels that `node` makes: output channels of a weight, or a norm's affine."""
    transposed = node.op_type == "Gemm" and not node.attributes.get_int("transB", 0)
    _multiply(node.inputs[1], factors, 1 if transposed else 0)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        _multiply(node.inputs[2], factors, 0)


def _scale_read(node: ir.Node, factors: np.ndarray) -> None:
    """Scales the channels of the weight through which `node` reads its first input."""
    if node.op_type == "Conv":
        groups = node.attributes.get_int("group", 1)
        _multiply_groups(node.inputs[1], factors, groups)
        return
    (weight,) = _made_of(node)
    turned = node.op_type == "Gemm" and bool(node.attributes.get_int("transB", 0))
    axis = (weight is not node.inputs[1]) ^ turned
    _multiply(weight, factors, int(axis))


def _array(value: ir.Value | None) -> np.ndarray:
    array = constant_array(value)
    if array is None:
        raise ValueError("not a constant")
    return array


def _multiply(value: ir.Value | None, factors: np.ndarray, axis: int) -> None:
    old = _array(value)
    shape = [-1 if index == axis else 1 for index in range(old.ndim)]
    _replace(value, old * factors.reshape(shape))


def _multiply_groups(value: ir.Value | None, factors: np.ndarray, groups: int) -> None:
    """Scales input channels of a Conv weight [out, in / groups, ...]."""
    old = _array(value)
    grouped = old.reshape(groups, old.shape[0] // groups, old.shape[1], -1)
    scaled = grouped * factors.reshape(groups, 1, old.shape[1], 1)
    _replace(value, scaled.reshape(old.shape))


def _replace(value: ir.Value | None, array: np.ndarray) -> None:
    assert value is not None
    value.const_value = ir.Tensor(array.astype(np.float32), name=value.name)


KINDS = {
    "imbalance": imbalance,
    "imbalance-pairs": partial(imbalance, pairs_only=True),
    "add-outliers": add_outliers,
}


def main() -> None:
    match sys.argv[1:]:
        case [kind, source, target] if kind in KINDS:
            save(KINDS[kind](load(source)), target)
        case _:
            sys.exit(f"usage: hard_nets.py {{{','.join(KINDS)}}} MODEL RESULT")


if __name__ == "__main__":
    main()
