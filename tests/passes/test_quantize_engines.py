"""int8+fp16 graphs in TensorRT-RTX: what was promised is int8, nothing is fp32, weights shrink.

Asserted from the table of compiled kernels of real builds for SM86.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from quantize_nets import data, net

import graphopt
from graphopt.data.arrays import ArraySamples
from graphopt.data.feeds import input_specs
from graphopt.emit.tensorrt import EngineReport, batch_shapes
from graphopt.targets import get_target

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="TensorRT-RTX is made for x86-64 machines only"
)

FIXTURES = Path(__file__).parents[2] / "fixtures"
SAMPLES = 32
# Options that choose numbers: what is computed in which type does not depend on them.
PLAIN = "tune_ranges=false,round_weights=false,correct_bias=false"
INT8_FP16 = f"lossless,quantize{{samples={SAMPLES},{PLAIN}}},cast-precision{{samples=8}}"
COMPUTE = {"Conv", "Gemm", "MatMul"}

# By net: how many nodes quantize promises, and the nodes besides that stay fp16.
PROMISED = {
    "resnet": (12, 0),
    "mobilenet": (27, 0),
    "vit": (26, 8),  # a product of two activations each
    "convs": (4, 0),
    "tokens": (3, 0),
    "gemms": (3, 0),
}
# Of a net of few channels: each of them has three fp32 numbers beside its weights, and a depthwise
# Conv four weights where the file has one, so the int8 weights alone are 30% of the fp32 ones.
LARGEST = {"mobilenet": 0.37}


def convs() -> ir.Model:
    """A Conv, a grouped one and a pointwise one with a skip, and a Gemm."""
    return net(
        """
        a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        b = Relu (a)
        c = Conv <pads = [1, 1, 1, 1], group = 4> (b, w2)
        d = Relu (c)
        e = Conv (d, w3)
        f = Add (e, b)
        g = GlobalAveragePool (f)
        h = Flatten (g)
        y = Gemm <transB = 1> (h, w4, b4)
        """,
        inputs="float[N, 16, 16, 16] x",
        outputs="float[N, 96] y",
        w1=(64, 16, 3, 3),
        b1=(64,),
        w2=(64, 16, 3, 3),
        w3=(64, 64, 1, 1),
        w4=(96, 64),
        b4=(96,),
    )


def tokens() -> ir.Model:
    """The second half of a transformer's block, and a head."""
    return net(
        """
        a = LayerNormalization (x, scale, shift)
        b = MatMul (a, w1)
        c = Add (b, b1)
        d = Relu (c)
        e = MatMul (d, w2)
        f = Add (e, x)
        y = MatMul (f, w3)
        """,
        inputs="float[N, 32, 64] x",
        outputs="float[N, 32, 96] y",
        scale=(64,),
        shift=(64,),
        w1=(64, 256),
        b1=(256,),
        w2=(256, 64),
        w3=(64, 96),
    )


def gemms() -> ir.Model:
    """Weights both ways round, and what is no ReLU between them."""
    return net(
        """
        a = Gemm (x, w1, b1)
        b = Tanh (a)
        c = Gemm <transB = 1> (b, w2)
        d = Sigmoid (c)
        y = Gemm <transB = 1> (d, w3, b3)
        """,
        inputs="float[N, 128] x",
        outputs="float[N, 64] y",
        w1=(128, 192),
        b1=(192,),
        w2=(256, 192),
        w3=(64, 256),
        b3=(64,),
    )


NETS = {"convs": convs, "tokens": tokens, "gemms": gemms}


class Built:
    """A net in fp32 and in int8+fp16, as models and as engines."""

    def __init__(self, name: str, folder: Path) -> None:
        original = NETS[name]() if name in NETS else graphopt.load(FIXTURES / f"{name}.onnx")
        if name in NETS:
            samples = ArraySamples("noise", data(original, SAMPLES), input_specs(original))
            done = self._optimize(original, samples)
        else:
            done = self._optimize(original, str(FIXTURES / "calib.npz"))
        rows = (row for step in done.report.steps for row in step.details.get("quantized", ()))
        self.promised = [row["node"] for row in rows]
        self.whole = graphopt.optimize(original, "lossless", target="sm86", verify="off").model
        self.small = done.model
        self.fp32 = _engine(self.whole, folder / f"{name}.fp32.onnx")
        self.int8 = _engine(self.small, folder / f"{name}.int8.onnx")

    @staticmethod
    def _optimize(model: ir.Model, samples: str | ArraySamples) -> graphopt.Optimized:
        return graphopt.optimize(model, INT8_FP16, calibration=samples, target="sm86", verify="off")


def _engine(model: ir.Model, path: Path) -> EngineReport:
    graphopt.save(model, path)
    return graphopt.build_engine(
        path, path.with_suffix(".engine"), target=get_target("sm86"), shapes=batch_shapes(model)
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("engines")
    return cache(lambda name: Built(name, folder))


@pytest.mark.parametrize("name", PROMISED)
def test_what_is_promised_is_int8_and_nothing_is_fp32(name: str, built) -> None:  # type: ignore[no-untyped-def]
    of = built(name)
    promised, fp16 = PROMISED[name]
    kinds = {node.name: node.precision for node in of.int8.compute_nodes or ()}
    assert len(of.promised) == promised
    assert {kinds[node] for node in of.promised} == {"int8"}
    others = {node: kind for node, kind in kinds.items() if node not in of.promised}
    assert list(others.values()) == ["fp16"] * fp16
    assert of.int8.unfused == ()


@pytest.mark.parametrize("name", PROMISED)
def test_every_layer_with_constant_weights_is_promised(name: str, built) -> None:  # type: ignore[no-untyped-def]
    of = built(name)
    layers = {
        node.name
        for node in of.small.graph
        if node.op_type in COMPUTE and _reads_weights(node.inputs[1])
    }
    assert layers == set(of.promised)


def _reads_weights(value: ir.Value | None) -> bool:
    producer = value.producer() if value is not None else None
    if producer is None:
        return value is not None and value.is_initializer()
    return producer.op_type == "DequantizeLinear" and _reads_weights(producer.inputs[0])


@pytest.mark.parametrize("name", PROMISED)
def test_weights_are_less_than_30_percent(name: str, built) -> None:  # type: ignore[no-untyped-def]
    of = built(name)
    whole, small = (_weights(model) for model in (of.whole, of.small))
    assert small < 0.30 * whole, "in the files"
    assert of.int8.weight_bytes < LARGEST.get(name, 0.30) * of.fp32.weight_bytes
    # All that is not int8 are scales and biases: nothing large is stored in float.
    large = [
        tensor
        for kernel in of.int8.compute_kernels()
        for tensor in kernel.constants
        if tensor.dtype != "int8" and np.prod(tensor.shape) > 512
    ]
    assert large == []


def _weights(model: ir.Model) -> int:
    return sum(
        value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None
    )
