"""Where `equalize` lets factors through: outputs stay the same to the bit for any powers of two."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from equalizing import scaled_at_random
from quantize_nets import data, net, runtime

from graphopt.ir.facts import Facts
from graphopt_passes.equalize.groups import Channels

W1, W2 = (8, 4, 3, 3), (5, 8, 1, 1)
SCALARS = {"zero": np.float32(0), "six": np.float32(6), "one": np.array([1.0], np.float32)}

# Between two convolutions `h = Conv (x, w)` and `y = Conv (z, v)`: 8 channels go from h to z.
PASSES_THROUGH = {
    "relu": "z = Relu (h)",
    "leaky": "z = LeakyRelu <alpha = 0.3> (h)",
    "prelu": "z = PRelu (h, slope)",
    "identity": "z = Identity (h)",
    "dropout": "z = Dropout (h)",
    "clip-at-zero": "z = Clip (h, zero)",
    "max-with-zero": "z = Max (h, zero)",
    "abs": "z = Abs (h)",
    "max-pool": "z = MaxPool <kernel_shape = [2, 2], pads = [0, 0, 1, 1]> (h)",
    "average-pool": "z = AveragePool <kernel_shape = [3, 3]> (h)",
    "global": "z = GlobalAveragePool (h)",
    "mean": "z = ReduceMean <axes = [2, 3]> (h)",
    "pad": "z = Pad (h, pads)",
    "reflect": 'z = Pad <mode = "reflect"> (h, pads)',
    "slice": "z = Slice (h, from, to, spatial)",
    "resize": 'z = Resize <mode = "linear"> (h, , scales)',
    "scalar-mul": "z = Mul (h, six)",
    "scalar-div": "z = Div (h, six)",
    "channel-mul": "z = Mul (h, each)",
    "channel-add": "z = Add (h, each)",
    "constant-minus": "z = Sub (each, h)",
    "residual": "a = Relu (h) z = Add (a, h)",
    "sum-of-three": "a = Relu (h) b = Abs (h) z = Sum (a, h, b)",
    "gate": "s = Sigmoid (x) g = ReduceMean <axes = [1, 2, 3]> (s) z = Mul (h, g)",
    "transpose-and-back": "a = Transpose <perm = [0, 2, 3, 1]> (h) b = Relu (a) "
    "z = Transpose <perm = [0, 3, 1, 2]> (b)",
    "flat-and-back": "a = Reshape (h, flat) b = Relu (a) z = Reshape (b, square)",
    "split-and-concat": "a, b = Split <axis = 1> (h) z = Concat <axis = 1> (b, a)",
    "concat-rows": "a = Relu (h) z = Concat <axis = 2> (h, a)",
    "half": "a = Slice (h, zeroth, fourth, first) z = Concat <axis = 1> (a, a)",
    "where": "m = Greater (x0, zero) z0 = Relu (h) z = Where (m, z0, h)",
    "depthwise": "a = Conv <group = 8, kernel_shape = [3, 3]> (h, deep) z = Relu (a)",
    "grouped": "a = Conv <group = 2, kernel_shape = [1, 1]> (h, pair, each1) z = Relu (a)",
    "transposed": "z = ConvTranspose <group = 2> (h, up, each1)",
    "batch-norm": "z = BatchNormalization (h, each1, bias, bias, positive)",
    "instance-norm": "z = InstanceNormalization (h, each1, bias)",
}

WEIGHTS = {
    **SCALARS,
    "w": W1,
    "v": W2,
    "slope": (8, 1, 1),
    "pads": [0, 0, 1, 1, 0, 0, 1, 1],
    "from": [1, 1],
    "to": [5, 6],
    "spatial": [2, 3],
    "scales": np.array([1, 1, 2, 2], np.float32),
    "each": (1, 8, 1, 1),
    "each1": (8,),
    "bias": (8,),
    "positive": np.arange(1, 9, dtype=np.float32),
    "flat": [0, 8, 36],
    "square": [0, 8, 6, 6],
    "zeroth": [0],
    "fourth": [4],
    "first": [1],
    "deep": (8, 1, 3, 3),
    "pair": (8, 4, 1, 1),
    "up": (8, 4, 2, 2),
}


def between(body: str, weights: dict[str, list[int]] | None = None) -> ir.Model:
    text = f"h = Conv (x, w) {body} y = Conv (z, v)"
    if "x0" in body:
        text = f"x0 = ReduceMean <axes = [1, 2, 3]> (x) {text}"
    every = WEIGHTS | (weights or {})
    words = set(text.replace(",", " ").replace("(", " ").replace(")", " ").split())
    return net(text, **{name: value for name, value in every.items() if name in words})


@pytest.mark.parametrize("name", PASSES_THROUGH)
def test_factors_go_through_to_the_bit(name: str) -> None:
    model = between(PASSES_THROUGH[name])
    other, groups = scaled_at_random(model)
    assert groups
    feed = data(model)
    (before,), (after,) = runtime(model, feed), runtime(other, feed)
    np.testing.assert_array_equal(before, after)


TRANSFORMER = {
    "norm": "h = LayerNormalization (x, scale, bias) y = MatMul (h, v)",
    "linear": "a = MatMul (x, w) b = Add (a, bias) c = Relu (b) y = MatMul (c, v)",
    "gemm": "f = Reshape (x, rows) a = Gemm <transB = 1, alpha = 0.5> (f, w, bias) c = Relu (a) "
    "g = Gemm <beta = 2.0> (c, v, last) y = Reshape (g, back)",
    "values": "h = MatMul (x, w) p = Softmax (x) q = Transpose <perm = [0, 2, 1]> (p) "
    "k = MatMul (p, q) a = MatMul (k, h) y = MatMul (a, v)",
}


@pytest.mark.parametrize("name", TRANSFORMER)
def test_factors_go_through_matrices(name: str) -> None:
    given = {
        "scale": (8,),
        "bias": (8,),
        "w": (8, 8),
        "v": (8, 3),
        "last": (3,),
        "rows": [-1, 8],
        "back": [-1, 5, 3],
    }
    body = TRANSFORMER[name]
    model = net(
        body,
        "float[N, 5, 8] x",
        "float[N, 5, 3] y",
        **{key: value for key, value in given.items() if key in body},
    )
    other, groups = scaled_at_random(model)
    assert 8 in groups
    feed = data(model)
    np.testing.assert_array_equal(runtime(model, feed)[0], runtime(other, feed)[0])


def test_the_values_of_an_attention_of_heads() -> None:
    """One product makes queries, keys and values; only the last third can be scaled."""
    body = (
        "h = MatMul (x, w) r = Reshape (h, heads) t = Transpose <perm = [2, 0, 3, 1, 4]> (r) "
        "q = Gather <axis = 0> (t, i0) k = Gather <axis = 0> (t, i1) v = Gather <axis = 0> (t, i2) "
        "kt = Transpose <perm = [0, 1, 3, 2]> (k) s = MatMul (q, kt) p = Softmax (s) "
        "a = MatMul (p, v) b = Transpose <perm = [0, 2, 1, 3]> (a) c = Reshape (b, joined) "
        "y = MatMul (c, o)"
    )
    indices = {f"i{i}": np.array(i, np.int64) for i in range(3)}
    given = {"w": (8, 24), "o": (8, 8), "heads": [0, 0, 3, 2, 4], "joined": [0, 0, 8]}
    model = net(body, "float[N, 5, 8] x", "float[N, 5, 8] y", **given, **indices)
    other, groups = scaled_at_random(model)
    assert groups == [8]
    feed = data(model)
    np.testing.assert_array_equal(runtime(model, feed)[0], runtime(other, feed)[0])
    old, new = (m.graph.initializers["w"].const_value.numpy() for m in (model, other))
    np.testing.assert_array_equal(old[:, :16], new[:, :16])
    assert (old[:, 16:] != new[:, 16:]).any()


def test_a_flattened_channel_becomes_a_block_of_columns() -> None:
    body = "h = Conv (x, w) f = Flatten (h) r = Relu (f) y = Gemm (r, g)"
    model = net(body, "float[N, 4, 8, 8] x", "float[N, 3] y", w=(8, 4, 3, 3), g=(8 * 36, 3))
    other, groups = scaled_at_random(model)
    assert groups == [8]
    feed = data(model)
    np.testing.assert_array_equal(runtime(model, feed)[0], runtime(other, feed)[0])
    old, new = (m.graph.initializers["g"].const_value.numpy() for m in (model, other))
    ratio = (new / old).reshape(8, -1)
    assert (ratio == ratio[:, :1]).all()


BARRIERS = {
    "sigmoid": "z = Sigmoid (h)",
    "hard-swish": "z = HardSwish (h)",
    "silu": "s = Sigmoid (h) z = Mul (h, s)",
    "clip-at-six": "z = Clip (h, zero, six)",
    "softmax": "z = Softmax <axis = 1> (h)",
    "scalar-add": "z = Add (h, six)",
    "max-with-a-number": "z = Max (h, six)",
    "pad-with-a-number": "z = Pad (h, pads, six)",
    "square": "z = Mul (h, h)",
    "unknown": "z = LRN <size = 3> (h)",
    "sum-over-channels": "a = ReduceSum (h, first) z = Concat <axis = 1> (a, a, a, a, a, a, a, a)",
    "input-added": "a = Concat <axis = 1> (x, x) b = Slice (a, from, to, spatial) z = Add (h, b)",
    "cast": "a = Cast <to = 11> (h) z = Cast <to = 1> (a)",
}


@pytest.mark.parametrize("name", BARRIERS)
def test_barriers(name: str) -> None:
    model = between(BARRIERS[name], {"from": [1, 1], "to": [7, 7]})
    other, groups = scaled_at_random(model)
    feed = data(model)
    np.testing.assert_array_equal(runtime(model, feed)[0], runtime(other, feed)[0])
    assert 8 not in groups


def test_an_output_of_the_graph_keeps_its_scale() -> None:
    outputs = "float[N, 8, H, W] h, float[N, 5, H, W] y"
    model = net("h = Conv (x, w) y = Conv (h, v)", outputs=outputs, w=W1, v=W2)
    assert scaled_at_random_groups(model) == []


def test_what_a_subgraph_reads_keeps_its_scale() -> None:
    body = (
        "h = Conv (x, w) y = If (c) <then_branch = a () => (float[N, 8, H, W] t) { t = Relu (h) }, "
        "else_branch = b () => (float[N, 8, H, W] e) { e = Identity (h) }>"
    )
    model = net(body, w=W1, c=np.array(True))
    assert scaled_at_random_groups(model) == []


def test_an_operator_that_a_function_defines_anew_is_a_barrier() -> None:
    functions = '<opset_import: ["" : 17], domain: "">\nRelu (a) => (b) { b = Sigmoid (a) }'
    model = net("h = Conv (x, w) z = Relu (h) y = Conv (z, v)", w=W1, v=W2)
    function = onnx.parser.parse_function(functions)
    proto = ir.to_proto(model)
    proto.functions.append(function)
    channels = Channels(replaced := ir.from_proto(proto), Facts(replaced))
    assert channels.groups == ()


def test_a_shared_weight_gets_a_copy_of_its_own() -> None:
    model = net(
        "h = Conv (x, w) a = Relu (h) b = Conv (a, s) c = Relu (b) y = Conv (c, s)",
        outputs="float[N, 8, H, W] y",
        w=(8, 4, 3, 3),
        s=(8, 8, 1, 1),
    )
    other, groups = scaled_at_random(model)
    assert groups == [8, 8]
    assert len({node.inputs[1].name for node in other.graph if node.op_type == "Conv"}) == 3
    feed = data(model)
    np.testing.assert_array_equal(runtime(model, feed)[0], runtime(other, feed)[0])


def scaled_at_random_groups(model: ir.Model) -> list[int]:
    return scaled_at_random(model)[1]
