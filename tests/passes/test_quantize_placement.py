"""Where `quantize` puts its pairs, rule by rule.

`t^` is the tensor or weight `t` after quantizing and dequantizing; see `quantize_nets.nodes`.
"""

from __future__ import annotations

import numpy as np
import pytest
from quantize_nets import body, constant, net, quantize

W = (4, 4, 3, 3)
CONV = "Conv<pads=[1,1,1,1]>"


def test_data_and_weight_are_quantized_and_the_bias_is_not() -> None:
    model = net(f"y = {CONV}(x, w, b)", w=W, b=(4,))
    model = quantize(model).model
    assert body(model) == "x^ = QDQ(x); y = Conv(x^, w^, b)"
    assert constant(model, "b").dtype == np.float32


@pytest.mark.parametrize(
    "activation",
    ["Relu(c)", "Clip(c, lo, hi)", "HardSwish(c)", "LeakyRelu(c)", "Sigmoid(c)", "Tanh(c)"],
)
def test_nothing_stands_between_a_conv_and_its_activation(activation: str) -> None:
    limits = {"lo": np.float32(0), "hi": np.float32(6)} if "Clip" in activation else {}
    text = f"c = {CONV}(x, w) r = {activation} y = {CONV}(r, v)"
    model = net(text, w=W, v=W, **{k: np.array(v) for k, v in limits.items()})
    model = quantize(model).model
    operator = activation.partition("(")[0]
    rest = activation.partition("(")[2]
    assert body(model) == (
        f"x^ = QDQ(x); c = Conv(x^, w^); r = {operator}({rest}; r^ = QDQ(r); y = Conv(r^, v^)"
    )


def test_nothing_stands_within_silu() -> None:
    model = net(f"c = {CONV}(x, w) s = Sigmoid(c) m = Mul(c, s) y = {CONV}(m, v)", w=W, v=W)
    assert body(quantize(model).model) == (
        "x^ = QDQ(x); c = Conv(x^, w^); s = Sigmoid(c); m = Mul(c, s); m^ = QDQ(m); "
        "y = Conv(m^, v^)"
    )


def test_a_conv_whose_output_is_the_models_output_gets_nothing_behind_it() -> None:
    model = net(
        f"c = {CONV}(x, w) y = {CONV}(c, v)",
        outputs="float[N, 4, 8, 8] c, float[N, 4, 8, 8] y",
        w=W,
        v=W,
    )
    model = quantize(model).model
    assert body(model) == "x^ = QDQ(x); c = Conv(x^, w^); c^ = QDQ(c); y = Conv(c^, v^)"
    assert [value.name for value in model.graph.outputs] == ["c", "y"]


def test_a_tensor_that_fans_out_is_quantized_once_and_float_readers_keep_the_float() -> None:
    model = net(
        f"a = {CONV}(x, w) b = {CONV}(x, v) s = Sigmoid(x) ab = Add(a, b) y = Mul(ab, s)", w=W, v=W
    )
    model = quantize(model).model
    assert body(model) == (
        "x^ = QDQ(x); a = Conv(x^, w^); b = Conv(x^, v^); s = Sigmoid(x); ab = Add(a, b); "
        "y = Mul(ab, s)"
    )


def test_a_residual_add_reads_the_quantized_skip() -> None:
    model = net(
        f"r = Relu(x) a = {CONV}(r, w) b = Relu(a) c = {CONV}(b, v) y = Add(c, r)", w=W, v=W
    )
    result = quantize(model)
    model = result.model
    assert body(model) == (
        "r = Relu(x); r^ = QDQ(r); a = Conv(r^, w^); b = Relu(a); b^ = QDQ(b); "
        "c = Conv(b^, v^); y = Add(c, r^)"
    )
    assert result.rewrites["int8-skip"] == 1


@pytest.mark.parametrize("addition", ["Add", "Sum"])
def test_the_skip_may_be_the_first_input_of_the_addition(addition: str) -> None:
    model = net(f"r = Relu(x) c = {CONV}(r, w) y = {addition}(r, c)", w=W)
    model = quantize(model).model
    assert body(model).endswith(f"c = Conv(r^, w^); y = {addition}(r^, c)")


def test_a_sum_of_three_stays_float() -> None:
    model = net(f"r = Relu(x) c = {CONV}(r, w) y = Sum(r, c, x)", w=W)
    model = quantize(model).model
    assert body(model).endswith("y = Sum(r, c, x)")


def test_an_add_of_two_convs_stays_float() -> None:
    model = net(f"a = {CONV}(x, w) b = {CONV}(x, v) y = Add(a, b)", w=W, v=W)
    assert "int8-skip" not in quantize(model).rewrites
    assert body(model).endswith("y = Add(a, b)")


def test_the_skip_is_not_quantized_for_the_add_alone() -> None:
    """In a block that begins with an activation, only what the activation gives is quantized."""
    model = net(f"r = Relu(x) c = {CONV}(r, w) y = Add(c, x)", w=W)
    model = quantize(model).model
    assert body(model) == "r = Relu(x); r^ = QDQ(r); c = Conv(r^, w^); y = Add(c, x)"


def test_the_skip_of_a_conv_with_two_readers_stays_float() -> None:
    model = net(f"c = {CONV}(x, w) s = Add(c, x) t = Sigmoid(c) y = Mul(s, t)", w=W)
    model = quantize(model).model
    assert "s = Add(c, x)" in body(model)


def test_the_skip_around_a_matmul_stays_float() -> None:
    """The residual stream of a transformer is not stored in integers."""
    model = net(
        "m = MatMul(x, w) y = Add(m, x)", "float[N, 5, 16] x", "float[N, 5, 16] y", w=(16, 16)
    )
    model = quantize(model).model
    assert body(model) == "x^ = QDQ(x); m = MatMul(x^, w^); y = Add(m, x)"


def test_the_inputs_of_a_concat_share_one_scale() -> None:
    model = net(
        f"a = Relu(x) s = Sigmoid(x) j = Concat<axis=1>(a, s) y = {CONV}(j, w)", w=(4, 8, 3, 3)
    )
    model = quantize(model, method="minmax").model
    assert body(model) == (
        "a = Relu(x); a^ = QDQ(a); s = Sigmoid(x); s^ = QDQ(s); j = Concat(a^, s^); y = Conv(j, w^)"
    )
    assert constant(model, "a_scale") == constant(model, "s_scale")
    assert constant(model, "a_scale") > 2 / 127  # the range of a; that of s ends at 1


def test_concats_of_concats_share_one_scale_and_others_do_not() -> None:
    model = net(
        f"a = Relu(x) s = Sigmoid(x) t = Tanh(x) j = Concat<axis=1>(a, s) k = Concat<axis=1>(j, t)"
        f" c = {CONV}(k, w) d = Relu(c) y = {CONV}(d, v)",
        w=(4, 12, 3, 3),
        v=W,
    )
    model = quantize(model).model
    scales = [float(constant(model, f"{name}_scale")) for name in ("a", "s", "t", "d")]
    assert scales[0] == scales[1] == scales[2] != scales[3]


def test_a_concat_that_others_read_too_is_quantized_behind() -> None:
    model = net(
        "a = Relu(x) s = Sigmoid(x) j = Concat<axis=1>(a, s) t = Tanh(j)"
        f" u = {CONV}(j, w) y = Add(t, u)",
        w=(8, 8, 3, 3),
    )
    model = quantize(model).model
    assert "j = Concat(a, s); j^ = QDQ(j); t = Tanh(j); u = Conv(j^, w^)" in body(model)


def test_a_concat_with_a_constant_is_quantized_behind() -> None:
    model = net(
        f"j = Concat<axis=1>(x, k) y = {CONV}(j, w)",
        "float[1, 4, 8, 8] x",
        k=(1, 2, 8, 8),
        w=(4, 6, 3, 3),
    )
    model = quantize(model).model
    assert body(model) == "j = Concat(x, k); j^ = QDQ(j); y = Conv(j^, w^)"


@pytest.mark.parametrize(
    ("mover", "constants"),
    [
        ("MaxPool<kernel_shape=[2,2]>(r)", {}),
        ("Transpose<perm=[0,1,3,2]>(r)", {}),
        ("Reshape(r, c)", {"c": [0, 4, 4, 16]}),
        ("Identity(r)", {}),
        ("Dropout(r)", {}),
        ("DepthToSpace<blocksize=2>(r)", {}),
        ("SpaceToDepth<blocksize=2>(r)", {}),
        ("Pad(r, c)", {"c": [0, 0, 1, 1, 0, 0, 1, 1]}),
        ("Pad(r, c, z)", {"c": [0, 0, 1, 1, 0, 0, 1, 1], "z": np.array(0, np.float32)}),
        ('Pad<mode="reflect">(r, c)', {"c": [0, 0, 1, 1, 0, 0, 1, 1]}),
        ("Pad(r, c)", {"c": [0, 0, -1, 0, 0, 0, -1, -2]}),
        ("Pad(r, c, , d)", {"c": [1, 2, 0, 1], "d": [3, 2]}),
    ],
)
def test_the_pair_is_placed_above_what_only_moves_values(mover: str, constants: dict) -> None:
    operator, _, inputs = mover.partition("(")
    operator = operator.partition("<")[0]
    channels = {"DepthToSpace": 1, "SpaceToDepth": 16}.get(operator, 4)
    text = f"r = Relu(x) m = {mover} y = {CONV}(m, w)"
    opset = 18 if ", d)" in mover else 17  # the axes of Pad
    model = net(text, opset=opset, w=(4, channels, 3, 3), **constants)
    model = quantize(model).model
    inputs = inputs.replace("r", "r^", 1)
    assert body(model) == f"r = Relu(x); r^ = QDQ(r); m = {operator}({inputs}; y = Conv(m, w^)"


@pytest.mark.parametrize(
    ("barrier", "constants"),
    [
        ("Pad(r, c, z)", {"c": [0, 0, 1, 1, 0, 0, 1, 1], "z": np.array(1, np.float32)}),
        ("Pad(r, c)", {"c": [0, 0, -1, -1, 0, 0, 2, 2]}),
        ("Pad(r, c)", {"c": [1, 0, 0, 0, 0, 0, 0, 0]}),
        ("Pad(r, c, , d)", {"c": [1, 1], "d": [0]}),
        ("AveragePool<kernel_shape=[2,2]>(r)", {}),
        ("GlobalAveragePool(r)", {}),
        ("Resize(r, , z)", {"z": np.array([1, 1, 2, 2], np.float32)}),
        ("Slice(r, a, b, d)", {"a": [1], "b": [5], "d": [2]}),
        ("Expand(r, c)", {"c": [1, 4, 8, 8]}),
        ("Mul(r, z)", {"z": np.array(2, np.float32)}),
        ("Dropout(r, z, t)", {"z": np.array(0.5, np.float32), "t": np.array(False)}),
    ],
)
def test_the_pair_is_placed_behind_what_changes_or_selects_values(
    barrier: str, constants: dict
) -> None:
    opset = 18 if "Pad" in barrier else 17
    model = net(f"r = Relu(x) m = {barrier} y = {CONV}(m, w)", opset=opset, w=W, **constants)
    model = quantize(model).model
    assert "QDQ(r)" not in body(model)
    assert "m^ = QDQ(m); y = Conv(m^, w^)" in body(model)


def test_the_indices_of_a_max_pool_keep_the_pair_behind_it() -> None:
    model = net(
        f"r = Relu(x) m, i = MaxPool<kernel_shape=[2,2]>(r) y = {CONV}(m, w)",
        outputs="float[N, 4, H, W] y, int64[N, 4, H, W] i",
        w=W,
    )
    model = quantize(model).model
    assert body(model) == "r = Relu(x); m, i = MaxPool(r); m^ = QDQ(m); y = Conv(m^, w^)"


def test_a_mover_with_a_float_reader_keeps_the_pair_behind_it() -> None:
    model = net(
        "r = Relu(x) m = MaxPool<kernel_shape=[2,2]>(r) s = Sigmoid(m)"
        f" c = {CONV}(m, w) y = Mul(c, s)",
        w=W,
    )
    model = quantize(model).model
    assert body(model).startswith("r = Relu(x); m = MaxPool(r); m^ = QDQ(m); s = Sigmoid(m)")
    assert "c = Conv(m^, w^)" in body(model)


def test_a_selection_of_a_quantized_tensor_is_not_quantized_again() -> None:
    model = net(
        f"r = Relu(x) a, b = Split<axis=1>(r, p) c = {CONV}(a, w) d = {CONV}(b, w) e = {CONV}(r, v)"
        " cd = Add(c, d) y = Mul(cd, e)",
        p=[2, 2],
        w=(4, 2, 3, 3),
        v=W,
    )
    model = quantize(model).model
    assert body(model) == (
        "r = Relu(x); r^ = QDQ(r); a, b = Split(r^, p); c = Conv(a, w^); d = Conv(b, w^); "
        "e = Conv(r^, v^); cd = Add(c, d); y = Mul(cd, e)"
    )


@pytest.mark.parametrize(
    ("selector", "constants"),
    [
        ("Slice(r, a, b, c)", {"a": [1], "b": [7], "c": [2]}),
        ("Gather<axis=2>(r, a)", {"a": [0, 3, 5]}),
        ("Tile(r, a)", {"a": [1, 1, 1, 2]}),
        ("Expand(r, a)", {"a": [1, 4, 8, 8]}),
    ],
)
def test_whatever_selects_from_a_quantized_tensor_passes_it_on(
    selector: str, constants: dict
) -> None:
    text = f"r = Relu(x) a1 = {CONV}(r, w) s = {selector} b1 = {CONV}(s, v) e = Exp(a1)"
    model = net(
        f"{text} f = Exp(b1)",
        outputs="float[N, 4, H, W] e, float[N, 4, I, J] f",
        w=W,
        v=W,
        **constants,
    )
    result = quantize(model)
    assert result.rewrites["qdq-pair"] == 1
    assert "b1 = Conv(s, v^)" in body(result.model)


def test_the_branches_of_pooling_pyramids_meet_in_one_pair() -> None:
    """The spatial pyramid of YOLO: pools of pools, all joined with their input."""
    pool = "MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>"
    model = net(
        f"r = Relu(x) a = {pool}(r) b = {pool}(a) j = Concat<axis=1>(r, a, b) y = {CONV}(j, w)",
        w=(4, 12, 3, 3),
    )
    result = quantize(model)
    model = result.model
    assert result.rewrites["qdq-pair"] == 1
    assert "r^ = QDQ(r); a = MaxPool(r^); b = MaxPool(a); j = Concat(r^, a, b)" in body(model)


def test_the_skip_below_a_pool_takes_the_pair_above_it() -> None:
    model = net(
        f"r = Relu(x) m = MaxPool<kernel_shape=[2,2]>(r) c = {CONV}(m, w) y = Add(c, m)", w=W
    )
    model = quantize(model).model
    assert body(model) == (
        "r = Relu(x); r^ = QDQ(r); m = MaxPool(r^); c = Conv(m, w^); y = Add(c, m)"
    )


def test_attention_keeps_its_own_products_its_softmax_and_its_norm_in_float() -> None:
    model = net(
        "n = LayerNormalization(x, one) q = MatMul(n, wq) k = MatMul(n, wk) v = MatMul(n, wv)"
        " t = Transpose<perm=[0,2,1]>(k) s = MatMul(q, t) a = Add(s, mask) p = Softmax(a)"
        " o = MatMul(p, v) y = MatMul(o, wo)",
        "float[N, 6, 16] x",
        "float[N, 6, 16] y",
        one=np.ones(16, np.float32),
        mask=(6, 6),
        **{f"w{name}": (16, 16) for name in "qkvo"},
    )
    result = quantize(model)
    model = result.model
    assert body(model) == (
        "n = LayerNormalization(x, one); n^ = QDQ(n); q = MatMul(n^, wq^); k = MatMul(n^, wk^); "
        "v = MatMul(n^, wv^); t = Transpose(k); s = MatMul(q, t); a = Add(s, mask); "
        "p = Softmax(a); o = MatMul(p, v); o^ = QDQ(o); y = MatMul(o^, wo^)"
    )
    assert result.notes == ("2 MatMul left in float (it multiplies two activations): 's', 'o'",)


def test_an_excluded_node_is_not_touched_in_any_role() -> None:
    model = net(
        "r = Relu(x) m = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(r)"
        f" c = {CONV}(m, w) y = Add(c, m)",
        w=W,
    )
    model = quantize(model, exclude=("m", "y")).model
    assert body(model) == (
        "r = Relu(x); m = MaxPool(r); m^ = QDQ(m); c = Conv(m^, w^); y = Add(c, m)"
    )


@pytest.mark.parametrize(
    ("operator", "tensor"), [("Neg", "v1100"), ("Transpose<perm=[0,1,3,2]>", "v0")]
)
def test_layers_may_be_any_number_of_nodes_apart(operator: str, tensor: str) -> None:
    """More than Python's stack has room for; whether they move integers, or compute in float."""
    steps = [f"v{i} = {operator}(v{i - 1})" for i in range(1, 1101)]
    model = net(f"v0 = {CONV}(x, w) {' '.join(steps)} y = {CONV}(v1100, v)", w=W, v=W)
    result = quantize(model, tune_ranges=True)
    assert [row["tensor"] for row in result.details["tensors"]] == ["x", tensor]
