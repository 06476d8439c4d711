"""What operators take on a processor in float and in integers, to tell where integers pay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Pair = tuple[float, float]
"""In float, and in integers."""


@dataclass(frozen=True)
class Costs:
    """Times in nanoseconds of one thread.

    They are good to a third or so: enough to tell which side of a net gains. Elements are those of
    an output, positions its elements over its channels, taps the positions of a kernel.

    Attributes:
        block: channels of outputs are computed in so many at a time.
        input_block: those of inputs.
        node: for each node.
        product: for each multiply-accumulate, blocks filled up.
        few_inputs: in its place, where there are fewer input channels than `block`.
        position: for each position of a layer with a weight, in each of its groups.
        tap: for each tap of each position, if there are several.
        odd_inputs: so many times as much for a tap, where inputs are no multiple of their block.
        weight: for each element of a weight, where all weights as floats take more than
            `cached_bytes` and so come from memory each time.
        spilled: for each element that a node reads or writes of a tensor that takes more than that.
        cached_bytes: what stays close to the processor.
        element: for each element of a layer with a weight.
        few_inputs_element: in its place, where there are fewer input channels than `block`.
        depthwise_tap: for each tap of each position of a Conv with a group for each channel.
        depthwise_element: for each element of such a Conv.
        depthwise_element_tap: for each tap of each of them.
        odd_channels: so many times as much for such a Conv, where channels are no multiple of
            `block`.
        elementwise: for each element of operators without a weight.
        broadcast: for each position of those of them whose operands differ in size.
        boundary: for each element of a tensor that passes from one side to the other.
        boundary_node: for each such tensor.
    """

    block: int
    input_block: Pair
    node: Pair
    product: Pair
    few_inputs: Pair
    position: Pair
    tap: Pair
    odd_inputs: Pair
    weight: Pair
    spilled: Pair
    cached_bytes: int
    element: Pair
    few_inputs_element: Pair
    depthwise_tap: Pair
    depthwise_element: Pair
    depthwise_element_tap: Pair
    odd_channels: Pair
    elementwise: Mapping[str, Pair]
    broadcast: Pair
    boundary: float
    boundary_node: float
