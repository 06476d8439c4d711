"""Small nets to quantize, written as ONNX text, and what the tests ask of the results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx.reference import ReferenceEvaluator

from graphopt.data.arrays import ArraySamples
from graphopt.data.feeds import Feed, input_specs
from graphopt.ir import check
from graphopt.pipeline.base import PassContext, PassResult
from graphopt.runtime.session import Session
from graphopt.targets import get_target
from graphopt_passes.quantize import Quantize

IMAGE = "float[N, 4, 8, 8] x"
Array = np.ndarray[Any, Any]


def net(
    body: str,
    inputs: str = IMAGE,
    outputs: str = "float[N, C, H, W] y",
    *,
    opset: int = 17,
    imports: str = "",
    functions: str = "",
    **weights: tuple[int, ...] | list[int] | Array,
) -> ir.Model:
    """A checked model; each node is called after its first output.

    Args:
        weights: initializers by name: a shape (random float32), a list (int64) or an array.
    """
    text = f'<ir_version: 8, opset_import: ["" : {opset}{imports}]>\n'
    text += f"g ({inputs}) => ({outputs}) {{ {body} }} {functions}"
    model = onnx.parser.parse_model(text)
    generator = np.random.default_rng(0)
    for name, given in weights.items():
        if isinstance(given, tuple):
            given = (generator.standard_normal(given) * 0.3).astype(np.float32)
        elif isinstance(given, list):
            given = np.array(given, np.int64)
        model.graph.initializer.append(onnx.numpy_helper.from_array(given, name))
    for node in model.graph.node:
        node.name = node.output[0]
    onnx.checker.check_model(model)
    return ir.from_proto(model)


def data(model: ir.Model, count: int = 8, seed: int = 0) -> Feed:
    """Normal noise for every input; free dimensions but the first are 1."""
    generator = np.random.default_rng(seed)
    return {
        spec.name: generator.standard_normal([count, *(dim or 1 for dim in spec.shape[1:])]).astype(
            spec.dtype
        )
        for spec in input_specs(model)
    }


def context(model: ir.Model, feed: Feed | None = None, target: str = "generic") -> PassContext:
    samples = ArraySamples("test data", feed or data(model), input_specs(model))
    return PassContext(target=get_target(target), calibration=samples)


PLAIN = {
    "canonicalize": False, "tune_ranges": False, "round_weights": False, "correct_bias": False
}  # fmt: skip
"""Options that leave the model as it is, and the numbers as they are chosen at first."""


def quantize(
    model: ir.Model, feed: Feed | None = None, *, target: str = "generic", **options: Any
) -> PassResult:
    """Runs the pass on `model` as it stands and checks that the result is a valid model.

    Small layers on their own are quantized too, unless `islands` says otherwise.
    """
    options = {**PLAIN, "islands": True, **options}
    result = Quantize(**options).run(model, context(model, feed, target))
    check(result.model)
    onnx.checker.check_model(ir.to_proto(result.model), full_check=True)
    return result


def nodes(model: ir.Model) -> list[str]:
    """The nodes of `model`, as `output = Operator(inputs)`, without weights' and scales' own.

    The pair behind a tensor `t` is one line, `t^ = QDQ(t)`; the dequantized weight `w` is `w^`.
    """
    names = {}
    for node in model.graph:
        if node.op_type == "DequantizeLinear":
            (scaled,) = node.outputs
            names[scaled.name] = str(scaled.name).removesuffix("_dequantized") + "^"
    lines = []
    for node in model.graph:
        inputs = [names.get(v.name, v.name) if v is not None else "" for v in node.inputs]
        if node.op_type == "QuantizeLinear":
            lines.append(f"{inputs[0]}^ = QDQ({inputs[0]})")
        elif node.op_type != "DequantizeLinear":
            outputs = ", ".join(str(value.name) for value in node.outputs)
            lines.append(f"{outputs} = {node.op_type}({', '.join(map(str, inputs))})")
    return lines


def body(model: ir.Model) -> str:
    return "; ".join(nodes(model))


def constant(model: ir.Model, name: str) -> Array:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def reference(model: ir.Model, feed: Feed) -> list[Array]:
    """The outputs by the ONNX reference evaluator."""
    return list(ReferenceEvaluator(ir.to_proto(model)).run(None, feed))


def runtime(model: ir.Model, feed: Feed, *, optimize: bool = False) -> list[Array]:
    """The outputs by ONNX Runtime, its optimizations off unless they are asked for."""
    return list(Session(model, optimize=optimize, threads=1).run(feed).values())


def kernels(model: ir.Model, folder: Path) -> list[str]:
    """The operators that ONNX Runtime runs on a CPU, in order, its optimizations on."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4  # that the file is for this machine alone
    onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node]


def decibels(signal: Array, other: Array) -> float:
    """The signal-to-noise ratio of `other` against `signal`; inf if they are equal."""
    noise = (signal.astype(np.float64) - other.astype(np.float64)) ** 2
    with np.errstate(divide="ignore"):
        return float(10 * np.log10((signal.astype(np.float64) ** 2).sum() / noise.sum()))
