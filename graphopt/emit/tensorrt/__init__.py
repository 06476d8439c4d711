"""TensorRT engines. Only a child process ever loads TensorRT."""

from graphopt.emit.tensorrt.engine import build_engine
from graphopt.emit.tensorrt.kernel_counts import ComputeNode
from graphopt.emit.tensorrt.kernel_table import Kernel, KernelTensor
from graphopt.emit.tensorrt.options import BuilderOptions
from graphopt.emit.tensorrt.report import EngineReport
from graphopt.emit.tensorrt.shapes import (
    DEFAULT_BATCH,
    ShapeRange,
    batch_shapes,
    parse_shapes,
)

__all__ = [
    "DEFAULT_BATCH",
    "BuilderOptions",
    "ComputeNode",
    "EngineReport",
    "Kernel",
    "KernelTensor",
    "ShapeRange",
    "batch_shapes",
    "build_engine",
    "parse_shapes",
]
