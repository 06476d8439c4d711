"""What the sweep over a graph finds: the labels, and what the later steps need to know of nodes.

Nodes are named by their position in the main graph, which holds for every clone of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

import onnx_ir as ir

from graphopt_passes.prune_channels.atoms import Atoms, Labels
from graphopt_passes.prune_channels.dims import Dims
from graphopt_passes.prune_channels.facts import Facts

if TYPE_CHECKING:
    from graphopt_passes.prune_channels.apply import Editor


@dataclass
class Slot:
    """A constant as one or more nodes read it, and the labels of its axes.

    A constant with at most one long axis has a slot per use (exporters share equal biases, which
    must not tie unrelated layers); larger ones have one slot for all uses in the main graph.
    """

    name: str
    labels: list[Labels]
    uses: list[tuple[int, int]] = field(default_factory=list)
    """(number of the node, index of its input)."""


@dataclass(frozen=True)
class Layer:
    """A node that multiplies its input by a constant weight along channels."""

    node: int
    name: str
    kind: Literal["Conv", "ConvTranspose", "Gemm", "MatMul"]
    slot: Slot
    groups: int
    x_axis: int
    """The axis of input 0 whose channels are summed over."""
    in_axis: int
    """The axis of the weight that goes with them."""
    in_labels: Labels
    """Of the channels of input 0."""
    out_axis: int
    """The axis of the weight that makes the channels of the output."""
    out_labels: Labels


@dataclass(frozen=True)
class Mix:
    """A node that mixes the channels of an input without a weight of its own for each."""

    node: int
    input: int
    axes: tuple[int, ...]
    fill: float
    """What a cut channel has to hold so as not to count."""
    mean: bool = False
    """Whether the node divides by the number of channels."""


@dataclass(frozen=True)
class Balance:
    """Blocks of channels that must lose the same number each: the groups of a convolution."""

    blocks: tuple[Labels, ...]


Fix: TypeAlias = 'Callable[["Editor", ir.Node], None]'


@dataclass
class Labelling:
    """What the sweep found."""

    atoms: Atoms
    facts: Facts
    labels: dict[str, list[Labels]] = field(default_factory=dict)
    """Of the outputs of nodes and of the graph's inputs."""
    slots: list[Slot] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    mixes: list[Mix] = field(default_factory=list)
    balances: list[Balance] = field(default_factory=list)
    fixes: list[tuple[int, Fix]] = field(default_factory=list)
    pins: list[tuple[int, int, Dims]] = field(default_factory=list)
    """Inputs that read shape arithmetic as data, and must go on reading the same numbers."""
