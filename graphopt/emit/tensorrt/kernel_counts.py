"""What a table of kernels comes to: counts, bytes, and what became of the model's nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from graphopt.emit.tensorrt.kernel_table import COMPUTE_KINDS, Kernel, widest


@dataclass(frozen=True)
class ComputeNode:
    """A node of the model that has multiply-accumulates, and what it became.

    Attributes:
        precision: of the kernel that computes it, the widest if there are several. None if no
            kernel says so: it was folded away, or it is inside a kernel that does not name it.
        macs: its multiply-accumulates in one run with the optimal shapes of the profile; None where
            they are not known.
    """

    name: str
    op_type: str
    precision: str | None
    macs: int | None = None


def count_by_precision(kernels: Iterable[Kernel]) -> dict[str, int]:
    """How many kernels compute in each type, in order of name."""
    counts = Counter(
        kernel.precision
        for kernel in kernels
        if kernel.precision is not None and kernel.kind != "control"
    )
    return dict(sorted(counts.items()))


def weight_bytes(kernels: Iterable[Kernel]) -> int | None:
    """The bytes of all constants, each counted once; None if the type of one is unknown."""
    constants = {tensor.name: tensor for kernel in kernels for tensor in kernel.constants}
    sizes = [tensor.nbytes for tensor in constants.values()]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def weight_bytes_by_type(kernels: Iterable[Kernel]) -> dict[str, int]:
    """The bytes of all constants whose type is known, each counted once, by their type."""
    constants = {tensor.name: tensor for kernel in kernels for tensor in kernel.constants}
    found: Counter[str] = Counter()
    for tensor in constants.values():
        found[tensor.dtype] += tensor.nbytes or 0
    return dict(sorted(found.items()))


def activation_bytes(kernels: Iterable[Kernel]) -> int | None:
    """The bytes that kernels write, for one sample: a dynamic dimension counts as 1.

    None if a type is unknown, or a tensor has two dynamic dimensions: one is no batch.
    """
    total = 0
    for tensor in {t.name: t for kernel in kernels for t in kernel.outputs}.values():
        sample = replace(tensor, shape=tuple(1 if size == -1 else size for size in tensor.shape))
        if tensor.shape.count(-1) > 1 or sample.nbytes is None:
            return None
        total += sample.nbytes
    return total


def match_nodes(
    nodes: Sequence[tuple[str, str]], kernels: Iterable[Kernel]
) -> tuple[ComputeNode, ...]:
    """What became of the model's `nodes`, given as (name, operator)."""
    found: dict[str, list[str]] = {}
    for kernel in kernels:
        if kernel.kind in COMPUTE_KINDS and kernel.precision is not None:
            for node in kernel.onnx_nodes:
                # A node of a subgraph is written "name | subgraph (attribute) | If_1 (If)".
                for name in {node, node.split(" | ")[0]}:
                    found.setdefault(name, []).append(kernel.precision)
    return tuple(
        ComputeNode(name, op_type, widest(found[name]) if name in found else None)
        for name, op_type in nodes
    )
