"""Residual nets in ONNX text with random weights, for prune-blocks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from graphopt import PassContext
from graphopt.data.arrays import ArraySamples
from graphopt.data.feeds import Feed, input_specs
from graphopt.ir.facts import Facts
from graphopt.pipeline.base import Declined
from graphopt.runtime.session import Session
from graphopt_passes.prune_blocks.blocks import Block, find_blocks

IMAGE = "float[n, 4, 6, 6] x"
TOKENS = "float[n, 5, 8] x"


def net(body: str, inputs: str, weights: str, outputs: str = "y", *, seed: int = 0) -> ir.Model:
    """A checked model.

    Args:
        body: nodes as text.
        inputs, weights: names with their types as text; weights are drawn at random.
        outputs: names; their types are inferred.
    """
    header = '<ir_version: 10, opset_import: ["" : 20]>'
    shown = ", ".join(f"float[] {name}" for name in outputs.split())
    text = f"{header} net ({inputs}) => ({shown}) <{weights}> {{ {body} }}"
    proto = onnx.parser.parse_model(text)
    random = np.random.default_rng(seed)
    for info in proto.graph.value_info:
        kind = info.type.tensor_type
        shape = [dim.dim_value for dim in kind.shape.dim]
        drawn = random.standard_normal(shape) / np.sqrt(max(np.prod(shape[1:]), 1))
        if len(shape) == 1:  # scales, and biases that keep some of each Relu's inputs positive
            drawn = 0.5 + 0.1 * drawn
        array = np.asarray(drawn).astype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
        proto.graph.initializer.append(numpy_helper.from_array(array, info.name))
    del proto.graph.value_info[:]
    for output in proto.graph.output:
        output.CopyFrom(helper.make_empty_tensor_value_info(output.name))
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    for output, known in zip(proto.graph.output, inferred.graph.output, strict=True):
        output.CopyFrom(known)
    for number, node in enumerate(proto.graph.node):
        node.name = node.name or f"{node.op_type.lower()}_{number}"
    onnx.checker.check_model(proto, full_check=True)
    return ir.from_proto(proto)


def found(model: ir.Model) -> tuple[list[Block], list[Declined]]:
    return find_blocks(model, Facts(model))


def branches(model: ir.Model) -> list[str]:
    """The branches of the blocks of `model`, by name."""
    return sorted(block.branch for block in found(model)[0])


def random_feed(model: ir.Model, count: int = 3, seed: int = 1) -> Feed:
    """Standard normal numbers; what is free is of length `count` if first, otherwise 5."""
    random = np.random.default_rng(seed)
    shapes = {
        spec.name: [count if not i else dim or 5 for i, dim in enumerate(spec.shape)]
        for spec in input_specs(model)
    }
    return {
        spec.name: random.standard_normal(shapes[spec.name]).astype(spec.dtype)
        for spec in input_specs(model)
    }


def noise(model: ir.Model, count: int = 64) -> PassContext:
    feed = random_feed(model, count)
    return PassContext(calibration=ArraySamples("noise", feed, input_specs(model)))


def with_branch(model: ir.Model, block: Block, factor: float, shift: float = 0.0) -> ir.Model:
    """`model` with the branch of `block` multiplied by `factor` and moved by `shift`."""
    proto = ir.to_proto(model)
    (place,) = [i for i, node in enumerate(proto.graph.node) if block.add in node.output]
    kind = numpy_helper.to_array(proto.graph.initializer[0]).dtype
    for name, number in (("factor", factor), ("shift", shift)):
        proto.graph.initializer.append(numpy_helper.from_array(np.array(number, kind), name))
    proto.graph.node[place].input[block.index] = "moved"
    proto.graph.node.insert(place, helper.make_node("Add", ["scaled", "shift"], ["moved"]))
    proto.graph.node.insert(place, helper.make_node("Mul", [block.branch, "factor"], ["scaled"]))
    return ir.from_proto(proto)


def outputs(model: ir.Model, feed: Feed) -> Mapping[str, np.ndarray]:
    return Session(model).run(feed)


POST_ACTIVATION = net(
    """s = Conv <pads = [1,1,1,1]> (x, w0, b)
    x0 = Relu (s)
    c1 = Conv <pads = [1,1,1,1]> (x0, w1, b)  r1 = Relu (c1)
    c2 = Conv <pads = [1,1,1,1]> (r1, w2, b)  a1 = Add (c2, x0)  x1 = Relu (a1)
    c3 = Conv <strides = [2,2], pads = [1,1,1,1]> (x1, w3, b)  r3 = Relu (c3)
    c4 = Conv <pads = [1,1,1,1]> (r3, w4, b)  d = Conv <strides = [2,2]> (x1, w5)
    a2 = Add (c4, d)  x2 = Relu (a2)
    c5 = Conv <pads = [1,1,1,1]> (x2, w6, b)  a3 = Add (x2, c5)  x3 = Relu (a3)
    g = GlobalAveragePool (x3)  f = Flatten (g)  y = Gemm (f, w7)""",
    IMAGE,
    "float[4,4,3,3] w0, float[4,4,3,3] w1, float[4,4,3,3] w2, float[4,4,3,3] w3,"
    "float[4,4,3,3] w4, float[4,4,1,1] w5, float[4,4,3,3] w6, float[4,3] w7, float[4] b",
)

PRE_NORM = net(
    """n1 = LayerNormalization (x, s1, b1)
    q = MatMul (n1, wq)  k = MatMul (n1, wk)  v = MatMul (n1, wv)
    kt = Transpose <perm = [0,2,1]> (k)  qk = MatMul (q, kt)  masked = Add (qk, mask)
    p = Softmax (masked)
    o = MatMul (p, v)  a = MatMul (o, wo)  ab = Add (a, bo)  x1 = Add (x, ab)
    n2 = LayerNormalization (x1, s2, b2)
    h = MatMul (n2, w1)  hb = Add (h, bh)  g = Gelu (hb)
    m = MatMul (g, w2)  mb = Add (bo, m)
    x2 = Add (mb, x1)
    y = MatMul (x2, w3)""",
    TOKENS + ", float[n, 1, 5] mask",
    "float[8] s1, float[8] b1, float[8] s2, float[8] b2, float[8,8] wq, float[8,8] wk,"
    "float[8,8] wv, float[8,8] wo, float[8] bo, float[8,16] w1, float[16] bh,"
    "float[16,8] w2, float[8,3] w3",
)

INVERTED = net(
    """e = Conv (x, we)  h = HardSwish (e)
    d = Conv <pads = [1,1,1,1], group = 8> (h, wd)  r = Relu (d)
    p = GlobalAveragePool (r)  s1 = Conv (p, ws1)  sr = Relu (s1)  s2 = Conv (sr, ws2)
    gate = HardSigmoid (s2)  z = Mul (r, gate)
    c = Conv (z, wc)  x1 = Add (c, x)
    y = Conv (x1, wy)""",
    IMAGE,
    "float[8,4,1,1] we, float[8,1,3,3] wd, float[2,8,1,1] ws1, float[8,2,1,1] ws2,"
    "float[4,8,1,1] wc, float[2,4,1,1] wy",
)

CONVNEXT = net(
    """d = Conv <pads = [1,1,1,1], group = 4> (x, wd)
    t = Transpose <perm = [0,2,3,1]> (d)  n = LayerNormalization (t, s, b)
    h = MatMul (n, w1)  g = Gelu (h)  m = MatMul (g, w2)  mb = Add (m, b2)
    u = Transpose <perm = [0,3,1,2]> (mb)  ls = Mul (u, gamma)
    drop = Dropout (ls)  skip = Identity (x)  x1 = Add (skip, drop)
    y = Conv (x1, wy)""",
    IMAGE,
    "float[4,1,3,3] wd, float[4] s, float[4] b, float[4,8] w1, float[8,4] w2, float[4] b2,"
    "float[4,1,1] gamma, float[2,4,1,1] wy",
)

C2F = net(
    """s = Conv (x, ws)  l, r = Split <axis = 1, num_outputs = 2> (s)
    c1 = Conv <pads = [1,1,1,1]> (r, w1)  g1 = Sigmoid (c1)  a1 = Mul (c1, g1)
    c2 = Conv <pads = [1,1,1,1]> (a1, w2)  g2 = Sigmoid (c2)  a2 = Mul (c2, g2)
    x1 = Add (r, a2)
    all = Concat <axis = 1> (l, r, x1)  y = Conv (all, wy)""",
    IMAGE,
    "float[4,4,1,1] ws, float[2,2,3,3] w1, float[2,2,3,3] w2, float[2,6,1,1] wy",
)

PARALLEL_WEIGHTS = "float[8] s, float[8] b, float[8,8] wa, float[8,8] wm, float[8,3] wy"


def parallel(sums: str) -> ir.Model:
    """x + attention(h) + mlp(h), h = norm(x), with the sum written as `sums`."""
    body = f"""h = LayerNormalization (x, s, b)
    a0 = MatMul (h, wa)  attention = Softmax (a0)  m0 = MatMul (h, wm)  mlp = Gelu (m0)
    {sums} y = MatMul (x1, wy)"""
    return net(body, TOKENS, PARALLEL_WEIGHTS)


LEFT = parallel("inner = Add (x, attention)  x1 = Add (inner, mlp)")
RIGHT = parallel("inner = Add (attention, mlp)  x1 = Add (inner, x)")
FLAT = parallel("x1 = Sum (x, attention, mlp)")

POOLING = net(
    """p = AveragePool <kernel_shape = [3,3], pads = [1,1,1,1]> (x)  d = Sub (p, x)
    z = Mul (d, gamma)  x1 = Add (x, z)  y = Conv (x1, wy)""",
    IMAGE,
    "float[4,1,1] gamma, float[2,4,1,1] wy",
)

CONTEXT = net(
    """p = GlobalAveragePool (x)  c = Conv (p, wc)  r = Relu (c)  x1 = Add (x, r)
    y = Conv (x1, wy)""",
    IMAGE,
    "float[4,4,1,1] wc, float[2,4,1,1] wy",
)

NESTED = net(
    """c1 = Conv (x, w1)  c2 = Conv (c1, w2)  i = Add (c1, c2)  c3 = Conv (i, w3)
    x1 = Add (x, c3)  y = Conv (x1, wy)""",
    IMAGE,
    "float[4,4,1,1] w1, float[4,4,1,1] w2, float[4,4,1,1] w3, float[2,4,1,1] wy",
)
