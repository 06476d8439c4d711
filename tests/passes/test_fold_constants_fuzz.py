"""fold-constants on random arithmetic of shapes; a failure names the seed."""

from __future__ import annotations

import random

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from rewriting import apply, run

from graphopt_passes.fold_constants import FoldConstants

SEEDS = range(120)
SHAPES = [(1, 1, 3, 8), (2, 5, 3, 8), (4, 2, 3, 8), (0, 3, 3, 8)]

ORT_ERRORS = (
    ort.capi.onnxruntime_pybind11_state.Fail,
    ort.capi.onnxruntime_pybind11_state.InvalidArgument,
    ort.capi.onnxruntime_pybind11_state.InvalidGraph,
    ort.capi.onnxruntime_pybind11_state.RuntimeException,
)


class Builder:
    """Grows a graph of small int64 tensors from the shape of `x`, float[N, M, 3, 8]."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.scalars: list[str] = []
        self.vectors: list[str] = []
        self.tensors = ["x"]

    def constant(self, values: list[int] | int) -> str:
        array = np.array(values, np.int64)
        name = f"w{len(self.weights)}"
        self.weights.append(onnx.numpy_helper.from_array(array, name))
        return name

    def node(self, op_type: str, inputs: list[str], **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], **attributes))
        return name

    def vector(self) -> str:
        if self.vectors and self.random.random() < 0.8:
            return self.random.choice(self.vectors)
        return self.constant([self.random.randint(-1, 9) for _ in range(self.random.randint(0, 3))])

    def scalar(self) -> str:
        if self.scalars and self.random.random() < 0.7:
            return self.random.choice(self.scalars)
        return self.constant(self.random.randint(-2, 9))

    def grow(self) -> None:
        """Adds one node at random."""
        self.random.choice(
            [
                *[self.add_shape] * 2,
                *[self.add_gather] * 2,
                self.add_slice,
                self.add_condition,
                self.add_arithmetic,
                self.add_cast,
                self.add_product,
                self.add_tensor,
                lambda: self.vectors.append(
                    self.node("Concat", [self.vector() for _ in range(2)], axis=0)
                ),
                lambda: self.vectors.append(
                    self.node("Unsqueeze", [self.scalar(), self.constant([0])])
                ),
                lambda: self.scalars.append(self.node("Squeeze", [self.vector()])),
            ]
        )()

    def add_shape(self) -> None:
        bounds = {key: self.random.randint(-5, 5) for key in ("start", "end")}
        chosen = {key: bounds[key] for key in bounds if self.random.random() < 0.4}
        self.vectors.append(self.node("Shape", [self.random.choice(self.tensors)], **chosen))

    def add_gather(self) -> None:
        index = self.random.randint(-2, 2)
        if self.random.random() < 0.6:
            self.scalars.append(self.node("Gather", [self.vector(), self.constant(index)]))
        else:
            indices = self.constant([index, 0])
            self.vectors.append(self.node("Gather", [self.vector(), indices]))

    def add_slice(self) -> None:
        start, end = (self.constant([self.random.randint(-4, 4)]) for _ in range(2))
        axis = self.constant([self.random.choice([0, -1])])
        step = self.constant([self.random.choice([1, 1, 2, -1, -2])])
        self.vectors.append(self.node("Slice", [self.vector(), start, end, axis, step]))

    def add_condition(self) -> None:
        condition = self.node("Equal", [self.vector(), self.scalar()])
        if self.random.random() < 0.5:
            self.vectors.append(self.node("Cast", [condition], to=TensorProto.INT64))
        else:
            self.vectors.append(self.node("Where", [condition, self.vector(), self.scalar()]))

    def add_arithmetic(self) -> None:
        operator = self.random.choice(["Add", "Sub", "Mul", "Div"])
        second = self.divisor() if operator == "Div" else self.scalar()
        if self.random.random() < 0.5:
            self.scalars.append(self.node(operator, [self.scalar(), second]))
        else:
            self.vectors.append(self.node(operator, [self.vector(), second]))

    def divisor(self) -> str:
        """Never zero: dividing by it ends the process in ONNX Runtime 1.23."""
        if self.random.random() < 0.3:
            return self.constant(-3)
        return self.node("Max", [self.scalar(), self.constant(1)])

    def add_cast(self) -> None:
        narrow = self.random.choice([TensorProto.INT32, TensorProto.BOOL])
        cast = self.node("Cast", [self.vector()], to=narrow)
        self.vectors.append(self.node("Cast", [cast], to=TensorProto.INT64))

    def add_product(self) -> None:
        keep = self.random.choice([0, 1])
        result = self.node("ReduceProd", [self.vector()], keepdims=keep)
        (self.vectors if keep else self.scalars).append(result)

    def add_tensor(self) -> None:
        source = self.random.choice(self.tensors)
        if self.random.random() < 0.3:
            self.tensors.append(self.node("Neg", [source]))
        else:
            self.tensors.append(self.node("Reshape", [source, self.vector()]))

    def model(self, outputs: list[str]) -> onnx.ModelProto:
        """The graph so far, giving `outputs`; float tensors flat, as their rank is not known."""
        nodes, values = list(self.nodes), []
        minus = onnx.numpy_helper.from_array(np.int64([-1]), "minus")
        for name in outputs:
            if name in self.tensors:
                nodes.append(helper.make_node("Reshape", [name, "minus"], [f"{name}_flat"]))
                values.append(
                    helper.make_tensor_value_info(f"{name}_flat", TensorProto.FLOAT, [f"{name}_n"])
                )
            else:
                shape = [] if name in self.scalars else [f"{name}_n"]
                values.append(helper.make_tensor_value_info(name, TensorProto.INT64, shape))
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "M", 3, 8])
        graph = helper.make_graph(nodes, "fuzz", [x], values, [*self.weights, minus])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def undo(self, lengths: list[int]) -> None:
        for items, length in zip(self.lists(), lengths, strict=True):
            del items[length:]

    def lists(self) -> list[list]:
        return [self.nodes, self.weights, self.scalars, self.vectors, self.tensors]


def grown(seed: int) -> onnx.ModelProto:
    """A random model that runs on the second of SHAPES; each node is tried as it is added."""
    builder = Builder(seed)
    x = np.zeros(SHAPES[1], np.float32)
    for _ in range(25):
        lengths = [len(items) for items in builder.lists()]
        builder.grow()
        try:
            (value,) = run(builder.model([builder.nodes[-1].output[0]]), {"x": x})
        except ORT_ERRORS:
            builder.undo(lengths)
            continue
        if value.size > 200 + x.size:
            builder.undo(lengths)
    used = {name for node in builder.nodes for name in node.input}
    integers = {*builder.scalars, *builder.vectors}
    results = [n.output[0] for n in builder.nodes if n.output[0] in {*integers, *builder.tensors}]
    return builder.model([name for name in results if name not in used])


@pytest.mark.parametrize("seed", SEEDS)
def test_random_shape_arithmetic(seed: int) -> None:
    model = grown(seed)
    outcome = apply(FoldConstants(), model)
    compared = 0
    for shape in SHAPES:
        feed = {"x": np.arange(np.prod(shape), dtype=np.float32).reshape(shape)}
        try:
            run(outcome.before, feed)
        except ORT_ERRORS:
            continue  # such as a Reshape that fits one shape only
        assert outcome.agrees(feed), (seed, shape)
        compared += 1
    assert compared
