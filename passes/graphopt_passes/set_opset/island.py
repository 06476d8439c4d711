"""One node as a model of its own, through onnx's converter."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

import onnx
import onnx_ir as ir

from graphopt.ir import add_constant, constant_tensor, label, subgraphs
from graphopt.ir.checking import SMALL_TENSOR_BYTES
from graphopt.ir.facts import Facts
from graphopt.ir.structure import attribute_key, tensor_key
from graphopt_passes.inline.splice import Part, Splicer, emptied
from graphopt_passes.set_opset.operators import RESIZE_WITH_MODES, schema_of
from graphopt_passes.set_opset.types import Types

# What onnx's converter can hold as constants.
_HELD = frozenset(
    {
        ir.DataType.BOOL,
        ir.DataType.DOUBLE,
        ir.DataType.FLOAT,
        ir.DataType.FLOAT16,
        ir.DataType.INT32,
        ir.DataType.INT64,
        ir.DataType.INT8,
        ir.DataType.UINT8,
    }
)


class NotConvertibleError(Exception):
    """Why a node cannot be converted."""


class Island:
    """A model of one node, whose inputs are of the types and shapes that are certain.

    Its values are called i0, i1, ... and o0, o1, ...
    """

    def __init__(self, node: ir.Node, facts: Facts, types: Types, old: int, new: int) -> None:
        self.node = node
        self._facts = facts
        self._types = types
        self._old = old
        self._new = new
        self._inputs = {v: f"i{n}" for n, v in enumerate(node.inputs) if v is not None}
        self._names = [self._inputs[v] if v is not None else "" for v in node.inputs]
        self._outputs = [f"o{n}" if _is_made(v) else "" for n, v in enumerate(node.outputs)]
        self._converted: onnx.ModelProto | None = None
        self._untyped: str | None = None
        """The name of a value of unknown type."""

    @property
    def key(self) -> Hashable:
        """Nodes with the same key are converted alike; the node itself if it cannot be told."""
        attributes = []
        for name, attribute in sorted(self.node.attributes.items()):
            key = attribute_key(attribute)
            if key is None:
                return self.node
            attributes.append((name, key))
        given = []
        for value in self.node.inputs:
            held = self._held(value)
            fact = self._facts[value]
            given.append((value is None, fact.dtype, fact.dims, held and tensor_key(held)))
        return (self.node.op_type, tuple(attributes), tuple(given), tuple(self._outputs))

    def _held(self, value: ir.Value | None) -> ir.TensorProtocol | None:
        tensor = constant_tensor(value)
        if tensor is None or tensor.dtype not in _HELD or tensor.nbytes > SMALL_TENSOR_BYTES:
            return None
        return tensor

    def convert(self) -> None:
        """Has onnx convert the node.

        Raises:
            NotConvertibleError: if onnx cannot, or the result cannot be trusted.
        """
        if next(subgraphs(self.node), None) is not None:
            raise NotConvertibleError("it has subgraphs")
        before = self._model()
        try:
            after = onnx.version_converter.convert_version(before, self._new)
        except (RuntimeError, ValueError) as error:
            raise NotConvertibleError(_reason(error)) from None
        if self._old < RESIZE_WITH_MODES <= self._new:
            _keep_corners(after.graph)
        self._check(before, after)
        self._converted = after
        if self._untyped and not (self.is_unchanged and self._new > self._old):
            # A node that is the same for floats is for all types: those only become more.
            raise NotConvertibleError(f"the type of '{self._untyped}' is not known")

    @property
    def is_unchanged(self) -> bool:
        """Whether the node is the same in both opsets."""
        if self._converted is None or len(self._converted.graph.node) != 1:
            return False
        one, other = onnx.NodeProto(), onnx.NodeProto()
        one.CopyFrom(self._node())
        other.CopyFrom(self._converted.graph.node[0])
        for node in (one, other):
            node.name = ""
            attributes = sorted(node.attribute, key=lambda attribute: attribute.name)
            while node.input and not node.input[-1]:
                node.input.pop()
            while node.output and not node.output[-1]:
                node.output.pop()
            copies = [onnx.AttributeProto.FromString(a.SerializeToString()) for a in attributes]
            for attribute in copies:
                attribute.doc_string = ""
                attribute.t.name = "" if attribute.HasField("t") else attribute.t.name
            del node.attribute[:]
            node.attribute.extend(copies)
        return one == other

    def splice(self, splicer: Splicer) -> None:
        """Puts what the node has become in its place, under its name."""
        if self._converted is None:
            raise ValueError("not converted")
        node = self.node
        graph = ir.from_proto(self._converted).graph
        values = ir.convenience.create_value_mapping(graph)
        for name, outer in zip(self._names, node.inputs, strict=True):
            inner = values.get(name)
            for user, index in () if inner is None else inner.uses():
                user.replace_input_with(index, outer)
            graph.initializers.pop(name, None)
        splicer.release(node)
        constants = splicer.constants(graph, node)
        self._lift_constants(graph, splicer)
        found = [values[name] if name else None for name in self._outputs]
        results = [None if v is None else constants.get(v, v) for v in found]
        nodes = emptied(graph)
        main = next((v.producer() for v in results if v is not None), None)
        for inner_node in nodes:
            inner_node.name = ""
            inner_node.metadata_props.update(node.metadata_props)
            for value in inner_node.outputs:
                value.shape = None
        own_name, text = node.name, node.doc_string
        splicer.splice(node, [Part(nodes, prefix=f"{label(node)}/")], results)
        if main is not None:
            main.name, main.doc_string = own_name, text

    def _lift_constants(self, graph: ir.Graph, splicer: Splicer) -> None:
        """Turns the Constant nodes of `graph` into constants around it, called after their use."""
        for node in list(graph):
            tensor = constant_tensor(node.outputs[0])
            use = next(iter(node.outputs[0].uses()), None)
            schema = None if use is None else schema_of(use.node.op_type, self._new)
            if tensor is None or use is None or schema is None:
                continue
            what = schema.inputs[min(use.idx, len(schema.inputs) - 1)].name
            fresh = splicer.fresh(f"{label(self.node)}/{what}")
            new = add_constant(splicer.model, fresh, tensor, self.node)
            node.outputs[0].replace_all_uses_with(new)
            graph.remove(node, safe=True)

    def _model(self) -> onnx.ModelProto:
        inputs, held = [], []
        for value, name in self._inputs.items():
            tensor = self._held(value)
            if tensor is None:
                inputs.append(self._info(value, name))
            else:
                array = tensor.numpy()
                held.append(onnx.numpy_helper.from_array(array, name))
        outputs = [
            onnx.helper.make_tensor_value_info(name, self._type(value), self._shape(value))
            for value, name in zip(self.node.outputs, self._outputs, strict=True)
            if name
        ]
        graph = onnx.helper.make_graph([self._node()], "node", inputs, outputs, held)
        opset = onnx.helper.make_opsetid("", self._old)
        return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10)

    def _node(self) -> onnx.NodeProto:
        proto = onnx.NodeProto()
        proto.CopyFrom(ir.to_proto(self.node))
        proto.name, proto.doc_string, proto.domain = "", "", ""
        del proto.metadata_props[:], proto.input[:], proto.output[:]
        proto.input.extend(self._names)
        proto.output.extend(self._outputs)
        return proto

    def _type(self, value: ir.Value) -> int:
        if value.type is not None and not isinstance(value.type, ir.TensorType):
            raise NotConvertibleError("it deals with other values than tensors")
        dtype = self._facts.dtype(value) or self._types.of(value)
        if dtype is None:
            self._untyped = self._untyped or value.name
            return 0 if value in self.node.outputs else int(ir.DataType.FLOAT)
        return int(dtype)

    def _info(self, value: ir.Value, name: str) -> onnx.ValueInfoProto:
        return onnx.helper.make_tensor_value_info(name, self._type(value), self._shape(value))

    def _shape(self, value: ir.Value) -> list[int | str] | None:
        dims = self._facts.dims(value)
        if dims is None:
            return None
        return [dim if isinstance(dim, int) else f"d{n}" for n, dim in enumerate(dims)]

    def _check(self, before: onnx.ModelProto, after: onnx.ModelProto) -> None:
        """Raises NotConvertibleError if `after` is no valid model or gives other types."""
        try:
            for node in after.graph.node:
                onnx.checker.check_node(node, _context(self._new))
            inferred = onnx.shape_inference.infer_shapes(after, check_type=True, strict_mode=True)
        except (
            onnx.checker.ValidationError,
            onnx.shape_inference.InferenceError,
            RuntimeError,
        ) as error:
            raise NotConvertibleError(f"onnx converts it wrongly: {_reason(error)}") from None
        if [v.name for v in after.graph.output] != [v.name for v in before.graph.output]:
            raise NotConvertibleError("onnx's conversion loses an output")
        for problem in _forbidden_types(inferred.graph, self._new):
            raise NotConvertibleError(problem)


def _keep_corners(graph: onnx.GraphProto) -> None:
    """Has the Resize that came of one before opset 11 do what that did; onnx leaves this out."""
    modes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    for node in graph.node:
        if node.op_type == "Resize":
            node.attribute.extend(
                onnx.helper.make_attribute(name, mode)
                for name, mode in modes.items()
                if name not in {attribute.name for attribute in node.attribute}
            )


def _is_made(value: ir.Value) -> bool:
    """Whether a node is to make its output `value`: not the unused mask of a Dropout, the type of
    which changed."""
    if not value.name:
        return False
    node = value.producer()
    needed = bool(value.uses()) or value.is_graph_output()
    return needed or value.index() == 0 or node is None or node.op_type != "Dropout"


def _context(opset: int) -> onnx.checker.C.CheckerContext:
    context = onnx.checker.C.CheckerContext()
    context.ir_version, context.opset_imports = onnx.IR_VERSION, {"": opset}
    return context


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split("==> Context")[0].split())
    return text.split("` failed: ", 1)[-1].replace("$", "")


def _forbidden_types(graph: onnx.GraphProto, opset: int) -> Iterator[str]:
    """What inputs of nodes in `graph` are of types that their operators do not take."""
    types = {t.name: t.data_type for t in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.HasField("tensor_type"):
            types[value.name] = value.type.tensor_type.elem_type
    for node in graph.node:
        schema = schema_of(node.op_type, opset)
        if schema is None:
            yield f"there is no {node.op_type} in opset {opset}"
            continue
        allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
        for index, name in enumerate(node.input):
            formal = schema.inputs[min(index, len(schema.inputs) - 1)]
            kind = onnx.TensorProto.DataType.Name(types.get(name, 0)).lower()
            if types.get(name) and f"tensor({kind})" not in allowed.get(
                formal.type_str, [formal.type_str]
            ):
                yield f"{node.op_type} of opset {opset} takes no {kind} there"
