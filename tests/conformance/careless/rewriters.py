"""Passes that make the mistakes which the graphs are there for, to see that the checks see them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.pipeline.base import Effect, Pass, PassContext, PassResult, Stage


@dataclass(frozen=True)
class Careless(Pass):
    """Applies `rewrite`, which tells how often it rewrote something."""

    name: ClassVar[str] = "careless"
    stage: ClassVar[Stage] = Stage.SIMPLIFY
    effect: ClassVar[Effect] = Effect.EXACT

    rewrite: Callable[[ir.Model], int]

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        count = self.rewrite(model)
        return PassResult(model, count > 0, {"careless": count} if count else {})


def merge_equal_nodes(model: ir.Model) -> int:
    """CSE that asks for nothing but equal operators, inputs and attributes: random draws too."""
    seen: dict[str, ir.Node] = {}
    count = 0
    for node in list(model.graph):
        key = str((node.op_type, [v and v.name for v in node.inputs], str(node.attributes)))
        first = seen.setdefault(key, node)
        if first is not node:
            for one, other in zip(node.outputs, first.outputs, strict=True):
                one.replace_all_uses_with(other)
            model.graph.remove(node)
            count += 1
    return count


def merge_equal_initializers(model: ir.Model) -> int:
    """Merges by value, for which 0.0 equals -0.0."""
    seen: list[tuple[ir.Value, np.ndarray[Any, Any]]] = []
    count = 0
    for value in list(model.graph.initializers.values()):
        assert value.const_value is not None
        array = value.const_value.numpy()
        for other, known in seen:
            if np.array_equal(known, array) and value.uses():
                value.replace_all_uses_with(other)
                count += 1
        seen.append((value, array))
    return count


def freeze_defaults(model: ir.Model) -> int:
    """Takes the default of an input for its value, and leaves the input unused."""
    count = 0
    for value in list(model.graph.inputs):
        if value.const_value is not None and value.uses():
            frozen = ir.Value(
                name=f"{value.name}_frozen",
                shape=value.shape,
                type=value.type,
                const_value=ir.tensor(value.const_value.numpy(), name=f"{value.name}_frozen"),
            )
            value.replace_all_uses_with(frozen)
            model.graph.register_initializer(frozen)
            count += 1
    return count


def drop_defaults(model: ir.Model) -> int:
    """Makes inputs that have a default constants."""
    kept = [value for value in model.graph.inputs if value.const_value is None]
    count = len(model.graph.inputs) - len(kept)
    model.graph.inputs[:] = kept
    return count


def add_nothing(model: ir.Model) -> int:
    """Takes every Add for an addition of zero of the same shape."""
    return _skip(model, "Add")


def skip_clips(model: ir.Model) -> int:
    """Takes the second of two Clips only."""
    clips = [node for node in model.graph if node.op_type == "Clip"]
    count = 0
    for node in clips:
        data = node.inputs[0]
        before = data.producer() if data is not None else None
        if before is not None and before.op_type == "Clip":
            node.replace_input_with(0, before.inputs[0])
            count += 1
    return count


def drop_start_of_shape(model: ir.Model) -> int:
    """Reads every Shape as that of all dimensions."""
    count = 0
    for node in model.graph:
        if node.op_type == "Shape" and node.attributes:
            node.attributes.clear()
            count += 1
    return count


def forget_metadata(model: ir.Model) -> int:
    count = len(model.metadata_props)
    model.metadata_props.clear()
    return count


def rename_output(model: ir.Model) -> int:
    value = model.graph.outputs[0]
    if value.name == "renamed":
        return 0
    value.name = "renamed"
    return 1


def use_newer_operator(model: ir.Model) -> int:
    """Puts a Gelu of opset 20 into any model."""
    nodes = [node for node in model.graph if node.op_type == "Erf"]
    for node in nodes:
        node.op_type = "Gelu"
    return len(nodes)


def append_identity(model: ir.Model) -> int:
    """Changes something each time."""
    node = model.graph[0]
    copy = ir.node("Identity", [node.inputs[0]])
    copy.outputs[0].name = f"copy_{len(list(model.graph))}"
    model.graph.insert_before(node, copy)
    node.replace_input_with(0, copy.outputs[0])
    return 1


def lie(model: ir.Model) -> int:
    """Says that it changed something."""
    return 1


def fail(model: ir.Model) -> int:
    raise KeyError("something")


def _skip(model: ir.Model, op_type: str) -> int:
    nodes = [node for node in model.graph if node.op_type == op_type]
    for node in nodes:
        node.op_type = "Identity"
        node.resize_inputs(1)
    return len(nodes)


def hang(graph: object) -> None:
    """A GraphSurgeon function that does not come back."""
    time.sleep(600)


def die(graph: object) -> None:
    """A GraphSurgeon function that ends its process as a segmentation fault does."""
    import os
    import signal

    os.kill(os.getpid(), signal.SIGSEGV)


def swap_outputs(graph: object) -> None:
    """A GraphSurgeon function that turns the order of the outputs round."""
    graph.outputs.reverse()  # type: ignore[attr-defined]
