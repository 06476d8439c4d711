"""Everything that a parser refuses, in the child process.

A parser stops at the first node that it cannot import. Here that node is cut out, its outputs
become inputs of the network, and the rest is parsed again, until nothing is refused any more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from graphopt.emit.tensorrt.builder import (
    Log,
    make_logger,
    network_flags,
    product_name,
    require_valid,
    without_empty_names,
)
from graphopt.emit.tensorrt.messages import Complaint, describe_errors
from graphopt.emit.tensorrt.request import BuildRequest, BuildResult

_ROUNDS = 1000
_MAX_ELEMENTS = 1 << 22  # of a constant that stands in for one that a refused node made


def find_complaints(trt: Any, request: BuildRequest, log: Log) -> BuildResult:
    """Parses the model and builds nothing.

    Returns:
        the complaints, each about another node, with a note if what is behind the last of them
        could not be parsed.

    Raises:
        GraphoptError: if the file is no valid model.
    """
    import onnx

    nodes = require_valid(request)
    model = onnx.load(request.model, load_external_data=False)
    without_empty_names(model)
    types = _types(model)
    complaints: list[Complaint] = []
    note = None
    for _ in range(_ROUNDS):
        said = len(log.errors)
        located = [_located(model, error) for error in _errors(trt, model, request, log)]
        if not located:
            break
        complaints += [complaint for complaint, _ in located]
        if not all(node is not None and _cut(model, node, types) for _, node in located):
            note = "what is behind the last of these nodes was not parsed"
            break
        if not model.graph.node or not model.graph.output:
            break
        del log.errors[said:]
    return BuildResult(
        builder=product_name(trt),
        build_seconds=0.0,
        engine_bytes=0,
        nodes=nodes,
        complaints=tuple(dict.fromkeys(complaints)),
        note=note,
    )


def _errors(trt: Any, model: Any, request: BuildRequest, log: Log) -> list[Any]:
    """What the parser says of `model`: (code, index, name, operator, text) of each error."""
    logger = make_logger(trt, log)
    network = trt.Builder(logger).create_network(network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(model.SerializeToString(), request.model)
    if parsed and not parser.num_errors:
        return []
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    told = [
        (
            getattr(error.code(), "name", str(error.code())),
            error.node(),
            error.node_name(),
            error.node_operator(),
            error.desc(),
        )
        for error in errors
    ]
    return told or [("", -1, "", "", describe_errors(log.errors))]


def _located(model: Any, error: tuple[str, int, str, str, str]) -> tuple[Complaint, Any]:
    """The complaint, and the node of the main graph that it is about or in; None if not found."""
    code, index, name, operator, text = error
    nodes = model.graph.node
    found = None
    if 0 <= index < len(nodes) and nodes[index].op_type == operator:
        named = nodes[index].name
        found = nodes[index] if not named or named == name else None
    if found is None:
        found = next((n for n in nodes if _holds(n, name, operator)), None)
    inner = found is not None and found.op_type != operator
    label = name if inner or found is None else found.name or found.output[0]
    return Complaint(code, label, operator, text), found


def _holds(node: Any, name: str, operator: str) -> bool:
    if node.name == name and node.op_type == operator:
        return True
    return any(_holds(inner, name, operator) for graph in _graphs(node) for inner in graph.node)


def _graphs(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _types(model: Any) -> dict[str, Any]:
    """The type of every value of the main graph that is known, as a TypeProto."""
    import onnx

    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        graph = model.graph
    values = (*graph.value_info, *graph.input, *graph.output)
    return {value.name: value.type for value in values}


def _cut(model: Any, node: Any, types: dict[str, Any]) -> bool:
    """Takes `node` out of the main graph, or what is wrong with it; False if that cannot be."""
    graph = model.graph
    if node not in graph.node:
        return True  # for another reason already
    if _repair(graph, node):
        return True
    used = {name for other in graph.node for name in _reads(other)}
    made = [name for name in node.output if name and name in used]
    if any(name not in types or not _is_whole(types[name]) for name in made):
        return False
    constants = {tensor.name for tensor in graph.initializer}
    is_constant = all(name in constants for name in node.input if name)
    for name in made:
        _stand_in(graph, name, types[name], is_constant)
    kept = [value for value in graph.output if value.name not in node.output]
    del graph.output[:]
    graph.output.extend(kept)
    graph.node.remove(node)
    return True


def _repair(graph: Any, node: Any) -> bool:
    """Puts zeros for the zero points of a Q or DQ node; True if they were something else."""
    import numpy as np
    from onnx import numpy_helper

    if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) < 3:
        return False
    for tensor in graph.initializer:
        if tensor.name == node.input[2] and not tensor.external_data:
            values = numpy_helper.to_array(tensor)
            if not np.any(values):
                return False
            name = f"{tensor.name}_zeros_of_{node.output[0]}"
            graph.initializer.append(numpy_helper.from_array(np.zeros_like(values), name))
            node.input[2] = name
            return True
    return False


def _reads(node: Any) -> Iterator[str]:
    yield from node.input
    for graph in _graphs(node):
        yield from (value.name for value in graph.output)
        for inner in graph.node:
            yield from _reads(inner)


def _is_whole(kind: Any) -> bool:
    return bool(kind.tensor_type.elem_type) and kind.tensor_type.HasField("shape")


def _stand_in(graph: Any, name: str, kind: Any, is_constant: bool) -> None:
    """Gives `name` another origin: a constant where it was one, an input of the network else."""
    from onnx import helper

    dims = [d.dim_value if d.HasField("dim_value") else -1 for d in kind.tensor_type.shape.dim]
    elements = 1
    for size in dims:
        elements *= size
    if is_constant and -1 not in dims and elements <= _MAX_ELEMENTS:
        import numpy as np
        from onnx import numpy_helper

        dtype = helper.tensor_dtype_to_np_dtype(kind.tensor_type.elem_type)
        graph.initializer.append(numpy_helper.from_array(np.zeros(dims, dtype), name))
        return
    value = graph.input.add()
    value.name = name
    value.type.CopyFrom(kind)
