"""The job of `graphopt inspect`: what a model is made of."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import onnx_ir as ir

from graphopt.ir import load, measure, model_files, nodes_of
from graphopt.pipeline.record import read_record
from graphopt.report.model import Inspection, Port


def inspect_model(path: str | os.PathLike[str]) -> Inspection:
    """Reads the model at `path`; raises GraphoptError if it is none."""
    model = load(path)
    counts = Counter(
        f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in nodes_of(model)
    )
    return Inspection(
        path=str(path),
        file_bytes=sum(file.stat().st_size for file in model_files(Path(path), model)),
        ir_version=model.ir_version,
        opsets={domain or "ai.onnx": version for domain, version in model.opset_imports.items()},
        producer=f"{model.producer_name or '?'} {model.producer_version or ''}".strip(),
        inputs=tuple(_port(value) for value in model.graph.inputs),
        outputs=tuple(_port(value) for value in model.graph.outputs),
        operators=dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        cost=measure(model),
        record=read_record(model),
    )


def _port(value: ir.Value) -> Port:
    shape = None
    if value.shape is not None:
        shape = tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)
    return Port(str(value.name), str(value.type), shape)
