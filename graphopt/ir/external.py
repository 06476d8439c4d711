"""Weights, and those of them that are in a file of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from graphopt.ir.query import all_graphs, walk
from graphopt.ir.weights import WITHOUT_BYTES, DataFileTensor, WeightFile


def external_tensors(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    """The initializers whose data is in a file of its own, in all graphs of `model`."""
    for graph in all_graphs(model):
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield value.const_value


def read_from(model: ir.Model, folder: Path) -> None:
    """Has the external data of `model` looked for in `folder`.

    As `onnx_ir.external_data.set_base_dir`, in a tenth of the time.
    """
    tensors: list[ir.TensorProtocol | None] = []
    for graph in all_graphs(model):
        tensors.extend(value.const_value for value in graph.initializers.values())
    for node in walk(model.graph):
        for attribute in node.attributes.data.values():
            if attribute.type == ir.AttributeType.TENSOR:
                tensors.append(attribute.value)
            elif attribute.type == ir.AttributeType.TENSORS:
                tensors.extend(attribute.value or ())
    for tensor in tensors:
        if isinstance(tensor, ir.ExternalTensor):
            tensor.base_dir = folder


def read_anew(model: ir.Model) -> None:
    """Has the external data of `model`, which is there, read when it is asked for and not kept."""
    files: dict[str, WeightFile] = {}
    for graph in all_graphs(model):
        for value in graph.initializers.values():
            tensor = value.const_value
            if not isinstance(tensor, ir.ExternalTensor) or tensor.dtype in WITHOUT_BYTES:
                continue
            if tensor.path not in files:
                files[tensor.path] = WeightFile(Path(tensor.path), inside=Path(tensor.base_dir))
            value.const_value = DataFileTensor(tensor, files[tensor.path])


def weight_bytes(model: ir.Model) -> int:
    """The bytes of all initializers, in all graphs."""
    return sum(
        value.const_value.nbytes
        for graph in all_graphs(model)
        for value in graph.initializers.values()
        if value.const_value is not None
    )


def detached(model: ir.Model) -> ir.Model:
    """A copy of `model` that opens its external data for itself.

    onnx_ir closes external data when it has written or loaded it, under whoever else reads it.
    A tensor that is open already keeps what it shows: the file may have been replaced since.
    """
    copy = model.clone()
    for graph in all_graphs(copy):
        for value in graph.initializers.values():
            tensor = value.const_value
            if not isinstance(tensor, ir.ExternalTensor) or isinstance(tensor, DataFileTensor):
                continue
            if tensor.raw is not None:
                value.const_value = ir.tensor(
                    tensor.numpy(), dtype=tensor.dtype, name=str(value.name)
                )
            else:
                value.const_value = ir.ExternalTensor(
                    tensor.location,
                    tensor.offset,
                    tensor.length,
                    tensor.dtype,
                    shape=ir.Shape(tensor.shape.numpy()),
                    name=str(value.name),
                    base_dir=tensor.base_dir,
                )
    return copy


def embedded(model: ir.Model) -> ir.Model:
    """`model` with its external data in memory: itself if it has none, otherwise a copy."""
    if next(external_tensors(model), None) is None:
        return model
    return ir.external_data.load_to_model(detached(model))
