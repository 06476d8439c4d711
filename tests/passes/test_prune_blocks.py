"""prune-blocks: which sums are residual blocks, and that dropping one drops just that."""

from __future__ import annotations

import block_nets as nets
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from block_nets import branches, found, net, outputs, random_feed, with_branch

from graphopt_passes.eliminate_dead.elimination import eliminate_dead
from graphopt_passes.prune_blocks.dropping import drop

ARCHITECTURES = {
    "post-activation": (nets.POST_ACTIVATION, ["c2", "c5"]),
    "pre-norm": (nets.PRE_NORM, ["ab", "mb"]),
    "inverted": (nets.INVERTED, ["c"]),
    "convnext": (nets.CONVNEXT, ["drop"]),
    "c2f": (nets.C2F, ["a2"]),
    "parallel-left": (nets.LEFT, ["attention", "mlp"]),
    "parallel-right": (nets.RIGHT, ["attention", "inner", "mlp"]),
    "parallel-flat": (nets.FLAT, ["attention", "mlp"]),
    "pooling": (nets.POOLING, ["z"]),
    "context": (nets.CONTEXT, ["r"]),
    "nested": (nets.NESTED, ["c2", "c3"]),
}


@pytest.mark.parametrize(("model", "expected"), ARCHITECTURES.values(), ids=list(ARCHITECTURES))
def test_the_blocks_of_an_architecture(model: ir.Model, expected: list[str]) -> None:
    assert branches(model) == expected


CASES = [(name, branch) for name, (_, names) in ARCHITECTURES.items() for branch in names]


@pytest.mark.parametrize(("name", "branch"), CASES)
def test_a_dropped_block_is_one_whose_branch_is_zero(name: str, branch: str) -> None:
    model = ARCHITECTURES[name][0]
    (block,) = [block for block in found(model)[0] if block.branch == branch]
    dropped = drop(model, block, None)
    eliminate_dead(dropped)
    proto = ir.to_proto(dropped)
    onnx.checker.check_model(proto, full_check=True)
    assert len(dropped.graph) <= len(model.graph) - len(block.nodes)
    feed = random_feed(model)
    whole = outputs(model, feed)["y"]
    expected = outputs(with_branch(model, block, 0.0), feed)["y"]
    peak = np.abs(expected).max()
    assert np.abs(outputs(dropped, feed)["y"] - expected).max() <= 1e-6 * peak
    assert np.abs(whole - expected).max() > 1e-3 * peak


@pytest.mark.parametrize(("name", "branch"), CASES)
def test_a_constant_takes_the_place_of_a_branch(name: str, branch: str) -> None:
    model = ARCHITECTURES[name][0]
    (block,) = [block for block in found(model)[0] if block.branch == branch]
    feed = random_feed(model)
    dropped = drop(model, block, np.array(0.25, np.float32))
    eliminate_dead(dropped)
    assert not any(str(value.name) == branch for n in dropped.graph for value in n.outputs)
    expected = outputs(with_branch(model, block, 0.0, 0.25), feed)["y"]
    actual = outputs(dropped, feed)["y"]
    assert np.abs(actual - expected).max() <= 1e-6 * np.abs(expected).max()


W = "float[4,4,1,1] w, float[4,4,1,1] v, float[2,4,1,1] u, float[4] b"

NO_BLOCKS = {
    "a formula": "p = Mul (x, x)  q = Mul (p, x)  z = Add (x, q)  y = Conv (z, u)",
    "a concatenation": "c = Conv (x, w)  t = Concat <axis = 1> (x, c)  y = Relu (t)",
    "unrelated operands": "c = Conv (x, w)  z = Add (c, x2)  y = Conv (z, u)",
    "a bias": "c = Conv (x, w)  z = Add (c, c)  y = Conv (z, u)",
    "the branch does not read the skip": """c = Conv (x, w)  d = Conv (x2, v)  r = Relu (c)
        s = Sub (d, r)  z = Add (r, s)  y = Conv (z, u)""",
    "a gate": "c = Conv (x, w)  g = Sigmoid (c)  z = Mul (x, g)  y = Conv (z, u)",
}


@pytest.mark.parametrize("body", NO_BLOCKS.values(), ids=list(NO_BLOCKS))
def test_what_is_no_block(body: str) -> None:
    model = net(body, "float[n, 4, 6, 6] x, float[n, 4, 6, 6] x2", W)
    assert found(model) == ([], [])


DECLINED = {
    "a projection": (
        "c = Conv (x, w)  r = Relu (c)  d = Conv (r, v)  p = Conv (x, w)  z = Add (d, p)  "
        "y = Conv (z, u)",
        "y",
        "the skip is no identity",
    ),
    "an output inside": (
        "c = Conv (x, w)  d = Conv (c, v)  z = Add (d, x)  y = Conv (z, u)",
        "y c",
        "'c' in its branch is an output of the graph",
    ),
    "a reader outside": (
        "c = Conv (x, w)  d = Conv (c, v)  z = Add (d, x)  t = Concat <axis = 1> (z, c)  "
        "y = Relu (t)",
        "y",
        "'c' in its branch is read by 'concat_3' too",
    ),
    "another shape": (
        "p = GlobalAveragePool (x)  k = Conv <pads = [1,1,1,1]> (p, w)  z = Add (p, k)  "
        "y = Conv (z, u)",
        "y",
        "does not have the shape of the sum",
    ),
}


@pytest.mark.parametrize(("body", "names", "reason"), DECLINED.values(), ids=list(DECLINED))
def test_what_only_looks_like_a_block(body: str, names: str, reason: str) -> None:
    model = net(body, nets.IMAGE, W, names)
    blocks, declined = found(model)
    assert blocks == []
    assert [reason in near.reason for near in declined] == [True]
    assert declined[0].rewrite == "residual-block"


IF = """z0 = Conv (x, w)  c = Cast <to = 9> (flag)
    i = If (c) <then_branch = t () => (float[n, 4, 6, 6] o) { o = Relu (z0) },
                else_branch = e () => (float[n, 4, 6, 6] p) { p = Neg (z0) }>"""
CHOICE = """z0 = Conv (x, w)  c = Cast <to = 9> (flag)
    i = If (c) <then_branch = t () => (float o) { o = Constant <value_float = 1.0> () },
                else_branch = e () => (float p) { p = Constant <value_float = 2.0> () }>"""
INSIDE = "'z0' in its branch is read in a subgraph, by"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f"{IF} z = Add (x, i)  y = Conv (z, u)", INSIDE),
        (
            f"{IF} d = Conv (z0, v)  z = Add (x, d)  t = Concat <axis = 1> (z, i) y = Relu (t)",
            INSIDE,
        ),
        (f"{CHOICE} m = Mul (z0, i)  z = Add (x, m)  y = Conv (z, u)", "its branch holds If"),
    ],
)
def test_subgraphs_are_barriers(body: str, reason: str) -> None:
    model = net(body, nets.IMAGE + ", float flag", W)
    blocks, declined = found(model)
    assert blocks == []
    assert reason in declined[0].reason


def test_an_operator_that_nobody_knows_is_a_barrier() -> None:
    proto = ir.to_proto(net("c = Conv (x, w)  z = Add (c, x)  y = Conv (z, u)", nets.IMAGE, W))
    proto.opset_import.append(onnx.helper.make_opsetid("mine", 1))
    proto.graph.node[0].output[0] = "c0"
    proto.graph.node.insert(1, onnx.helper.make_node("Log", ["c0"], ["c"], "log", domain="mine"))
    blocks, declined = found(ir.from_proto(proto))
    assert blocks == []
    assert "Log 'log' of domain 'mine' in its branch may do more" in declined[0].reason


def test_a_dropped_block_at_the_end_leaves_the_output_its_name() -> None:
    model = net("c = Conv (x, w)  r = Relu (c)  y = Add (r, x)", nets.IMAGE, W)
    (block,) = found(model)[0]
    dropped = drop(model, block, None)
    eliminate_dead(dropped)
    onnx.checker.check_model(ir.to_proto(dropped), full_check=True)
    feed = random_feed(model)
    assert np.array_equal(outputs(dropped, feed)["y"], feed["x"])


def test_a_cast_that_changes_the_type_is_no_skip() -> None:
    body = "h = Cast <to = 10> (x)  k = Cast <to = 1> (h)  c = Conv (x, w)  z = Add (k, c)"
    assert branches(net(f"{body} y = Conv (z, u)", nets.IMAGE, W)) == []
    same = body.replace("<to = 10>", "<to = 1>")
    assert branches(net(f"{same} y = Conv (z, u)", nets.IMAGE, W)) == ["c"]


def test_shapes_that_are_not_known_to_be_alike_are_told() -> None:
    """`k` is as long as `ids` says, so nobody can tell whether it is as long as `x`."""
    weights = "float[9, 8] table, float[8, 8] w, float[8, 3] u"
    body = "k = Gather (table, ids)  e = Add (x, k)  c = MatMul (e, w)  z = Add (c, x)"
    model = net(f"{body} y = MatMul (z, u)", "float[n, t, 8] x, int64[m] ids", weights)
    blocks, _ = found(model)
    assert [(block.branch, block.alike) for block in blocks] == [("c", (("x", "z"),))]


def test_long_chains_take_time_in_line_with_their_length() -> None:
    """2,000 blocks: a search of all nodes for each would take minutes."""
    steps = [f"c{i} = Conv (x{i}, w)  x{i + 1} = Add (x{i}, c{i})" for i in range(2000)]
    body = "x0 = Relu (x) " + " ".join(steps) + " y = Conv (x2000, u)"
    assert len(branches(net(body, nets.IMAGE, W))) == 2000
