"""The arithmetic of QuantizeLinear and DequantizeLinear, against onnx's reference evaluator."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx.reference import ReferenceEvaluator

from graphopt.errors import GraphoptError
from graphopt.quantization import FORMATS, dequantize, expand, fake_quantize, get_format, quantize
from graphopt.quantization.formats import Format

Array = np.ndarray[Any, Any]
FLOATS = [np.dtype(t) for t in (np.float32, np.float16, ml_dtypes.bfloat16)]
EACH_FORMAT = pytest.mark.parametrize("format", FORMATS.values(), ids=lambda f: f.name)
EACH_FLOAT = pytest.mark.parametrize("dtype", FLOATS, ids=str)

LAYOUTS = {  # shape, axis, block_size
    "tensor": ((3, 5), None, None),
    "scalar": ((), None, None),
    "first axis": ((3, 5), 0, None),
    "last axis": ((2, 3, 5), -1, None),
    "middle axis": ((2, 3, 5), 1, None),
    "blocks": ((8, 3), 0, 4),
    "short last block": ((2, 7, 3), 1, 3),
    "blocks from behind": ((3, 10), -1, 4),
    "one block": ((5, 2), 0, 8),
    "blocks of one": ((2, 3), 1, 1),
    "empty": ((0, 4), 1, None),
    "empty blocks": ((0, 4), 1, 2),
}
EACH_LAYOUT = pytest.mark.parametrize("layout", LAYOUTS)


def parameter_shape(shape: tuple[int, ...], axis: int | None, block: int | None) -> list[int]:
    if axis is None:
        return []
    if block is None:
        return [shape[axis]]
    return [-(-n // block) if i == axis % len(shape) else n for i, n in enumerate(shape)]


def run(operator: str, inputs: list[Array], axis: int | None, block: int | None) -> Array:
    """What the reference evaluator makes of one node of opset 21."""
    names = ["x", "scale", "zero_point"][: len(inputs)]
    attributes = {} if axis is None else {"axis": axis}
    if block is not None:
        attributes["block_size"] = block
    graph = helper.make_graph(
        [helper.make_node(operator, names, ["y"], **attributes)],
        "one node",
        [
            helper.make_tensor_value_info(n, onnx_type(a), a.shape)
            for n, a in zip(names, inputs, strict=True)
        ],
        [helper.make_tensor_value_info("y", 0, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    with np.errstate(all="ignore"):
        (result,) = ReferenceEvaluator(model).run(None, dict(zip(names, inputs, strict=True)))
    return np.asarray(result)


def onnx_type(array: Array) -> int:
    return int(helper.np_dtype_to_tensor_dtype(array.dtype))


def bits(array: Array) -> Array:
    """For comparisons to the bit, in which every NaN is one; a shape of its own."""
    array = np.where(np.isnan(array.astype(np.float64)), np.nan, array).astype(array.dtype)
    return array.view(f"u{array.dtype.itemsize}") if array.dtype.itemsize < 4 else array


def assert_same(one: Array, other: Array) -> None:
    assert one.dtype == other.dtype
    np.testing.assert_array_equal(bits(one), bits(other))


def sample(layout: str, dtype: np.dtype[Any], format: Format, seed: int) -> tuple[Array, ...]:
    """A tensor, its scale and its zero point, some of which are extreme."""
    shape, axis, block = LAYOUTS[layout]
    rng = np.random.default_rng(seed)
    wanted = parameter_shape(shape, axis, block)
    scale = np.exp2(rng.uniform(-12, 4, wanted)).astype(dtype)
    reach = rng.choice([1.0, 20.0, 300.0, 40000.0])
    # The reference evaluator has no answer to quotients that overflow: see below.
    steps = rng.uniform(-reach, reach, shape) * expand(scale, shape, axis, block).astype(float)
    largest = float(ml_dtypes.finfo(dtype).max)
    x = np.asarray(np.clip(steps, -largest, largest)).astype(dtype)
    low, high = format.limits
    zero = np.asarray(rng.integers(low, high + 1, wanted)).astype(np.int32)
    if format.is_float:
        zero = np.zeros(wanted, np.int32)
    return x, scale, zero.astype(format.dtype)


@EACH_FORMAT
@EACH_FLOAT
@EACH_LAYOUT
@pytest.mark.parametrize("seed", range(3))
def test_both_operators_are_those_of_onnx_to_the_bit(
    format: Format, dtype: np.dtype[Any], layout: str, seed: int
) -> None:
    _, axis, block = LAYOUTS[layout]
    x, scale, zero = sample(layout, dtype, format, seed)
    given_as = {"axis": axis, "block_size": block}
    q = quantize(x, scale, zero, format, **given_as)
    assert_same(q, run("QuantizeLinear", [x, scale, zero], axis, block))
    y = dequantize(q, scale, zero, format, **given_as)
    assert y.dtype == dtype
    if zero.size or not format.is_float:  # where the reference fails
        assert_same(y, run("DequantizeLinear", [q, scale, zero], axis, block))
    assert_same(y, fake_quantize(x, scale, zero, format, **given_as))
    # An absent zero point is 0.
    none = quantize(x, scale, None, format, **given_as)
    assert_same(none, quantize(x, scale, np.zeros_like(zero), format, **given_as))
    assert_same(
        dequantize(none, scale, None, format, **given_as),
        run("DequantizeLinear", [none, scale], axis, block),
    )


@pytest.mark.parametrize("format", [f for f in FORMATS.values() if not f.is_float], ids=str)
def test_halves_go_to_the_even_integer(format: Format) -> None:
    x = np.array([0.5, 1.5, 2.5, 3.5, 4.5], np.float32)
    q = quantize(x, np.float32(1), None, format)
    assert q.astype(int).tolist() == [0, 2, 2, 4, 4]


# The integers that fit into the mantissa of the float, with a bit to spare for the scale.
MANTISSA = {np.dtype(np.float32): 24, np.dtype(np.float16): 11, np.dtype(ml_dtypes.bfloat16): 8}
FITTING = [
    (format, dtype)
    for format in FORMATS.values()
    for dtype, bits in MANTISSA.items()
    if format.is_float or format.bits < bits
]


@pytest.mark.parametrize(("format", "dtype"), FITTING, ids=str)
def test_every_value_of_the_format_comes_back(format: Format, dtype: np.dtype[Any]) -> None:
    if format.is_float:
        values = np.arange(256, dtype=np.uint8).view(format.dtype)
        values = values[~np.isnan(values.astype(np.float32))]
    else:
        values = np.arange(format.least, format.greatest + 1).astype(format.dtype)
    scale = np.asarray(0.0371, dtype)
    back = quantize(dequantize(values, scale, None, format), scale, None, format)
    assert_same(back, values)


@EACH_FORMAT
@EACH_FLOAT
def test_what_is_not_finite(format: Format, dtype: np.dtype[Any]) -> None:
    x = np.array([np.inf, -np.inf, np.nan], dtype)
    q = quantize(x, np.asarray(0.5, dtype), None, format).astype(np.float32)
    assert q[:2].tolist() == [format.greatest, format.least]
    assert np.isnan(q[2]) if format.is_float else q[2] == format.least


@EACH_FORMAT
def test_a_quotient_that_overflows_saturates(format: Format) -> None:
    x = np.array([1e30, -1e30, 0.0], np.float32)
    q = quantize(x, np.float32(np.finfo(np.float32).tiny), None, format).astype(np.float32)
    assert q.tolist() == [format.greatest, format.least, 0]


def test_float16_and_float32_division_differ_where_the_quotient_rounds_to_a_half() -> None:
    x = np.arange(1, 3000).astype(np.float16)
    scale = np.array(2.002, np.float16)
    narrow = quantize(x, scale, None, FORMATS["int16"])
    wide = quantize(x, scale, None, FORMATS["int16"], precision=np.float32)
    exact = np.rint(x.astype(np.float64) / float(scale))
    assert (narrow != wide).any()
    np.testing.assert_array_equal(wide, exact)
    mixed = quantize(x.astype(np.float32), scale, None, FORMATS["int16"], precision=np.float32)
    np.testing.assert_array_equal(mixed, wide)


def test_limits_narrow_the_format() -> None:
    format = FORMATS["int8"]
    x = np.array([-300, -127.4, 127.9], np.float32)
    q = quantize(x, np.float32(1), None, format, limits=format.symmetric_limits)
    assert q.tolist() == [-127, -127, 127]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_finite_number_is_quantized_as_onnx_does(data: st.DataObject) -> None:
    """All bit patterns of both numbers, but for quotients that the reference overflows on."""
    format = data.draw(st.sampled_from(list(FORMATS.values())))
    dtype = data.draw(st.sampled_from(FLOATS))
    width = dtype.itemsize * 8
    draw = st.integers(0, 2**width - 1)
    x, scale = (
        np.array([data.draw(draw)], f"u{dtype.itemsize}").view(dtype)[0].reshape(())
        for _ in range(2)
    )
    with np.errstate(all="ignore"):
        quotient = np.float64(x) / np.float64(scale)
    largest = min(2**31 - 2**16, float(ml_dtypes.finfo(dtype).max))
    if not format.is_float and not abs(quotient) < largest:
        return  # NaN, infinite in its dtype, or beyond the reference's int32
    least, greatest = format.limits
    zero = np.array(0 if format.is_float else data.draw(st.integers(least, greatest)))
    zero = zero.astype(np.int32).astype(format.dtype)
    q = quantize(x, scale, zero, format)
    assert_same(q, run("QuantizeLinear", [x, scale, zero], None, None))
    assert_same(
        dequantize(q, scale, zero, format), run("DequantizeLinear", [q, scale, zero], None, None)
    )


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("the scale is float16", {"scale": np.ones(3, np.float16)}),
        ("scales of shape", {"scale": np.ones(4, np.float32)}),
        ("scales of shape", {"axis": None}),
        ("no axis 2", {"axis": 2}),
        ("a block of 0", {"block_size": 0}),
        ("scales of shape", {"block_size": 2}),
        ("a zero point of int32", {"zero_point": np.zeros(3, np.int32)}),
        ("a zero point of int8", {"zero_point": np.zeros((), np.int8)}),
        ("zero point of fp8 is 0", {"format": FORMATS["fp8"], "zero_point": np.ones(3)}),
    ],
)
def test_what_does_not_fit_is_refused(message: str, change: dict[str, Any]) -> None:
    given_as = {
        "scale": np.ones(3, np.float32),
        "zero_point": None,
        "format": FORMATS["int8"],
        "axis": 0,
        **change,
    }
    with pytest.raises(ValueError, match=message):
        quantize(np.ones((3, 5), np.float32), **given_as)


def test_dequantize_wants_the_type_of_the_format() -> None:
    with pytest.raises(ValueError, match="the integers are int32"):
        dequantize(np.zeros(2, np.int32), np.float32(1), None, FORMATS["int8"])


def test_a_scale_of_shape_one_is_that_of_the_tensor() -> None:
    assert expand(np.array([2.0]), (3, 4), None, None).shape == ()


@EACH_FORMAT
def test_the_table_is_that_of_onnx(format: Format) -> None:
    """Opsets and limits, as onnx's schemas and reference evaluator state them."""
    kind = f"tensor({format.onnx_type.name.lower()})"
    for operator in ("QuantizeLinear", "DequantizeLinear"):
        for opset in (10, 13, 19, 21, 23, 25):
            schema = onnx.defs.get_schema(operator, opset)
            types = {t for c in schema.type_constraints for t in c.allowed_type_strs}
            assert (kind in types) == (opset >= format.opset)
            assert ("axis" in schema.attributes) == (opset >= 13)
            assert ("block_size" in schema.attributes) == (opset >= 21)
    info = (ml_dtypes.finfo if format.is_float else ml_dtypes.iinfo)(format.dtype)
    assert (format.least, format.greatest) == (info.min, info.max)
    assert format.dtype == helper.tensor_dtype_to_np_dtype(int(format.onnx_type))


@pytest.mark.parametrize(
    ("name", "scale", "given_as", "opset"),
    [
        ("int8", "FLOAT", {}, 10),
        ("int8", "FLOAT", {"axis": True}, 13),
        ("int8", "FLOAT16", {"axis": True}, 19),
        ("uint8", "BFLOAT16", {}, 19),
        ("fp8", "FLOAT", {}, 19),
        ("int16", "FLOAT", {}, 21),
        ("int4", "FLOAT16", {"axis": True, "blocks": True}, 21),
    ],
)
def test_the_opset_that_a_pair_needs(
    name: str, scale: str, given_as: dict[str, bool], opset: int
) -> None:
    assert FORMATS[name].opset_for(ir.DataType[scale], **given_as) == opset


def test_formats_are_found_by_name() -> None:
    assert get_format("int4").bits == 4
    with pytest.raises(GraphoptError, match="no format 'int5'"):
        get_format("int5")
    with pytest.raises(ValueError, match="uint8 has no negative"):
        _ = FORMATS["uint8"].symmetric_limits
    with pytest.raises(ValueError, match="a scale cannot be double"):
        FORMATS["int8"].opset_for(ir.DataType.DOUBLE)
