"""Weights, and those of them that are in a file of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import onnx_ir as ir

from graphopt.ir.query import all_graphs, walk
from graphopt.ir.weights import WITHOUT_BYTES, DataFileTensor, WeightFile


def is_external(tensor: ir.TensorProtocol | None) -> TypeGuard[ir.ExternalTensor]:
    """As `isinstance`, which takes 2 us for a class that derives from a Protocol."""
    return ir.ExternalTensor in type(tensor).__mro__


def initializer_tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """The data of the initializers, in all graphs of `model`."""
    for graph in all_graphs(model):
        for value in graph.initializers.data.values():
            if value.const_value is not None:
                yield value.const_value


def external_tensors(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    """The initializers whose data is in a file of its own, in all graphs of `model`."""
    return filter(is_external, initializer_tensors(model))


def read_from(model: ir.Model, folder: Path) -> bool:
    """Has the external data of `model` looked for in `folder`; whether it has any.

    As `onnx_ir.external_data.set_base_dir`, in a tenth of the time.
    """
    tensors = list(initializer_tensors(model))
    for node in walk(model.graph):
        for attribute in node.attributes.data.values():
            if attribute.type == ir.AttributeType.TENSOR:
                tensors.append(attribute.value)
            elif attribute.type == ir.AttributeType.TENSORS:
                tensors.extend(attribute.value or ())
    external = list(filter(is_external, tensors))
    for tensor in external:
        tensor.base_dir = folder
    return bool(external)


def read_anew(model: ir.Model) -> None:
    """Has the external data of `model`, which is there, read when it is asked for and not kept."""
    files: dict[str, WeightFile] = {}
    for graph in all_graphs(model):
        for value in graph.initializers.values():
            tensor = value.const_value
            if not is_external(tensor) or tensor.dtype in WITHOUT_BYTES:
                continue
            if tensor.path not in files:
                files[tensor.path] = WeightFile(Path(tensor.path), inside=Path(tensor.base_dir))
            value.const_value = DataFileTensor(tensor, files[tensor.path])


def weight_bytes(model: ir.Model) -> int:
    """The bytes of all initializers, in all graphs."""
    return sum(tensor.nbytes for tensor in initializer_tensors(model))


def detached(model: ir.Model) -> ir.Model:
    """A copy of `model` that opens its external data for itself.

    onnx_ir closes external data when it has written or loaded it, under whoever else reads it.
    A tensor that is open already keeps what it shows: the file may have been replaced since.
    """
    copy = model.clone()
    for graph in all_graphs(copy):
        for value in graph.initializers.values():
            tensor = value.const_value
            if not is_external(tensor) or isinstance(tensor, DataFileTensor):
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
