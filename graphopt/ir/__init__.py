"""Load, save, query, edit, infer shapes, count cost: a thin floor over `onnx_ir`."""

from graphopt.ir.checking import check
from graphopt.ir.cost import Cost, NodeCost, measure
from graphopt.ir.edit import (
    Names,
    add_constant,
    add_initializer,
    drop_unused_initializer,
    remove_node,
    take_over,
)
from graphopt.ir.external import weight_bytes
from graphopt.ir.extraction import Parts, stretch, tapped
from graphopt.ir.graphsurgeon import to_graphsurgeon
from graphopt.ir.loading import ModelSource, load, model_files, sha256
from graphopt.ir.query import (
    constant_array,
    constant_tensor,
    count_nodes,
    default_opset,
    is_standard,
    label,
    main_inputs,
    nodes_of,
    rank,
    reads,
    replaced_operators,
    sole_use,
    static_shape,
    subgraphs,
    walk,
)
from graphopt.ir.saving import save, writable_path, writing
from graphopt.ir.selection import named_nodes
from graphopt.ir.shapes import forget_shapes, infer_shapes

__all__ = [
    "Cost",
    "ModelSource",
    "Names",
    "NodeCost",
    "Parts",
    "add_constant",
    "add_initializer",
    "check",
    "constant_array",
    "constant_tensor",
    "count_nodes",
    "default_opset",
    "drop_unused_initializer",
    "forget_shapes",
    "infer_shapes",
    "is_standard",
    "label",
    "load",
    "main_inputs",
    "measure",
    "model_files",
    "named_nodes",
    "nodes_of",
    "rank",
    "reads",
    "remove_node",
    "replaced_operators",
    "save",
    "sha256",
    "sole_use",
    "static_shape",
    "stretch",
    "subgraphs",
    "take_over",
    "tapped",
    "to_graphsurgeon",
    "walk",
    "weight_bytes",
    "writable_path",
    "writing",
]
