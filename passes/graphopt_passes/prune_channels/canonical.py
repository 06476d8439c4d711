"""The form that a model is brought into before its channels are followed."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.ir import constant_array, drop_unused_initializer, is_standard
from graphopt.pipeline.base import PassContext
from graphopt_passes.fold_constants.folding import fold_constants

MAX_GROWTH = 1 << 20
"""Bytes that folding may add, as in fold-constants."""


def canonical(model: ir.Model) -> ir.Model:
    """A copy of `model` in which what can be a constant is one.

    Exporters leave arithmetic on weights and shapes to run time, and put Identity and Transpose
    between a weight and its user; a layer is only refitted if its weight is a constant.
    """
    copy = model.clone()
    fold_constants(copy, PassContext(), MAX_GROWTH)
    _skip_detours(copy)
    return copy


def _skip_detours(copy: ir.Model) -> None:
    for node in list(copy.graph):
        source = node.inputs[0] if len(node.inputs) == 1 else None
        output = node.outputs[0]
        array = constant_array(source)
        if source is None or array is None or output.is_graph_output() or output.name is None:
            continue
        if is_standard(node, "Identity") and source.is_initializer():
            output.replace_all_uses_with(source)
            copy.graph.remove(node, safe=True)
        elif is_standard(node, "Transpose"):
            perm = node.attributes.get_ints("perm", None)
            turned = np.ascontiguousarray(array.transpose(perm))
            name = output.name
            output.name = None
            tensor = ir.tensor(turned, name=name)
            value = ir.Value(
                name=name,
                shape=ir.Shape(turned.shape),
                type=ir.TensorType(tensor.dtype),
                const_value=tensor,
            )
            copy.graph.register_initializer(value)
            output.replace_all_uses_with(value)
            copy.graph.remove(node, safe=True)
            drop_unused_initializer(source)
