"""Reading the builder's log: recorded from TensorRT-RTX 1.7, and damaged."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.emit.tensorrt.engine import _kernels
from graphopt.emit.tensorrt.kernel_counts import (
    count_by_precision,
    match_nodes,
    padding_bytes,
    weight_bytes,
    weight_bytes_by_type,
)
from graphopt.emit.tensorrt.kernel_table import HEADER, Kernel, KernelTableError, parse_kernel_table
from graphopt.emit.tensorrt.request import BuildResult

RECORDED = {path.stem: path for path in (Path(__file__).parent / "kernel_tables").glob("*.txt")}


def recorded(name: str) -> str:
    return RECORDED[name].read_bytes().decode()


def parsed(name: str) -> tuple[Kernel, ...]:
    return parse_kernel_table([recorded(name)])


def compute(name: str) -> list[tuple[str, str | None, set[str]]]:
    return [
        (kernel.kind, kernel.precision, set(kernel.onnx_nodes))
        for kernel in parsed(name)
        if kernel.kind in ("conv", "gemm", "attention")
    ]


def table(*lines: str) -> str:
    return HEADER + "\n".join(lines) + "\n\nI/O Tensors:\n Name: x, IOMode: Input\n"


def line(
    name: str = "k",
    layer_type: str = "kgen",
    inputs: str = "",
    constants: str = "",
    outputs: str = "",
    metadata: str = "",
) -> str:
    return (
        f"Name: {name}, LayerType: {layer_type}, Inputs: [{inputs}], Constants: [{constants}], "
        f"Outputs: [{outputs}], TacticName: t, StreamId: 0, Metadata: {metadata}"
    )


def tensor(name: str, dims: str, dtype: str) -> str:
    return (
        f" {{ Name: {name}, Dimensions: [{dims}], Strides: [1], StrideOrder: [0], "
        f"Datatype: {dtype}, Format: (Linear) Row major linear format }}"
    )


def test_a_residual_block_in_int8() -> None:
    kernels = parsed("residual_int8")
    assert [(kernel.kind, kernel.precision) for kernel in kernels] == [
        ("control", None),
        ("quantize", "fp32"),
        ("conv", "int8"),
        ("other", "fp32"),
        ("pool", "int8"),
        ("conv", "int8"),
        ("other", "fp32"),
    ]
    conv = kernels[2]
    assert conv.onnx_nodes[0] == "conv"
    assert [(t.shape, t.dtype, t.format) for t in conv.inputs] == [
        ((-1, 16, 8, 8), "int8", "(NHWC) Channel major format")
    ]
    assert conv.outputs[0].dtype == "fp32"  # what int8 products add up to; the conv is int8 still
    assert conv.weights is not None
    assert (conv.weights.shape, conv.weights.dtype, conv.weights.nbytes) == (
        (16, 16, 3, 3),
        "int8",
        2304,
    )
    assert count_by_precision(kernels) == {"fp32": 3, "int8": 3}


def test_half_quantized_products_are_float() -> None:
    assert compute("half_quantized") == [
        ("gemm", "fp32", {"data_only", "dequantizelinear4"}),
        ("gemm", "fp32", {"weight_only", "dequantizelinear10"}),
    ]


def test_one_kernel_may_compute_three_nodes() -> None:
    kernels = parsed("merged_int8")
    nodes = [(name, "MatMul") for name in ("query", "key", "value")]
    assert [row[:2] for row in compute("merged_int8")] == [("gemm", "int8")]
    assert [node.precision for node in match_nodes(nodes, kernels)] == ["int8"] * 3


def test_fused_attention() -> None:
    kernels = parsed("attention_fp16")
    attention = [kernel for kernel in kernels if kernel.kind == "attention"]
    assert len(attention) == 1
    assert attention[0].precision == "fp16"
    assert attention[0].weights is None
    nodes = [(name, "MatMul") for name in ("q", "k", "v", "scores", "mix", "out")]
    assert {node.precision for node in match_nodes(nodes, kernels)} == {"fp16"}


def test_a_mask_of_integers_is_not_what_attention_computes_in() -> None:
    text = recorded("attention_fp16")
    mask = "{ Name: mask, Dimensions: [1,16], Strides: [16,1], StrideOrder: [1,0], "
    mask += "Datatype: Int32, Format: (Linear) Row major linear format }"
    at = text.index("Inputs: [", text.index("_gemm_mha")) + len("Inputs: [")
    changed = f"{text[:at]} {mask},{text[at:]}"
    attention = [k for k in parse_kernel_table([changed]) if k.kind == "attention"]
    assert attention[0].inputs[0].dtype == "int32"
    assert attention[0].precision == "fp16"


def test_nodes_of_branches_are_found() -> None:
    kernels = parsed("branches")
    nodes = [("then_conv", "Conv"), ("else_conv", "Conv"), ("gone", "Conv")]
    assert [node.precision for node in match_nodes(nodes, kernels)] == ["fp32", "fp32", None]
    assert {"jmp", "cjmp", "memset"} <= {k.layer_type for k in kernels if k.kind == "control"}


def test_a_shape_that_is_copied_to_the_gpu_is_no_kernel() -> None:
    copy, call, product, add, move = parsed("shape_on_gpu_int4")
    assert (copy.kind, copy.layer_type, copy.constants) == ("control", "ShapeHostToDevice", ())
    assert copy.tactic == ""
    assert [(t.name, t.shape, t.dtype) for t in copy.outputs] == [
        ("/net/Gather_3_output_0", (1,), "int64")
    ]
    assert (call.kind, add.kind, move.kind) == ("control", "other", "reformat")
    # Weights alone in int4: they are dequantized first, and the product is one of floats.
    assert (product.kind, product.precision) == ("gemm", "fp32")
    assert product.weights is not None
    assert (product.weights.dtype, product.weights.nbytes) == ("int4", 128 * 128 // 2)


def test_a_node_with_kernels_of_two_types_is_the_wider() -> None:
    kernels = parse_kernel_table(
        [
            table(
                *(
                    line(
                        "c",
                        "correlation",
                        tensor("a", "1,8", dtype),
                        tensor("w", "8,8", dtype),
                        metadata="[ONNX Layer: same]",
                    )
                    for dtype in ("Int8", "Half")
                )
            )
        ]
    )
    assert match_nodes([("same", "Conv")], kernels)[0].precision == "fp16"


def test_an_activation_product_has_no_weights() -> None:
    two = tensor("a", "-1,16,16", "Int8") + "," + tensor("b", "-1,16,16", "Int8")
    scalars = tensor("alpha", "1", "Float") + "," + tensor("bias", "1,16", "Float")
    (kernel,) = parse_kernel_table([table(line("m", "gemm", two, scalars))])
    assert (kernel.precision, kernel.weights) == ("int8", None)


def test_a_column_of_weights_is_weights() -> None:
    constants = tensor("bias", "1,1", "Float") + "," + tensor("w", "64,1", "Int8")
    (kernel,) = parse_kernel_table(
        [table(line("m", "gemm", tensor("a", "-1,64", "Int8"), constants))]
    )
    assert kernel.precision == "int8"
    assert kernel.weights is not None
    assert kernel.weights.name == "w"


def test_operands_that_are_cast_first_are_not_int8() -> None:
    name = "__myl_CastMulCastMulFc_myl0_1"
    (kernel,) = parse_kernel_table(
        [
            table(
                line(
                    name,
                    "runtime_fusion",
                    tensor("a", "-1,64", "Int8"),
                    tensor("w", "64,8", "Int8"),
                    tensor("y", "-1,8", "Half"),
                )
            )
        ]
    )
    assert (kernel.kind, kernel.precision) == ("gemm", "fp16")


def test_constants_count_once() -> None:
    shared = tensor("w", "3,3", "Int4")
    kernels = parse_kernel_table([table(line(constants=shared), line(constants=shared))])
    assert weight_bytes(kernels) == 5  # nine values of four bits
    unknown = parse_kernel_table([table(line(constants=tensor("v", "2", "Float7")))])
    assert unknown[0].constants[0].dtype == "float7"
    assert weight_bytes(unknown) is None


def test_several_tables_are_one() -> None:
    assert len(parse_kernel_table(["noise", table(line()), table(line(), line())])) == 3


def test_internal_numbers_are_counted_anew() -> None:
    one = parse_kernel_table([table(line("__mye812_a"), line("__mye7"), line("__mye812_b"))])
    two = parse_kernel_table([table(line("__mye55_a"), line("__mye9"), line("__mye55_b"))])
    assert one == two
    assert [kernel.name for kernel in one] == ["__mye0_a", "__mye1", "__mye0_b"]


def test_names_may_hold_the_separators() -> None:
    odd = "a b], [c { Name: d\nLayerType: }{"
    kernels = parse_kernel_table(
        [table(line("n"), line(odd, metadata=f"[ONNX Layer: {odd}]\x1f[ONNX Layer: x]"), line("z"))]
    )
    assert [kernel.name for kernel in kernels] == ["n", odd, "z"]
    assert kernels[1].onnx_nodes == (odd, "x")


def test_a_conv_that_is_compiled_as_a_gemm_ends_its_record_too() -> None:
    metadata = "[ONNX Layer: conv]\x1f[ONNX Layer: a]__b]__gemm_from_conv1x1"
    first, second = parse_kernel_table(
        [table(line(metadata=metadata), line("z", metadata="[ONNX Layer: c]"))]
    )
    assert first.onnx_nodes == ("conv", "a]__b")
    assert (second.name, second.onnx_nodes) == ("z", ("c",))


def test_zeros_that_pad_channels_are_no_weights() -> None:
    joined = tensor("joined", "1,128,20,20", "Int8")
    zeros, scale = tensor("zeros", "1,32,3,20,20", "Int8"), tensor("scale", "1,32,1,1", "Float")
    kernels = parse_kernel_table([table(line(constants=f"{zeros},{scale}", outputs=joined))])
    assert padding_bytes(kernels) == 32 * 3 * 20 * 20
    assert weight_bytes(kernels) == 32 * 4
    assert weight_bytes_by_type(kernels) == {"fp32": 32 * 4}
    other = tensor("table", "1,32,3,20,20", "Int8")
    kept = parse_kernel_table([table(line(constants=other, outputs=tensor("y", "1,32", "Int8")))])
    assert (padding_bytes(kept), weight_bytes(kept)) == (0, 32 * 3 * 20 * 20)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no table",
        HEADER + "Layer(Conv): conv1, Tactic: 0x1, x -> y",
        table(line()).replace("Outputs", "Results"),
        table(line(inputs=tensor("a", "1,b", "Int8"))),
        table(line(inputs=tensor("a", "1", "Int8").replace("Format", "Layout"))),
        table(line())[:60],
    ],
)
def test_what_cannot_be_read_says_so_and_costs_only_the_table(text: str) -> None:
    with pytest.raises(KernelTableError):
        parse_kernel_table([text])
    kernels, note = _kernels(BuildResult("TensorRT-RTX 9.9", 1.0, 1, tables=(text,)))
    assert kernels is None
    assert note is not None
    assert "TensorRT-RTX 9.9" in note
    assert "the engine itself is complete" in note


def read_or_refuse(text: str) -> None:
    try:
        kernels = parse_kernel_table([text])
    except KernelTableError:
        return
    assert sum(count_by_precision(kernels).values()) <= len(kernels)
    assert (weight_bytes(kernels) or 0) >= 0
    assert len(match_nodes([("a", "Conv")], kernels)) == 1


@given(st.text())
def test_garbage_never_breaks_it(text: str) -> None:
    read_or_refuse(text)
    read_or_refuse(HEADER + text)


PIECES = [
    *("Name: ", ", LayerType: ", "kgen", "gemm", ", Inputs: ", "[", "]", " { Name: ", " }", ","),
    *(", Dimensions: [", "1,-1", ", Datatype: ", "Int8", ", Format: ", ", Constants: ", "\n"),
    *(", Outputs: ", ", TacticName: ", ", StreamId: ", ", Metadata: ", "[ONNX Layer: a]", "\x1f"),
    "\n\nI/O Tensors:\n",
]


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=60).map("".join))
def test_shuffled_pieces_never_break_it(text: str) -> None:
    read_or_refuse(HEADER + text)


@pytest.mark.parametrize("name", RECORDED)
def test_a_damaged_table_never_breaks_it(name: str) -> None:
    text = recorded(name)
    chance = random.Random(0)
    for _ in range(200):
        start = chance.randrange(len(HEADER), len(text))
        end = min(len(text), start + chance.randrange(1, 80))
        read_or_refuse(text[:start] + text[end:])
        read_or_refuse(text[:start])
