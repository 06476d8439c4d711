"""prune-blocks: which blocks go, what makes up for them, and what is told."""

from __future__ import annotations

from typing import Any

import block_nets as nets
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from block_nets import found, net, noise, outputs, random_feed, with_branch
from models import serialized

import graphopt
from graphopt import GraphoptError, Need, PassContext
from graphopt.data.arrays import ArraySamples
from graphopt.data.feeds import input_specs
from graphopt.data.samples import open_samples
from graphopt.pipeline.runner import run
from graphopt_passes.prune_blocks import PruneBlocks


def test_the_block_that_does_least_goes_first() -> None:
    """Of three blocks, one adds next to nothing, and one a constant, which is its mean."""
    weights = "float[4,4,1,1] w, float[2,4,1,1] u, float tiny = {0.001}, float zero = {0.0}"
    body = """a = Conv (x, w)  x1 = Add (a, x)
        b = Conv (x1, w)  bs = Mul (b, tiny)  x2 = Add (x1, bs)
        c = Conv (x2, w)  cz = Mul (c, zero)  cs = Add (cz, one)  x3 = Add (cs, x2)
        y = Conv (x3, u)"""
    model = net(body, nets.IMAGE, weights + ", float[1] one = {3.0}")
    context = noise(model)
    result = PruneBlocks(n=2, compensate="bias").run(model, context)
    rows = {row["block"]: row for row in result.details["blocks"]}
    assert [(row["branch"], row["dropped"]) for row in rows.values()] == [
        ("a", None),
        ("bs", 2),
        ("cs", 1),
    ]
    figures = [row["sqnr_db"] for row in rows.values()]
    assert figures[0] < 20 < 50 < figures[1] < figures[2]
    assert {row["nodes"] for row in rows.values()} == {1, 2, 3}
    bare = PruneBlocks(n=1, compensate="none").run(model, context)
    assert [row["dropped"] for row in bare.details["blocks"]] == [None, 1, None]


def test_influence_is_that_of_the_whole_model_without_the_block() -> None:
    """The figures, computed from values that are held, against the plain definition."""
    model = nets.PRE_NORM
    context = noise(model, 32)
    result = PruneBlocks(compensate="none").run(model, context)
    feed = random_feed(model, 32)
    held_out = {name: array[3::4] for name, array in feed.items()}
    expected = outputs(model, held_out)["y"].astype(np.float64)
    for block, row in zip(found(model)[0], result.details["blocks"], strict=True):
        error = outputs(with_branch(model, block, 0.0), held_out)["y"] - expected
        figure = 10 * np.log10(np.square(expected).sum() / np.square(error).sum())
        assert row["sqnr_db"] == pytest.approx(figure, abs=1e-3)


def test_equal_blocks_go_by_their_macs() -> None:
    weights = "float[4,4,1,1] w, float[4,4,3,3] v, float[2,4,1,1] u, float zero = {0.0}"
    body = """a = Conv (x, w)  az = Mul (a, zero)  x1 = Add (az, x)
        b = Conv <pads = [1,1,1,1]> (x1, v)  bz = Mul (b, zero)  x2 = Add (x1, bz)
        y = Conv (x2, u)"""
    model = net(body, nets.IMAGE, weights)
    result = PruneBlocks(compensate="none").run(model, noise(model))
    assert [row["dropped"] for row in result.details["blocks"]] == [None, 1]
    assert [row["macs"] for row in result.details["blocks"]] == [576, 5184]
    assert [row["parameters"] for row in result.details["blocks"]] == [16, 144]


ENDS = {
    "bias": "m = MatMul (x1, v)  last = Add (m, c)",
    "layer-scale": "m = MatMul (x1, v)  mb = Add (m, c)  last = Mul (mb, gamma)",
    "transpose": """t = Transpose <perm = [0,2,1]> (x1)  k = Conv (t, kernel)
        kn = BatchNormalization (k, gamma, c, gamma, gamma)
        last = Transpose <perm = [0,2,1]> (kn)""",
    "gemm": """r = Reshape (x1, rows)  k = Gemm <transB = 1> (r, v, c)
        last = Reshape (k, shape)""",
}


@pytest.mark.parametrize("end", list(ENDS))
def test_a_sum_is_made_up_for_by_the_layer_that_ends_in_it(end: str) -> None:
    """Both blocks are linear and read the same: the second one can stand for both, exactly."""
    weights = """float[8, 8] w, float[8] b, float[8, 8] v, float[8] c, float[8] gamma,
        float[8, 8, 1] kernel, float[8, 3] u, int64[2] rows = {-1, 8}, int64[3] shape"""
    weights += " = {-1, 5, 8}"
    body = f"k0 = MatMul (x, w)  first = Add (k0, b)  x1 = Add (x, first) {ENDS[end]}"
    model = named(net(f"{body}  x2 = Add (last, x1)  y = MatMul (x2, u)", nets.TOKENS, weights))
    figures = [
        PruneBlocks(exclude=("last",), compensate=compensate)
        .run(model, noise(model, 256))
        .details["steps"][0]["sqnr_db"]
        for compensate in ("bias", "ls")
    ]
    assert figures[0] < 10
    assert figures[1] > 30  # not more, for a ridge keeps the weights near to what they were


def test_a_sum_that_repeats_what_a_layer_gives_is_no_target_for_it() -> None:
    body = """a = Conv (x, w)  x1 = Add (x, a)  p = GlobalAveragePool (x1)  c = Conv (p, v, b)
        x2 = Add (x1, c)  y = Conv (x2, u)"""
    weights = "float[4,4,1,1] w, float[4,4,1,1] v, float[4] b, float[2,4,1,1] u"
    model = named(net(body, nets.IMAGE, weights))
    result = PruneBlocks(exclude=("c",)).run(model, noise(model, 256))
    (step,) = result.details["steps"]
    assert step["sqnr_db"] > 20
    # What it reads by now is off by a matrix, which it can take in.
    (row,) = [row for row in step["refits"] if row["layer"] == "c"]
    assert row["error_after"] < 0.05 < row["error_before"]


@pytest.mark.parametrize(
    ("end", "sums"),
    [
        ("y = Conv (r, u, d)", 0),
        ("z = Conv (r, u)  y = Relu (z)", 0),  # a Conv gets a bias
        ("m = Relu (r)  y = Exp (m)", 1),  # nothing is refitted
    ],
)
def test_a_mean_is_added_only_where_no_bias_makes_up_for_it(end: str, sums: int) -> None:
    """And an activation behind the sum goes that then follows itself."""
    weights = "float[4,4,1,1] w, float[4] b, float[2,4,1,1] u, float[2] d"
    body = "h = Relu (x)  a = Conv (h, w, b)  x1 = Add (a, h)  r = Relu (x1)"
    model = net(f"{body} {end}", nets.IMAGE, weights)
    context = noise(model, 64)
    result = PruneBlocks().run(model, context)
    operators = [node.op_type for node in result.model.graph]
    assert operators.count("Add") == sums
    assert operators[:2] == (["Relu", "Add"] if sums else ["Relu", "Conv"])
    (step,) = result.details["steps"]
    assert step["sqnr_db"] > (0 if sums else 10)
    told = {"noop-relu": 1, "layers refitted": 1} if not sums else {"noop-relu": 1}
    assert result.rewrites == {"blocks dropped": 1, **told}


def named(model: ir.Model) -> ir.Model:
    """A copy in which nodes go by the names of what they give."""
    copy = model.clone()
    for node in copy.graph:
        node.name = node.outputs[0].name
    return copy


@pytest.mark.parametrize("model", [nets.POST_ACTIVATION, nets.INVERTED, nets.CONVNEXT, nets.LEFT])
@pytest.mark.parametrize("compensate", ["ls", "bias", "none"])
def test_results_are_valid_and_the_same_each_time(model: ir.Model, compensate: Any) -> None:
    step = PruneBlocks(compensate=compensate)
    before = serialized(model)
    first, second = (step.run(model, noise(model)) for _ in range(2))
    assert serialized(first.model) == serialized(second.model) != before == serialized(model)
    assert [v.name for v in first.model.graph.inputs] == [v.name for v in model.graph.inputs]
    assert [v.name for v in first.model.graph.outputs] == [v.name for v in model.graph.outputs]
    for value in first.model.graph.initializers.values():
        assert value.uses()
    onnx.checker.check_model(ir.to_proto(first.model), full_check=True)
    got = outputs(first.model, random_feed(model, 7))["y"]
    assert got.shape == outputs(model, random_feed(model, 7))["y"].shape


def test_all_of_a_parallel_layer_can_go() -> None:
    for model in (nets.LEFT, nets.RIGHT, nets.FLAT):
        for compensate in ("none", "bias"):
            result = PruneBlocks(n=2, compensate=compensate).run(model, noise(model))
            assert {n.op_type for n in result.model.graph} <= {"MatMul", "Add", "Sum"}


def test_half_precision() -> None:
    proto = ir.to_proto(nets.POST_ACTIVATION)
    for tensor in proto.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    del proto.graph.value_info[:]
    model = ir.from_proto(proto)
    result = PruneBlocks().run(model, noise(model))
    onnx.checker.check_model(ir.to_proto(result.model), full_check=True)
    kinds = {v.dtype for v in result.model.graph.initializers.values()}
    assert kinds == {ir.DataType.FLOAT16}
    single = PruneBlocks().run(nets.POST_ACTIVATION, noise(nets.POST_ACTIVATION))
    figures = [r.details["steps"][0]["sqnr_db"] for r in (result, single)]
    assert figures[0] == pytest.approx(figures[1], abs=1)


def test_excluded_blocks_stay() -> None:
    model = named(nets.POST_ACTIVATION)
    result = PruneBlocks(exclude=("c[35]",), compensate="none").run(model, noise(model))
    assert [row["branch"] for row in result.details["blocks"]] == ["c2"]
    assert ("a3", "it is excluded") in [(d.node, d.reason) for d in result.declined]
    with pytest.raises(GraphoptError, match="no node or operator is called 'c9'"):
        PruneBlocks(exclude=("c9",)).run(model, noise(model))


def test_asking_for_more_than_there_are() -> None:
    model = nets.POST_ACTIVATION
    with pytest.raises(GraphoptError, match="n=3, but only 2 residual blocks can be dropped"):
        PruneBlocks(n=3).run(model, noise(model))
    nested = PruneBlocks(n=2, compensate="none").run(nets.NESTED, noise(nets.NESTED))
    assert (nested.unmet is None) == (len(nested.details["steps"]) == 2)


def test_nothing_to_drop_is_told_with_the_reason() -> None:
    body = "c = Conv (x, w)  d = Conv (c, w)  z = Add (d, x)  y = Conv (z, u)"
    model = net(body, nets.IMAGE, "float[4,4,1,1] w, float[2,4,1,1] u", "y c")
    result = PruneBlocks().run(model, noise(model))
    assert not result.modified
    assert result.notes == (
        "no residual block can be dropped: 'add_2': 'c' in its branch is an output of the graph",
    )
    assert PruneBlocks(n=1).run(model, noise(model)).unmet == f"n=1: {result.notes[0]}"
    plain = net("y = Conv (x, u)", nets.IMAGE, "float[2,4,1,1] u")
    assert "none of its sums adds" in PruneBlocks().run(plain, noise(plain)).notes[0]


def test_shapes_that_nobody_knows_are_looked_at() -> None:
    weights = "float[9, 8] table, float[8, 8] w, float[8, 3] u"
    body = "k = Gather (table, ids)  e = Add (x, k)  c = MatMul (e, w)  z = Add (c, x)"
    model = net(f"{body} y = MatMul (z, u)", "float[n, t, 8] x, int64[n, m] ids", weights)
    ids = np.zeros((16, 5), np.int64)
    for length, blocks in ((5, 1), (1, 0)):
        feed = {"x": np.ones((16, length, 8), np.float32), "ids": ids}
        context = PassContext(calibration=ArraySamples("ids", feed, input_specs(model)))
        result = PruneBlocks(compensate="none").run(model, context)
        assert len(result.details.get("blocks", ())) == blocks
        assert result.modified == bool(blocks)
        if not blocks:
            assert "does not have the shape of 'z' on the samples" in result.notes[0]


def test_random_and_few_samples_are_told() -> None:
    model = nets.POST_ACTIVATION
    specs = input_specs(model)
    random = PassContext(calibration=open_samples("random{n=16}", specs))
    result = PruneBlocks().run(model, random)
    assert "fitted to random samples" in result.notes[0]
    assert "layers refitted" not in result.rewrites
    assert not any(str(name).endswith(".mean") for name in result.model.graph.initializers)
    few = PassContext(calibration=ArraySamples("few", random_feed(model, 4), specs))
    assert "too few samples to hold any out" in PruneBlocks().run(model, few).notes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n must be at least 1"),
        ({"max_drop": -1.0}, "max_drop must be"),
        ({"min_sqnr": float("nan")}, "min_sqnr must be"),
        ({"max_drop": 1.0, "min_sqnr": 1.0}, "exclude each other"),
        ({"compensate": "some"}, "compensate must be"),
        ({"samples": 7}, "samples must be at least 8"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PruneBlocks(**options)


def test_needs() -> None:
    assert PruneBlocks().required() == (Need.CALIBRATION,)
    assert Need.EVALUATION in PruneBlocks(max_drop=1.0).required()
    with pytest.raises(GraphoptError, match="needs calibration data"):
        PruneBlocks().run(nets.INVERTED, PassContext())
    with pytest.raises(GraphoptError, match="needs an evaluation"):
        PruneBlocks(max_drop=1.0).run(nets.INVERTED, noise(nets.INVERTED))
    feed = random_feed(nets.INVERTED, 16)
    feed["x"][2] = np.nan
    broken = PassContext(calibration=ArraySamples("nan", feed, input_specs(nets.INVERTED)))
    with pytest.raises(GraphoptError, match="NaN or an infinite value"):
        PruneBlocks().run(nets.INVERTED, broken)


def test_as_text() -> None:
    pipeline = graphopt.parse("prune-blocks{n=2,compensate=bias,exclude=[a,b*]}")
    (step,) = pipeline.steps
    assert step == PruneBlocks(n=2, compensate="bias", exclude=("a", "b*"))
    model = nets.POST_ACTIVATION
    pipeline = graphopt.parse("prune-blocks{compensate=none},simplify")
    result = run(pipeline, model, noise(model), any_order=True)
    # The Relu of a Relu is one.
    assert [n.op_type for n in result.model.graph].count("Relu") == 4
