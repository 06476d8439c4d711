"""What is known of every value before the analysis: its shape, type and shape arithmetic.

A model with free dimensions is analysed at one size of each. The size of the batch is a prime that
divides no dimension of the model, so that no batch is ever taken for channels. Which dimensions
are free is followed by name beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir

from graphopt.data.feeds import Samples
from graphopt.errors import GraphoptError
from graphopt.ir import constant_array, constant_tensor, is_standard
from graphopt_passes.prune_channels.dims import (
    Dims,
    constant_dims,
    evaluate,
    shape_dims,
    static_values,
    values,
)
from graphopt_passes.prune_channels.symbols import Symbols, more_symbols

_DATA_BYTES = 1024


@dataclass
class Facts:
    """Per value of the main graph, by name; what is not known is absent."""

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    symbols: dict[str, Symbols] = field(default_factory=dict)
    types: dict[str, ir.DataType] = field(default_factory=dict)
    dims: dict[str, Dims] = field(default_factory=dict)

    def dims_of(self, value: ir.Value | None) -> Dims | None:
        """The elements of a shape computation or of a small integer constant."""
        if value is None or value.name is None:
            return None
        if value.name in self.dims:
            return self.dims[value.name]
        tensor = constant_tensor(value)
        if tensor is None or tensor.nbytes > _DATA_BYTES:
            return None
        return constant_dims(tensor.numpy())


def gather_facts(model: ir.Model, sizes: Sizes) -> Facts:
    """Goes through the main graph once, node by node.

    Args:
        sizes: the size to analyse each free dimension at, from `choose_sizes`. Those that the
            model states for what inference cannot tell are added.

    Raises:
        GraphoptError: if at those sizes an axis has fewer than no positions.
    """
    facts = Facts()
    for number, value in enumerate(model.graph.inputs):
        if isinstance(value.type, ir.TensorType) and value.shape is not None:
            symbols = _input_symbols(value, number)
            _note(facts, value, [sizes.of(symbol) for symbol in symbols], symbols)
    for value in model.graph.initializers.values():
        if not value.is_graph_input() and value.const_value is not None:
            _note_constant(facts, value)
    imports = [onnx.helper.make_opsetid(d, v) for d, v in model.graph.opset_imports.items()]
    functions = {(f.domain, f.name) for f in model.functions.values()}
    for node in model.graph:
        if (node.domain, node.op_type) in functions:
            _note_recorded(facts, node, sizes)
        else:
            _infer_node(facts, node, imports, sizes)
    return facts


@dataclass
class Sizes:
    """At which size each free dimension is analysed, by its name.

    A dimension that was not given a size gets the next prime above 100 that divides no dimension
    of the model: one that is not mistaken for a number of channels, nor for another free one.
    """

    known: frozenset[int]
    given: dict[str, int] = field(default_factory=dict)

    def of(self, symbol: int | str) -> int:
        if isinstance(symbol, int):
            return symbol
        if symbol not in self.given:
            candidate = max([99, *(size for size in self.given.values() if size > 100)]) + 2
            candidate += 1 - candidate % 2
            while not _is_prime(candidate) or any(dim % candidate == 0 for dim in self.known):
                candidate += 2
            self.given[symbol] = candidate
        return self.given[symbol]


def _is_prime(number: int) -> bool:
    return all(number % n for n in range(2, int(number**0.5) + 1))


def choose_sizes(model: ir.Model, samples: Samples | None) -> Sizes:
    """A size for each free dimension of the inputs.

    The first axis gets one that cannot be mistaken; other axes get the size that they have in the
    first sample.

    Raises:
        GraphoptError: if an axis other than the first is free and there are no samples.
    """
    first = None if samples is None else next(iter(samples), None)
    sizes = Sizes(_known_dimensions(model))
    for number, value in enumerate(model.graph.inputs):
        if value.shape is None:
            continue
        seen = None if first is None else first.get(value.name or "")
        for axis, symbol in enumerate(_input_symbols(value, number)):
            if isinstance(symbol, int) or symbol in sizes.given:
                continue
            if axis == 0 and (seen is None or seen.shape[:1] == (1,)):
                sizes.of(symbol)
            elif seen is not None and seen.ndim == len(value.shape):
                sizes.given[symbol] = seen.shape[axis]
            else:
                raise GraphoptError(
                    f"axis {axis} is free, and nothing says how long it usually is",
                    where=f"input '{value.name}'",
                    fix="give samples (--calib SRC), or export it with that axis fixed",
                )
    return sizes


def _known_dimensions(model: ir.Model) -> frozenset[int]:
    """The lengths of the axes of weights and inputs."""
    shapes = [tuple(v.shape or ()) for v in model.graph.inputs]
    shapes += [tuple(v.shape or ()) for v in model.graph.initializers.values()]
    for node in model.graph:
        tensor = constant_tensor(node.outputs[0]) if is_standard(node, "Constant") else None
        shapes.append(tuple(tensor.shape.numpy()) if tensor is not None else ())
    return frozenset(d for shape in shapes for d in shape if isinstance(d, int) and d > 0)


def _input_symbols(value: ir.Value, number: int) -> tuple[int | str, ...]:
    """The dimensions of an input; one without a name gets its own."""
    assert value.shape is not None
    return tuple(
        _symbol(dim, f"<input {number} axis {axis}>") for axis, dim in enumerate(value.shape)
    )


def _symbol(dim: int | ir.SymbolicDim, unnamed: str) -> int | str:
    """A dimension as a number or a name; Paddle writes -1 for one that is free, or "?"."""
    if isinstance(dim, int):
        return dim if dim >= 0 else unnamed
    return unnamed if dim.value in (None, "?") else str(dim.value)


def _note(
    facts: Facts, value: ir.Value, shape: Sequence[int], symbols: Sequence[int | str | None]
) -> None:
    if value.name is not None and value.dtype is not None:
        facts.shapes[value.name] = tuple(shape)
        facts.symbols[value.name] = tuple(symbols)
        facts.types[value.name] = value.dtype


def _note_constant(facts: Facts, value: ir.Value) -> None:
    tensor = value.const_value
    assert tensor is not None
    assert value.name is not None
    shape = tuple(tensor.shape.numpy())
    facts.shapes[value.name], facts.symbols[value.name] = shape, shape
    facts.types[value.name] = tensor.dtype


def _note_recorded(facts: Facts, node: ir.Node, sizes: Sizes) -> None:
    """For outputs that inference cannot tell: what the model itself states."""
    for value in node.outputs:
        if value.name and value.name not in facts.shapes and value.shape is not None:
            symbols = [
                _symbol(dim, f"<{value.name} axis {axis}>") for axis, dim in enumerate(value.shape)
            ]
            _note(facts, value, [sizes.of(symbol) for symbol in symbols], symbols)


def _infer_node(
    facts: Facts, node: ir.Node, imports: list[onnx.OperatorSetIdProto], sizes: Sizes
) -> None:
    if is_standard(node, "Shape", "Size"):
        _note_shape(facts, node)
    elif is_standard(node, node.op_type):
        dims = evaluate(node, [facts.dims_of(value) for value in node.inputs])
        if dims is not None:
            facts.dims[str(node.outputs[0].name)] = dims
    if is_standard(node, "GroupNormalization"):
        # Functions without an inference of their own: onnx's stops at them.
        _note_like_input(facts, node)
        return
    inferred = [_infer(facts, node, imports, symbolic) for symbolic in (False, True)]
    for value in node.outputs:
        if not value.name or inferred[0].get(value.name) is None:
            continue
        kind, concrete = inferred[0][value.name] or (0, ())
        symbols = (inferred[1].get(value.name) or (0, (None,) * len(concrete)))[1]
        symbols = more_symbols(facts, node, concrete, symbols)
        if all(isinstance(dim, int) for dim in concrete) and len(symbols) == len(concrete):
            _require_positions(node, concrete)
            facts.shapes[value.name] = tuple(int(dim) for dim in concrete if dim is not None)
            facts.symbols[value.name] = tuple(symbols)
            facts.types[value.name] = ir.DataType(kind)
    _note_recorded(facts, node, sizes)


def _note_like_input(facts: Facts, node: ir.Node) -> None:
    source = str(node.inputs[0].name) if node.inputs[0] is not None else ""
    name = str(node.outputs[0].name)
    if source in facts.shapes:
        facts.shapes[name], facts.symbols[name] = facts.shapes[source], facts.symbols[source]
        facts.types[name] = facts.types[source]


def _require_positions(node: ir.Node, shape: Symbols) -> None:
    if any(isinstance(dim, int) and dim < 0 for dim in shape):
        raise GraphoptError(
            "the first sample is too small for the network",
            where=f"node '{node.name or node.outputs[0].name}'",
            fix="give representative calibration data",
        )


def _note_shape(facts: Facts, node: ir.Node) -> None:
    name = str(node.inputs[0].name) if node.inputs[0] is not None else ""
    shape = facts.shapes.get(name)
    if shape is None:
        return
    axes = range(len(shape))
    if node.op_type == "Shape":
        start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(shape))
        facts.dims[str(node.outputs[0].name)] = shape_dims(
            name, shape, facts.symbols[name], axes[start:end]
        )


def _infer(
    facts: Facts, node: ir.Node, imports: list[onnx.OperatorSetIdProto], symbolic: bool
) -> dict[str, tuple[int, Symbols] | None]:
    """onnx's own inference for one node: element type and shape of each output."""
    used = [value for value in node.inputs if value is not None]
    version = next((i.version for i in imports if i.domain == node.domain), None)
    if version is None or not onnx.defs.has(node.op_type, node.domain):
        return {}
    if any(value.name not in facts.shapes for value in used) or _has_graph(node):
        return {}
    shapes = facts.symbols if symbolic else facts.shapes
    types = {}
    for value in used:
        name = str(value.name)
        types[name] = onnx.helper.make_tensor_type_proto(facts.types[name], shapes[name])
    try:
        outputs = onnx.shape_inference.infer_node_outputs(
            onnx.defs.get_schema(node.op_type, version, node.domain),
            ir.to_proto(node),
            types,
            _known_data(facts, used, symbolic),
            opset_imports=imports,
        )
    except (onnx.shape_inference.InferenceError, onnx.defs.SchemaError):
        return {}
    return {name: _tensor_type(proto) for name, proto in outputs.items()}


def _has_graph(node: ir.Node) -> bool:
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return any(attribute.type in kinds for attribute in node.attributes.values())


def _known_data(
    facts: Facts, used: Iterable[ir.Value], symbolic: bool
) -> dict[str, onnx.TensorProto]:
    data = {}
    for value in used:
        name = str(value.name)
        dims = facts.dims.get(name)
        array = None
        if dims is not None:
            array = static_values(dims) if symbolic else values(dims)
        else:
            tensor = constant_tensor(value)
            if tensor is not None and tensor.nbytes <= _DATA_BYTES:
                array = constant_array(value)
        if array is not None and array.dtype.kind in "iufb":
            kind = facts.types[name].numpy()
            data[name] = onnx.numpy_helper.from_array(np.asarray(array).astype(kind), name)
    return data


def _tensor_type(proto: onnx.TypeProto) -> tuple[int, Symbols] | None:
    tensor = proto.tensor_type
    if not proto.HasField("tensor_type") or not tensor.HasField("shape"):
        return None
    dims: list[int | str | None] = []
    for dim in tensor.shape.dim:
        known = dim.HasField("dim_value")
        dims.append(dim.dim_value if known else dim.dim_param or None)
    return tensor.elem_type, tuple(dims)
