"""Small nets with random weights, and the test that a cut is exact, for prune-channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graphopt import PassContext
from graphopt.data.arrays import ArraySamples
from graphopt.data.feeds import Feed, input_specs
from graphopt.runtime.session import Session
from graphopt.runtime.tap import tapped
from graphopt_passes.prune_channels.groups import Cut, Group, choose, find_groups
from graphopt_passes.prune_channels.labelling import Labelling
from graphopt_passes.prune_channels.masking import masked
from graphopt_passes.prune_channels.run import _state_types, analyse, cut_channels
from graphopt_passes.prune_channels.selfcheck import Check, compare

Shape = tuple["int | str", ...]


class Net:
    """Writes a graph node by node. Weights are random, but the same for the same seed.

    Values are names: each method that adds a node returns the name of its (first) output.
    """

    def __init__(self, seed: int = 0, opset: int = 17, kind: int = TensorProto.DOUBLE) -> None:
        self.kind = kind
        self.dtype = helper.tensor_dtype_to_np_dtype(kind)
        self.opset = opset
        self._random = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._count = 0

    def input(self, *shape: int | str, name: str = "x", kind: int | None = None) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, kind or self.kind, shape))
        return name

    def weight(self, *shape: int, name: str | None = None) -> str:
        """A constant around zero, scaled so that sums over its second axis stay near one."""
        scale = np.sqrt(max(np.prod(shape[1:]), 1))
        return self.constant(self._random.standard_normal(shape) / scale, name)

    def positive(self, *shape: int) -> str:
        return self.constant(self._random.uniform(0.5, 1.5, shape))

    def constant(self, array: Any, name: str | None = None) -> str:
        """A constant; Python floats and float64 take the type of the net."""
        array = np.asarray(array)
        if array.dtype == np.float64:
            array = array.astype(self.dtype)
        name = name or self._fresh("w")
        self._weights.append(numpy_helper.from_array(array, name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, dtype=np.int64))

    def node(
        self, op_type: str, *inputs: str, outputs: int = 1, name: str = "", **rest: Any
    ) -> Any:
        names = [self._fresh(op_type.lower()) for _ in range(outputs)]
        domain = rest.pop("domain", "")
        self._nodes.append(
            helper.make_node(op_type, inputs, names, name or names[0], domain=domain, **rest)
        )
        return names[0] if outputs == 1 else names

    def conv(
        self, x: str, channels: tuple[int, int], kernel: int = 3, group: int = 1, name: str = ""
    ) -> str:
        """A convolution with bias that keeps the size."""
        inputs, outputs = channels
        named = f"{name}.weight" if name else None
        weight = self.weight(outputs, inputs // group, kernel, kernel, name=named)
        pads = [kernel // 2] * 4
        return self.node("Conv", x, weight, self.weight(outputs), group=group, pads=pads, name=name)

    def norm(self, x: str, channels: int) -> str:
        """A BatchNormalization."""
        parameters = [self.weight(channels), self.weight(channels), self.weight(channels)]
        return self.node("BatchNormalization", x, *parameters, self.positive(channels))

    def linear(self, x: str, inputs: int, outputs: int, name: str = "") -> str:
        """A MatMul and an Add."""
        product = self.node("MatMul", x, self.weight(inputs, outputs), name=name)
        return self.node("Add", product, self.weight(outputs))

    def head(self, x: str, channels: int, classes: int = 3, name: str = "head") -> str:
        """Global average pool, Flatten, Gemm."""
        flat = self.node("Flatten", self.node("GlobalAveragePool", x))
        weight, bias = self.weight(classes, channels), self.weight(classes)
        return self.node("Gemm", flat, weight, bias, transB=1, name=name)

    def build(
        self,
        *outputs: str,
        functions: tuple[onnx.FunctionProto, ...] = (),
        domains: tuple[str, ...] = (),
        check: bool = True,
    ) -> ir.Model:
        """The model; its outputs have no stated shape until inference gives them one."""
        graph = helper.make_graph(
            self._nodes,
            "net",
            self._inputs,
            [helper.make_empty_tensor_value_info(name) for name in outputs],
            self._weights,
        )
        imports = [helper.make_opsetid("", self.opset)]
        imports += [helper.make_opsetid(domain, 1) for domain in domains]
        proto = helper.make_model(
            graph, opset_imports=imports, ir_version=10, functions=list(functions)
        )
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
        known = {value.name: value for value in inferred.graph.output}
        del proto.graph.output[:]
        proto.graph.output.extend(known[name] for name in outputs)
        if check:
            onnx.checker.check_model(proto, full_check=True)
        return ir.from_proto(proto)

    def _fresh(self, base: str) -> str:
        self._count += 1
        return f"{base}_{self._count}"


@dataclass(frozen=True)
class Outcome:
    """A model before and after, and what was found on the way."""

    original: ir.Model
    pruned: ir.Model
    found: Labelling
    groups: list[Group]
    cut: Cut
    check: Check

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an initializer of the pruned model."""
        value = self.pruned.graph.initializers[name]
        assert value.const_value is not None
        return tuple(value.const_value.shape.numpy())

    def sizes(self) -> list[tuple[int, int]]:
        """For each group, its atoms before and after."""
        return [(len(g.atoms), self.cut.count(g.atoms)) for g in self.groups]


def prune_exactly(
    model: ir.Model,
    ratio: float = 0.4,
    *,
    align: int = 1,
    exclude: tuple[str, ...] = (),
    batch: int = 3,
    seed: int = 0,
    cuts: bool = True,
    whole_heads: bool = False,
) -> Outcome:
    """Cuts random channels and compares all tensors with the masked original.

    A net in float64 runs in onnx's reference evaluator, and has to be equal up to 1e-10 of the
    peak of each tensor; one in float32 runs in ONNX Runtime, up to 1e-6.

    Raises:
        GraphoptError: if they differ by more.
    """
    found = analyse(model, exclude=exclude, whole_heads=whole_heads)
    _state_types(model, found)
    groups = find_groups(found)
    random = np.random.default_rng(seed)
    atoms = [atom for group in groups for atom in group.atoms.tolist()]
    scores = dict(zip(atoms, random.random(len(atoms)).tolist(), strict=True))
    cut = choose(found, groups, scores, ratio, align)
    assert cut.gone.any() == cuts, "nothing was cut" if cuts else "something was cut"
    pruned = cut_channels(model, found, cut)
    feed = random_feed(model, batch, seed)
    kind = next(v.dtype for v in model.graph.outputs)
    run = evaluate if kind == ir.DataType.DOUBLE else run_fast
    expected = run(masked(model, found, cut), feed)
    actual = run(pruned, feed)
    names = [
        str(value.name)
        for node in model.graph
        for value in node.outputs
        if value.name in actual and found.facts.types.get(str(value.name)) == kind
    ]
    check = compare({n: expected[n] for n in names}, actual, found, cut, groups)
    assert check.worst <= 1e-6
    final = {str(v.name) for v in model.graph.outputs}
    assert final <= set(names) or not cuts
    onnx.checker.check_model(ir.to_proto(pruned), full_check=True)
    return Outcome(model, pruned, found, groups, cut, check)


def random_feed(model: ir.Model, batch: int, seed: int = 0) -> Feed:
    """Random arrays for the inputs; every free dimension is `batch`."""
    random = np.random.default_rng(seed + 1)
    feed: Feed = {}
    for value in model.graph.inputs:
        if value.is_initializer():
            continue
        assert value.shape is not None
        assert value.dtype is not None
        shape = [dim if isinstance(dim, int) else batch for dim in value.shape]
        kind = value.dtype.numpy()
        drawn = random.standard_normal(shape) if kind.kind == "f" else random.integers(0, 2, shape)
        feed[str(value.name)] = drawn.astype(kind)
    return feed


def evaluate(model: ir.Model, feed: Feed) -> Feed:
    """Every named tensor of the main graph, by onnx's reference evaluator."""
    proto = ir.to_proto(model)
    names = [name for node in proto.graph.node for name in node.output if name]
    del proto.graph.output[:]
    proto.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    results = ReferenceEvaluator(proto).run(None, feed)
    return dict(zip(names, results, strict=True))


def run_fast(model: ir.Model, feed: Feed) -> Feed:
    """Every named tensor of the main graph, by ONNX Runtime."""
    names = [str(value.name) for node in model.graph for value in node.outputs if value.name]
    session = Session(tapped(model, names), threads=1)
    return session.run({name: feed[name] for name in session.inputs})


BARE: dict[str, Any] = {"score": "l1", "compensate": "none"}


def chain(kind: int = TensorProto.FLOAT, seed: int = 0) -> ir.Model:
    """Two convolutions with a ReLU each, and a classifier of 3 classes."""
    net = Net(kind=kind, seed=seed)
    x = net.node("Relu", net.conv(net.input("batch", 3, 6, 6), (3, 10), name="first"))
    x = net.node("Relu", net.conv(x, (10, 8), name="second"))
    return net.build(net.head(x, 8))


def noise(model: ir.Model, count: int = 256) -> PassContext:
    """Random samples as calibration data."""
    feed = random_feed(model, count)
    return PassContext(calibration=ArraySamples("noise", feed, input_specs(model)))


def weight(model: ir.Model, name: str) -> np.ndarray:
    value = model.graph.initializers[name].const_value
    assert value is not None
    return value.numpy()


def image(channels: int = 3, **options: int) -> tuple[Net, str]:
    """A net and its input, a batch of images of 6 by 6."""
    net = Net(**options)
    return net, net.input("batch", channels, 6, 6)


def grouped(kind: int = TensorProto.DOUBLE) -> ir.Model:
    net, x = image(kind=kind)
    x = net.conv(x, (3, 8))
    return net.build(net.head(net.conv(net.conv(x, (8, 12), group=2), (12, 6)), 6))


def depthwise(kind: int = TensorProto.DOUBLE) -> ir.Model:
    net, x = image(kind=kind)
    x = net.conv(net.norm(net.conv(x, (3, 8)), 8), (8, 16), group=8)
    return net.build(net.head(x, 16))


def joined(kind: int = TensorProto.DOUBLE) -> ir.Model:
    """A concatenation with itself, a residual sum and a transposed convolution."""
    net, x = image(kind=kind)
    one = net.conv(x, (3, 6))
    two = net.node("Concat", one, net.conv(x, (3, 5)), one, axis=1)
    up = net.node("ConvTranspose", two, net.weight(17, 7, 2, 2), strides=[2, 2])
    return net.build(net.head(net.node("Add", up, net.conv(up, (7, 7))), 7))


def shared(kind: int = TensorProto.DOUBLE) -> ir.Model:
    """Two layers with one bias, which then get a bias each."""
    net, x = image(kind=kind)
    bias = net.constant(np.zeros(6))
    for inputs in (3, 6):
        x = net.node("Conv", x, net.weight(6, inputs, 1, 1), bias)
    return net.build(net.head(x, 6))


def attention(kind: int = TensorProto.DOUBLE) -> ir.Model:
    net = Net(kind=kind)
    x = net.linear(net.input("batch", 5, 8), 8, 24)
    heads = net.node("Reshape", x, net.ints(0, 5, 3, 2, 4))
    heads = net.node("Transpose", heads, perm=[2, 0, 3, 1, 4])
    parts = [
        net.node("Squeeze", part, net.ints(0))
        for part in net.node("Split", heads, net.ints(1, 1, 1), outputs=3, axis=0)
    ]
    keys = net.node("Transpose", parts[1], perm=[0, 1, 3, 2])
    weights = net.node("Softmax", net.node("MatMul", parts[0], keys), axis=-1)
    mixed = net.node("Transpose", net.node("MatMul", weights, parts[2]), perm=[0, 2, 1, 3])
    return net.build(net.linear(net.node("Reshape", mixed, net.ints(0, 5, 8)), 8, 3))
