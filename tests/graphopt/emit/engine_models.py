"""Small models for the engine tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Graph:
    """Collects nodes and initializers; a node's output is called after the node."""

    def __init__(self, dtype: type = np.float32, opset: int = 19) -> None:
        self.dtype = dtype
        self.element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.opset = opset
        self.random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.count = 0

    def input(self, name: str, shape: Sequence[int | str], element: int | None = None) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, element or self.element, shape))
        return name

    def constant(self, value: np.ndarray) -> str:
        self.count += 1
        self.initializers.append(numpy_helper.from_array(value, f"constant{self.count}"))
        return self.initializers[-1].name

    def weight(self, *shape: int) -> str:
        return self.constant((self.random.standard_normal(shape) * 0.1).astype(self.dtype))

    def op(self, op_type: str, *inputs: str, name: str = "", **attributes: object) -> str:
        self.count += 1
        name = name or f"{op_type.lower()}{self.count}"
        self.nodes.append(
            helper.make_node(op_type, inputs, [f"{name}_out"], name=name, **attributes)
        )
        return f"{name}_out"

    def qdq(self, value: str, zero_point: int = 0) -> str:
        scale = self.constant(np.array(0.05, self.dtype))
        zero = self.constant(np.array(zero_point, np.int8))
        return self.op(
            "DequantizeLinear", self.op("QuantizeLinear", value, scale, zero), scale, zero
        )

    def int8_weight(self, *shape: int, axis: int) -> str:
        values = self.random.integers(-127, 128, shape).astype(np.int8)
        scale = self.random.uniform(0.001, 0.002, shape[axis]).astype(self.dtype)
        zero = np.zeros(shape[axis], np.int8)
        inputs = [self.constant(array) for array in (values, scale, zero)]
        return self.op("DequantizeLinear", *inputs, axis=axis)

    def model(self, output: str, shape: Sequence[int | str]) -> onnx.ModelProto:
        self.nodes[-1].output[0] = output = "y" if output == self.nodes[-1].output[0] else output
        graph = helper.make_graph(
            self.nodes,
            "g",
            self.inputs,
            [helper.make_tensor_value_info(output, self.element, shape)],
            self.initializers,
        )
        opsets = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        return model


def float_net(batch: int | str = "batch") -> onnx.ModelProto:
    """Conv, Relu, MaxPool, Conv, Relu, GlobalAveragePool, Flatten, Gemm, on [batch, 3, 16, 16]."""
    g = Graph()
    x = g.input("image", [batch, 3, 16, 16])
    x = g.op("Relu", g.op("Conv", x, g.weight(16, 3, 3, 3), g.weight(16), name="conv1"))
    x = g.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = g.op("Relu", g.op("Conv", x, g.weight(32, 16, 3, 3), g.weight(32), name="conv2"))
    x = g.op("Flatten", g.op("GlobalAveragePool", x))
    x = g.op("Gemm", x, g.weight(10, 32), g.weight(10), name="fc", transB=1)
    return g.model(x, [batch, 10])


FLOAT_NET_WEIGHT_BYTES = 4 * (16 * 27 + 16 + 32 * 144 + 32 + 320 + 10)


def int8_net() -> onnx.ModelProto:
    """A quantized net with what a CNN is made of, placed by the rules for TensorRT.

    A first Conv of one channel, a residual block, a depthwise Conv, squeeze and excite, and a Gemm.
    """
    g = Graph()

    def conv(x: str, name: str, out: int, channels: int, size: int = 3, **attributes: int) -> str:
        weight = g.int8_weight(out, channels, size, size, axis=0)
        pads = [size // 2] * 4
        return g.op("Conv", x, weight, g.weight(out), name=name, pads=pads, **attributes)

    x = g.qdq(g.input("image", ["batch", 1, 16, 16]))
    x = g.qdq(g.op("Relu", conv(x, "stem", 16, 1)))
    branch = g.qdq(g.op("Relu", conv(x, "block1", 16, 16)))
    x = g.qdq(g.op("Relu", g.op("Add", conv(branch, "block2", 16, 16), x)))
    x = g.op("HardSwish", conv(x, "depthwise", 16, 1, group=16))
    squeezed = g.qdq(g.op("GlobalAveragePool", x))
    squeezed = g.qdq(g.op("Relu", conv(squeezed, "squeeze", 8, 16, 1)))
    x = g.op("Mul", x, g.op("HardSigmoid", conv(squeezed, "excite", 16, 8, 1)))
    x = g.op("Relu", conv(g.qdq(x), "head", 32, 16, 1))
    x = g.qdq(g.op("Flatten", g.op("GlobalAveragePool", x)))
    weight = g.int8_weight(10, 32, axis=0)
    return g.model(g.op("Gemm", x, weight, g.weight(10), name="fc", transB=1), ["batch", 10])


def attention() -> onnx.ModelProto:
    """One head in fp16: the three projections, softmax(q k) v, and the output projection."""
    g = Graph(np.float16)
    x = g.input("x", ["batch", 16, 64])
    q, k, v = (g.op("MatMul", x, g.weight(64, 64), name=name) for name in "qkv")
    scores = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 2, 1]), name="scores")
    scores = g.op("Softmax", g.op("Mul", scores, g.constant(np.array(0.125, np.float16))))
    mixed = g.op("MatMul", scores, v, name="mix")
    return g.model(g.op("MatMul", mixed, g.weight(64, 64), name="out"), ["batch", 16, 64])


def one_node(
    op_type: str, *shape: int | str, opset: int = 19, **attributes: object
) -> onnx.ModelProto:
    """One node on the input x."""
    g = Graph(opset=opset)
    return g.model(g.op(op_type, g.input("x", shape), name="only", **attributes), shape)


def int32_bias() -> onnx.ModelProto:
    """A quantized Conv with a dequantized int32 bias, as ONNX Runtime's quantizer writes it."""
    g = Graph()
    x = g.qdq(g.input("x", [1, 16, 8, 8]))
    values = [np.zeros(16, np.int32), np.full(16, 0.01, np.float32)]
    inputs = [g.constant(value) for value in values]
    bias = g.op("DequantizeLinear", *inputs, name="bias_dequantize", axis=0)
    x = g.op("Conv", x, g.int8_weight(16, 16, 1, 1, axis=0), bias, name="conv")
    return g.model(x, [1, 16, 8, 8])


def save(model: onnx.ModelProto, path: Path, *, external: bool = False) -> Path:
    """Writes `model`, with its weights beside it if `external`."""
    if external:
        onnx.save(
            model,
            path,
            save_as_external_data=True,
            location=f"{path.name}.data",
            size_threshold=0,
        )
    else:
        onnx.save(model, path)
    return path


BOOL, INT64 = TensorProto.BOOL, TensorProto.INT64
