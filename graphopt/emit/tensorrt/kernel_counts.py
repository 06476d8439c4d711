"""What a table of kernels comes to: counts, bytes, and what became of the model's nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from graphopt.emit.tensorrt.kernel_table import COMPUTE_KINDS, Kernel, KernelTensor, widest


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
    """The bytes of all constants but padding, each once; None if the type of one is unknown."""
    sizes = [tensor.nbytes for tensor, padding in _constants(kernels) if not padding]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def weight_bytes_by_type(kernels: Iterable[Kernel]) -> dict[str, int]:
    """The part of `weight_bytes` whose type is known, by type."""
    found: Counter[str] = Counter()
    for tensor, padding in _constants(kernels):
        if not padding:
            found[tensor.dtype] += tensor.nbytes or 0
    return dict(sorted(found.items()))


def padding_bytes(kernels: Iterable[Kernel]) -> int:
    """The bytes of stored zeros: TensorRT-RTX pads each channel of an int8 depthwise Conv to four.

    M: it joins data of (n, c, ...) to zeros of (n, c, 3, ...), which are a constant of the engine
    where the shapes are fixed: many times the weights. With a free batch they are made on the way.
    """
    return sum(tensor.nbytes or 0 for tensor, padding in _constants(kernels) if padding)


def _constants(kernels: Iterable[Kernel]) -> list[tuple[KernelTensor, bool]]:
    """Each constant once, and whether it is padding."""
    found = {
        tensor.name: (tensor, _is_padding(tensor, kernel))
        for kernel in kernels
        for tensor in kernel.constants
    }
    return list(found.values())


def _is_padding(tensor: KernelTensor, kernel: Kernel) -> bool:
    """Whether the kernel's output is data of which each channel has got those of `tensor` too."""
    if kernel.kind in COMPUTE_KINDS or len(tensor.shape) < 4:
        return False
    batch, channels, added, *sizes = tensor.shape
    joined = (batch, channels * (1 + added), *sizes)
    return any(out.shape == joined and out.dtype == tensor.dtype for out in kernel.outputs)


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
