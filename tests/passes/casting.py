"""What the tests of `cast-precision` share: cast a net, check it, compute it in real fp16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from quantize_nets import Array, decibels

from graphopt.data.arrays import ArraySamples
from graphopt.data.feeds import Feed, input_specs
from graphopt.ir import check, load
from graphopt.pipeline.base import PassContext, PassResult
from graphopt.runtime.session import Session
from graphopt.targets import get_target
from graphopt_passes.cast_precision import CastPrecision


def proto(
    body: str,
    inputs: str = "float[2, 8] x",
    outputs: str = "float[2, 8] y",
    *,
    opset: int = 17,
    ir_version: int = 8,
    imports: str = "",
    functions: str = "",
    **weights: Any,
) -> onnx.ModelProto:
    """A checked model from ONNX text; each node is called after its first output.

    Args:
        weights: initializers by name: arrays, or what becomes one of float32.
    """
    text = f'<ir_version: {ir_version}, opset_import: ["" : {opset}{imports}]>\n'
    model = onnx.parser.parse_model(f"{text} g ({inputs}) => ({outputs}) {{ {body} }} {functions}")
    for name, given in weights.items():
        array = given if isinstance(given, np.ndarray) else np.array(given, np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for node in model.graph.node:
        node.name = node.output[0]
    onnx.checker.check_model(model)
    return model


@dataclass(frozen=True)
class Cast:
    """A model before and after the pass."""

    before: onnx.ModelProto
    after: onnx.ModelProto
    result: PassResult

    @property
    def left(self) -> dict[str, str]:
        """What stays fp32, by name: the reason."""
        return {row["node"]: row["reason"] for row in self.result.details.get("float", ())}

    @property
    def operators(self) -> list[str]:
        return [node.op_type for node in self.after.graph.node]

    def type_of(self, name: str) -> str:
        """The element type of a value, as ONNX calls it."""
        inferred = onnx.shape_inference.infer_shapes(self.after, strict_mode=True).graph
        for value in (*inferred.value_info, *inferred.input, *inferred.output):
            if value.name == name:
                return onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
        found = {t.name: t.data_type for t in inferred.initializer}
        return onnx.TensorProto.DataType.Name(found[name])

    def constant(self, name: str) -> Array:
        (found,) = [t for t in self.after.graph.initializer if t.name == name]
        return onnx.numpy_helper.to_array(found)

    def sqnr(self, feed: Feed) -> float:
        """How well the outputs are kept in dB, the least of them, all in real fp16.

        The reference evaluator computes in numpy, where fp16 overflows.
        """
        expected = Session(load(self.before.SerializeToString()), threads=1).run(feed).values()
        with np.errstate(all="ignore"):
            got = ReferenceEvaluator(self.after).run(None, dict(feed))
        ratios = []
        for one, other in zip(expected, got, strict=True):
            assert np.isfinite(other).all() or not np.isfinite(one).all()
            assert one.dtype == other.dtype
            ratios.append(decibels(one, other))
        return min(ratios)


def cast(
    model: onnx.ModelProto, feed: Feed | None = None, target: str = "generic", **options: Any
) -> Cast:
    """Runs the pass, with `feed` (stacked samples) to calibrate on if there is one.

    Checks what must always hold: a valid model, sorted and well typed; the same interface.
    """
    loaded = load(model.SerializeToString())
    samples = None if feed is None else ArraySamples("test data", feed, input_specs(loaded))
    context = PassContext(target=get_target(target), calibration=samples)
    result = CastPrecision(**options).run(loaded, context)
    check(result.model)
    after = ir.to_proto(result.model)
    onnx.checker.check_model(after, full_check=True)
    onnx.shape_inference.infer_shapes(after, strict_mode=True, data_prop=True)
    if options.get("io") != "low":
        assert list(after.graph.input) == list(model.graph.input)
        assert list(after.graph.output) == list(model.graph.output)
    if not after.functions and options.get("to") != "bf16":
        Session(result.model, threads=1)
    return Cast(model, after, result)


def noise(*shape: int, scale: float = 1.0, seed: int = 0) -> Array:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)
