"""Facts never contradict a run: random graphs of shape arithmetic, at sizes from 0 to 5.

A graph grows node by node, and a node stays if ONNX Runtime runs the graph at the first sizes. What
is known of its values must then hold there, and at other sizes wherever ONNX Runtime runs it too.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import onnx
from facts_check import NotRunError, contradictions, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

HEAD = '<ir_version: 9, opset_import: ["" : {opset}]> g '
INPUTS = "(float[n, 4] a, float[n, m] b, float[m, 3, n] c, float[2, m, 1] d) => () "
CONSTANTS = (
    "<int64[1] i0 = {0}, int64[1] i1 = {1}, int64[1] im = {-1}, int64[1] i2 = {2}, "
    "int64[1] i3 = {3}, int64[1] far = {9223372036854775807}, int64[2] i01 = {0, 1}, "
    "int64[2] im1 = {-1, 1}, int64[3] i0m1 = {0, -1, 1}, int64[3] i010 = {0, 1, 0}, "
    "int64 s0 = {0}, int64 s1 = {1}, int64 s2 = {2}, int64 sm = {-1}, float f = {0.5}, "
    "int64[4] p4 = {0, 1, 1, 0}, int64[6] p6 = {0, 1, 0, 2, 0, 0}, float[5, 3, 2] w = {"
    + ", ".join(["1"] * 30)
    + "}, "
    "float[4, 2] u = {1, 2, 3, 4, 5, 6, 7, 8}>"
)
FLOATS = ("a", "b", "c", "d")
INTS = ("i0", "i1", "im", "i2", "i3", "i01", "im1", "i0m1", "i010", "s0", "s1", "s2", "sm")
# {f} stands for any tensor of floats, {i} for one of integers, {k} for a constant of such
MAKES_FLOATS = (
    *("Relu ({f})", "Add ({f}, {f})", "Mul ({f}, {f})", "Reshape ({f}, {i})", "Expand ({f}, {i})"),
    *("Reshape <allowzero = 1> ({f}, {i})", "Flatten <axis = 1> ({f})", "Flatten <axis = 0> ({f})"),
    *("Concat <axis = 0> ({f}, {f})", "Concat <axis = -1> ({f}, {f})", "Slice ({f}, {i}, {i})"),
    *(
        "Slice ({f}, {k}, {i}, {k})",
        "Slice ({f}, {k}, far, {k})",
        "Slice ({f}, {i}, {i}, {k}, {k})",
    ),
    *("Gather ({f}, {i})", "Gather <axis = 1> ({f}, {i})", "Gather <axis = -1> ({f}, {k})"),
    *("Transpose ({f})", "Transpose <perm = [1, 0]> ({f})", "Transpose <perm = [2, 0, 1]> ({f})"),
    *("Squeeze ({f})", "Squeeze ({f}, {k})", "Unsqueeze ({f}, {k})", "Tile ({f}, {i})"),
    *("MatMul ({f}, {f})", "MatMul ({f}, u)", "Gemm ({f}, {f})", "Gemm <transB = 1> ({f}, {f})"),
    *("ReduceMean <axes = [-1]> ({f})", "ReduceMax <axes = [0], keepdims = 0> ({f})"),
    *("ReduceSum ({f}, {k})", "ReduceSum <keepdims = 0> ({f}, {k})", "ReduceSum ({f})"),
    *("Pad ({f}, p4)", "Pad ({f}, p6)", "Pad ({f}, {i})", "ConstantOfShape ({i})"),
    *("Conv ({f}, w)", "Conv <strides = [2], pads = [1, 1]> ({f}, w)", "GlobalMaxPool ({f})"),
    *('Conv <auto_pad = "SAME_UPPER", strides = [2]> ({f}, w)', "Conv <dilations = [2]> ({f}, w)"),
    "MaxPool <kernel_shape = [2], strides = [2], pads = [1, 0]> ({f})",
    "AveragePool <kernel_shape = [3], ceil_mode = 1, strides = [2]> ({f})",
    *(
        "ConvTranspose <strides = [2]> ({f}, w)",
        "Where ({b}, {f}, {f})",
        "GatherElements ({f}, {i})",
    ),
    *("GatherND ({f}, {i})", 'Einsum <equation = "ij,jk->ik"> ({f}, {f})', "Softmax ({f})"),
    *("Cast <to = 1> ({i})", "If", "Trilu ({f})", "Max ({f}, f)", "Sum ({f}, {f}, f)"),
)
MAKES_INTS = (
    *("Shape ({f})", "Shape <start = 1> ({f})", "Shape <start = -2, end = -1> ({f})", "Size ({f})"),
    *("Shape ({i})", "Gather ({i}, {k})", "Slice ({i}, {k}, {k})", "Slice ({i}, {k}, far, i0)"),
    *("Slice ({i}, im, {k}, i0, im)", "Concat <axis = 0> ({i}, {i})", "Add ({i}, {i})"),
    *("Sub ({i}, {i})", "Mul ({i}, {i})", "Div ({i}, {k})", "Mod ({i}, {k})", "Min ({i}, {i})"),
    *("Max ({i}, {i})", "Squeeze ({i})", "Squeeze ({i}, i0)", "Unsqueeze ({i}, i0)"),
    *("Reshape ({i}, {i})", "ReduceProd ({i})", "ReduceProd <keepdims = 0> ({i})"),
    *("Where ({b}, {i}, {i})", "Cast <to = 7> ({i})", "Cast <to = 7> ({b})", "Range (s0, {i}, s1)"),
    *("Range ({i}, {i}, {i})", "ConstantOfShape <value = int64[1] {3}> ({i})", "Identity ({i})"),
    *(
        "ArgMax <axis = -1> ({f})",
        "Expand ({i}, {i})",
        "NonZero ({f})",
        "Neg ({i})",
        "Tile ({i}, {k})",
    ),
)
MAKES_BOOLS = (
    *("Equal ({i}, {i})", "Less ({i}, {i})", "Greater ({i}, {k})", "Not ({b})", "And ({b}, {b})"),
    *("Or ({b}, {b})", "Cast <to = 9> ({i})", "Less ({f}, {f})", "Equal ({i}, im)"),
)


def grow(rng: random.Random, opset: int, sizes: tuple[int, int], nodes: int) -> onnx.ModelProto:
    """A graph of at most `nodes` nodes that runs at `sizes` of n and m."""
    known = {"f": list(FLOATS), "i": list(INTS), "b": ["t"], "k": list(INTS)}
    body = ["t = Equal (i0, i1)", "z = Shape (a)", "y = Shape (c)"]
    known["i"] += ["z", "y"]
    for number in range(nodes):
        kind, makes = rng.choice(
            [*[("f", MAKES_FLOATS)] * 3, *[("i", MAKES_INTS)] * 3, ("b", MAKES_BOOLS)]
        )
        pattern = rng.choice(makes)
        if pattern == "If":
            pattern = (
                "If ({b}) <then_branch = p{n} () => (float q{n}) {{ q{n} = Relu ({f}) }}, "
                "else_branch = o{n} () => (float r{n}) {{ r{n} = Neg ({f}) }}>"
            )
        text = _fill(pattern, known, rng, number)
        candidate = _model(opset, [*body, f"v{number} = {text}"])
        if values_at(candidate, sizes) is None:
            continue
        body.append(f"v{number} = {text}")
        known[kind].append(f"v{number}")
    return _model(opset, body)


def _fill(pattern: str, known: dict[str, list[str]], rng: random.Random, number: int) -> str:
    for kind in "fibk":
        while f"{{{kind}}}" in pattern:
            recent = known[kind][-6:] if kind != "k" and rng.random() < 0.7 else known[kind]
            pattern = pattern.replace(f"{{{kind}}}", rng.choice(recent), 1)
    return pattern.replace("{n}", str(number)).replace("{{", "{").replace("}}", "}")


def _model(opset: int, body: list[str]) -> onnx.ModelProto:
    text = HEAD.format(opset=opset) + INPUTS + CONSTANTS + "{ " + "\n".join(body) + " }"
    return onnx.parser.parse_model(text)


def values_at(model: onnx.ModelProto, sizes: tuple[int, int]) -> dict[str, Any] | None:
    """The values of `model` at those sizes of n and m; None if it is not valid there."""
    inputs = feed(*sizes)
    try:
        values = run(model, inputs)
    except NotRunError:
        return None
    shapes = {name: np.shape(array) for name, array in {**inputs, **values}.items()}
    joined = [node for node in model.graph.node if node.op_type == "Concat"]
    return (
        values if all(_fit(node, [shapes.get(v) for v in node.input]) for node in joined) else None
    )


def _fit(concat: onnx.NodeProto, shapes: list[tuple[int, ...] | None]) -> bool:
    """Whether the shapes fit, as ONNX demands; ONNX Runtime ignores those of empty inputs."""
    axis = concat.attribute[0].i
    known = [list(shape) for shape in shapes if shape]
    for shape in known:
        del shape[axis]
    return all(shape == known[0] for shape in known)


def feed(n: int, m: int) -> dict[str, np.ndarray]:
    shapes = {"a": (n, 4), "b": (n, m), "c": (m, 3, n), "d": (2, m, 1)}
    return {name: np.ones(shape, np.float32) for name, shape in shapes.items()}


SIZES = st.tuples(st.integers(0, 5), st.integers(0, 5))


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32), st.sampled_from((17, 21)), SIZES, st.lists(SIZES, max_size=3))
def test_facts_hold_at_all_sizes(
    seed: int, opset: int, sizes: tuple[int, int], others: list[tuple[int, int]]
) -> None:
    model = grow(random.Random(seed), opset, sizes, 24)
    assert contradictions(model, feed(*sizes)) == []
    for other in others:
        values = values_at(model, other)  # a Reshape may work at the first sizes only
        if values is not None:
            assert contradictions(model, feed(*other)) == []


def test_most_nodes_run() -> None:
    """Else the graphs would be too small to find anything."""
    counts = [len(grow(random.Random(seed), 17, (2, 3), 24).graph.node) for seed in range(5)]
    assert sum(counts) > 5 * 10
