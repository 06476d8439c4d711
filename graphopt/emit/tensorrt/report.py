"""What is known about an engine that was built."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graphopt.emit.tensorrt.kernel_counts import (
    ComputeNode,
    count_by_precision,
    padding_bytes,
    weight_bytes_by_type,
)
from graphopt.emit.tensorrt.kernel_table import COMPUTE_KINDS, Kernel
from graphopt.emit.tensorrt.shapes import ShapeRange
from graphopt.emit.tensorrt.unfused import Unfused, find_fp32_rest


@dataclass(frozen=True)
class EngineReport:
    """An engine on disk, and what it is made of.

    Two builds of one model give engines of the same size and the same kernels. Their bytes may
    differ: TensorRT-RTX numbers its internal names, and orders its code, as its threads finish.

    Attributes:
        path: the engine.
        target: the name of the target that it is for.
        backend: the name of the backend that built it.
        builder: the builder's product and version; an engine is for that version.
        engine_bytes: its size. In a small model's engine most of that is code, so it may grow with
            int8 although the weights shrink: see `weight_bytes`.
        build_seconds: the wall time of the build itself.
        profile: the least, optimal and greatest shape of each dynamic input.
        kernels: the compiled kernels in the order they run; None if the builder's log has no table
            that can be read, and then `kernel_table_note` says why: the engine is still good.
        compute_nodes: the model's Conv, ConvTranspose, Gemm, MatMul and Einsum nodes, and the
            precision of the kernel that each became; None without `kernels`.
        weight_bytes: the bytes of the weights in the kernels; None if not known.
        activation_bytes: the bytes that the kernels write for one sample; None if not known.
        unfused: nodes that Q/DQ asks to be int8 or fp8, and that became float kernels.
        warnings: what the builder warned of.
        misread: what TensorRT takes for something else than ONNX says, or than graphopt made it
            for, one line each.
    """

    path: Path
    target: str
    backend: str
    builder: str
    engine_bytes: int
    build_seconds: float
    profile: Mapping[str, ShapeRange]
    kernels: tuple[Kernel, ...] | None
    kernel_table_note: str | None
    compute_nodes: tuple[ComputeNode, ...] | None
    weight_bytes: int | None
    activation_bytes: int | None = None
    unfused: tuple[Unfused, ...] = ()
    warnings: tuple[str, ...] = ()
    misread: tuple[str, ...] = ()

    def compute_kernels(self) -> tuple[Kernel, ...]:
        """The kernels with multiply-accumulates: convolutions, matrix products, fused attention."""
        return tuple(kernel for kernel in self.kernels or () if kernel.kind in COMPUTE_KINDS)

    @property
    def kernels_by_precision(self) -> dict[str, int]:
        """How many kernels compute in each type; empty without a kernel table."""
        return count_by_precision(self.kernels or ())

    @property
    def compute_kernels_by_precision(self) -> dict[str, int]:
        """The same of those with multiply-accumulates."""
        return count_by_precision(self.compute_kernels())

    @property
    def compute_nodes_by_precision(self) -> dict[str, int]:
        """How many of `compute_nodes` compute in each type; "unknown" where no kernel says so."""
        counts = Counter(node.precision or "unknown" for node in self.compute_nodes or ())
        return dict(sorted(counts.items()))

    @property
    def kernels_by_kind(self) -> dict[str, int]:
        """How many kernels there are of each kind, those of no kernel on the GPU left out."""
        counts = Counter(kernel.kind for kernel in self.kernels or () if kernel.kind != "control")
        return dict(sorted(counts.items()))

    @property
    def macs_by_precision(self) -> dict[str, int]:
        """The multiply-accumulates of `compute_nodes` in each type, as far as they are known."""
        counts: Counter[str] = Counter()
        for node in self.compute_nodes or ():
            counts[node.precision or "unknown"] += node.macs or 0
        return dict(sorted(counts.items()))

    @property
    def fp32_rest(self) -> tuple[str, ...]:
        """The nodes that stayed fp32 in an engine without fp16, whose products are quantized."""
        return find_fp32_rest(self.kernels or ())

    @property
    def weight_bytes_by_type(self) -> dict[str, int]:
        """The part of `weight_bytes` that is stored in each type."""
        return weight_bytes_by_type(self.kernels or ())

    @property
    def padding_bytes(self) -> int:
        """The bytes of zeros beside the weights, with which data is padded on the way."""
        return padding_bytes(self.kernels or ())

    def to_json(self) -> dict[str, Any]:
        """Everything here as what JSON can hold."""
        return asdict(self) | {
            "path": str(self.path),
            "profile": {name: list(map(list, shapes)) for name, shapes in self.profile.items()},
            "kernels_by_precision": self.kernels_by_precision,
            "compute_kernels_by_precision": self.compute_kernels_by_precision,
            "compute_nodes_by_precision": self.compute_nodes_by_precision,
            "kernels_by_kind": self.kernels_by_kind,
            "macs_by_precision": self.macs_by_precision,
            "fp32_rest": list(self.fp32_rest),
            "weight_bytes_by_type": self.weight_bytes_by_type,
            "padding_bytes": self.padding_bytes,
        }
