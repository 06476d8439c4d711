"""The door to onnx-graphsurgeon: its graphs in, and back out."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir.checking import check
from graphopt.ir.external import embedded

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def is_graphsurgeon(source: object) -> bool:
    """Whether `source` is a `gs.Graph`; onnx_graphsurgeon is not imported to find out."""
    module = sys.modules.get("onnx_graphsurgeon")
    return module is not None and isinstance(source, module.Graph)


def from_graphsurgeon(graph: gs.Graph) -> ir.Model:
    """The model that `graph` describes. Nodes are sorted first, as exporting needs."""
    import onnx_graphsurgeon as gs

    proto: onnx.ModelProto = gs.export_onnx(graph.copy().toposort())
    proto.ir_version = max(proto.ir_version, 4)  # gs.Graph holds no initializers as inputs
    model = ir.from_proto(proto)
    check(model, where=f"gs.Graph '{graph.name}'")
    return model


def to_graphsurgeon(model: ir.Model) -> gs.Graph:
    """`model` as an `onnx_graphsurgeon.Graph`, with its weights in memory.

    Raises:
        GraphoptError: if GraphSurgeon cannot hold the model. It loses sequence and optional types.
    """
    import onnx_graphsurgeon as gs

    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.type is not None and not isinstance(value.type, ir.TensorType):
            raise GraphoptError(
                f"onnx-graphsurgeon cannot hold the type {value.type}",
                where=f"tensor '{value.name}'",
            )
    return gs.import_onnx(ir.to_proto(embedded(model)))
