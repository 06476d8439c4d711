"""`cast-precision` and the graph around the numbers: types, subgraphs, domains, opsets."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from casting import Cast, cast, noise, proto
from onnx import TensorProto, helper

import graphopt
from graphopt.errors import GraphoptError
from graphopt.ir import load
from graphopt.pipeline.base import PassContext
from graphopt_passes.cast_precision import CastPrecision

NET = "h = MatMul (x, w) r = Relu (h) y = Add (r, b)"
WEIGHTS = {"w": noise(8, 8), "b": noise(8, seed=1)}


def test_the_whole_graph_is_low_between_two_casts() -> None:
    found = cast(proto(NET, **WEIGHTS))
    assert found.operators == ["Cast", "MatMul", "Relu", "Add", "Cast"]
    assert found.type_of("w") == found.type_of("b") == found.type_of("r") == "FLOAT16"
    assert found.sqnr({"x": noise(2, 8)}) > 60
    assert found.result.rewrites == {"fp16-node": 3, "cast": 2}
    details = found.result.details
    assert details["weight_bytes_before"] == 2 * details["weight_bytes_after"] == 4 * 72


def test_inputs_and_outputs_can_be_low() -> None:
    found = cast(proto(NET, **WEIGHTS), io="low")
    assert found.operators == ["MatMul", "Relu", "Add"]
    assert found.type_of("x") == found.type_of("y") == "FLOAT16"
    (dims,) = [value.type.tensor_type.shape.dim for value in found.after.graph.output]
    assert [dim.dim_value for dim in dims] == [2, 8]


def test_low_outputs_of_what_stays() -> None:
    found = cast(proto(NET, **WEIGHTS), io="low", keep=("y", "MatMul"))
    assert found.left == {"h": "to be kept", "y": "to be kept", "r": "between nodes in fp32"}
    assert found.type_of("x") == found.type_of("y") == "FLOAT16"
    assert found.type_of("w") == "FLOAT"


def test_a_name_that_nothing_has_is_an_error() -> None:
    with pytest.raises(GraphoptError, match="keep: no node or operator is called 'Reluu'"):
        cast(proto(NET, **WEIGHTS), keep=("Reluu",))


def test_a_low_model_stays_as_it_is() -> None:
    once = cast(proto(NET, **WEIGHTS), io="low").after
    result = cast(once, io="low").result
    assert not result.modified
    assert result.notes == ("there is no fp32 to cast",)
    framed = cast(proto(NET, **WEIGHTS)).after
    again = cast(framed)
    assert not again.result.modified
    assert again.after == framed


def test_a_value_is_cast_once_whoever_reads_it() -> None:
    body = (
        "a = Relu (x) b = custom.Odd (a) c = custom.Odd (a) d = Neg (b) e = Neg (c) y = Add (d, e)"
    )
    odd = '<domain: "custom", opset_import: ["" : 17]> Odd (t) => (u) { u = Tanh (t) }'
    found = cast(proto(body, imports=', "custom" : 1', functions=odd))
    assert found.operators.count("Cast") == 5  # x, a, b, c, y
    assert found.sqnr({"x": noise(2, 8)}) > 55


def test_an_operator_of_another_domain_reads_and_gives_fp32() -> None:
    body = "a = Relu (x) b = com.acme.Mystery (a) y = Neg (b)"
    model = proto(body, imports=', "com.acme" : 1')
    info = helper.make_tensor_value_info("b", TensorProto.FLOAT, [2, 8])
    model.graph.value_info.append(info)
    loaded = load(model.SerializeToString())
    result = CastPrecision().run(loaded, PassContext())
    kinds = {v.name: v.dtype.name for node in result.model.graph for v in node.outputs}
    assert kinds["a"] == "FLOAT16"
    assert kinds["b"] == "FLOAT"
    (node,) = [node for node in result.model.graph if node.op_type == "Mystery"]
    assert node.inputs[0] is not None
    assert node.inputs[0].dtype is not None
    assert node.inputs[0].dtype.name == "FLOAT"
    assert any("an operator of 'com.acme'" in note for note in result.notes)


def test_an_output_of_a_foreign_operator_of_unknown_type_is_a_barrier() -> None:
    body = "a = Relu (x) b = com.acme.Mystery (a) c = Neg (b) y = Cast <to = 1> (c)"
    loaded = load(proto(body, imports=', "com.acme" : 1').SerializeToString())
    result = CastPrecision().run(loaded, PassContext())
    assert [n.op_type for n in result.model.graph] == [
        "Cast",
        "Relu",
        "Cast",
        "Mystery",
        "Neg",
        "Cast",
    ]


def test_functions_stay_and_are_told_of() -> None:
    body = "a = Relu (x) b = own.Twice (a) y = Neg (b)"
    twice = '<domain: "own", opset_import: ["" : 17]> Twice (t) => (u) { u = Add (t, t) }'
    found = cast(proto(body, imports=', "own" : 1', functions=twice))
    assert found.left == {"b": "it is an operator of 'own'"}
    assert found.sqnr({"x": noise(2, 8)}) > 60


IF = """
    h = MatMul (x, w)
    y = If (c) <
        then_branch = one () => (float[2, 8] p) { q = Mul (h, w1) p = Relu (q) },
        else_branch = two () => (float[2, 8] r) { s = Sub (h, w2) r = Tanh (s) }
    >
"""
LOOP = """
    h = MatMul (x, w)
    n = Constant <value = int64 {3}> ()
    t = Constant <value = bool {1}> ()
    y = Loop (n, t, h) <body = each (int64 i, bool go, float[2, 8] state)
        => (bool on, float[2, 8] next) {
            on = Identity (go) m = MatMul (state, w) a = Add (m, h) next = Tanh (a)
        }>
"""
SCAN = """
    h = MatMul (x, w)
    zero = ReduceSum <keepdims = 0> (h, axes)
    last, y = Scan <num_scan_inputs = 1, body = each (float[8] sum, float[8] row)
        => (float[8] total, float[8] out) {
            k = Mul (row, b) total = Add (sum, k) out = Tanh (total)
        }> (zero, h)
"""


@pytest.mark.parametrize(
    ("body", "inner", "weights"),
    [
        (IF, {"q", "s"}, {"w1": noise(8), "w2": noise(8)}),
        (LOOP, {"m", "a"}, {}),
        (SCAN, {"k"}, {"b": noise(8), "axes": np.array([0])}),
    ],
    ids=["If", "Loop", "Scan"],
)
@pytest.mark.parametrize("calibrated", [True, False])
def test_subgraphs_are_low_inside(
    body: str, inner: set[str], weights: dict[str, np.ndarray], calibrated: bool
) -> None:
    inputs = "float[2, 8] x, bool c" if "If" in body else "float[2, 8] x"
    model = proto(body, inputs, w=noise(8, 8, scale=0.3), **weights)
    feed = {"x": noise(2, 8)}
    if "If" in body:
        feed["c"] = np.array(True)
    found = cast(model, None if "If" in body or not calibrated else feed)
    assert found.sqnr(feed) > 55
    (outer,) = [node for node in found.after.graph.node if node.op_type in ("If", "Loop", "Scan")]
    bodies = [a.g for a in outer.attribute if a.type == onnx.AttributeProto.GRAPH]
    names = {name for graph in bodies for node in graph.node for name in node.output}
    assert inner <= names
    casts = [n for graph in bodies for n in graph.node if n.op_type == "Cast"]
    assert casts
    assert all(
        o.type.tensor_type.elem_type != TensorProto.FLOAT16 for g in bodies for o in g.output
    )


def test_a_weight_that_both_types_need_is_stored_in_both() -> None:
    body = "h = MatMul (x, w) r = Relu (h) y = Gemm (r, w)"
    found = cast(proto(body, w=noise(8, 8)), keep=("y",))
    assert found.type_of("w") == "FLOAT"
    assert found.type_of("w_fp16") == "FLOAT16"
    assert len(found.after.graph.initializer) == 2


def test_initializers_that_are_outputs_or_defaults_stay() -> None:
    model = proto(NET, "float[2, 8] x, float[8] b", "float[2, 8] y, float[8, 8] w", **WEIGHTS)
    found = cast(model)
    assert found.type_of("w") == found.type_of("b") == "FLOAT"
    assert found.type_of("h") == "FLOAT16"
    assert found.sqnr({"x": noise(2, 8), "b": noise(8)}) > 60
    assert cast(model, io="low").type_of("w") == "FLOAT"


def test_constants_in_nodes() -> None:
    body = """
        c = Constant <value = float {0.1}> ()
        d = Constant <value_float = 0.2> ()
        a = Mul (x, c)
        y = Add (a, d)
    """
    found = cast(proto(body))
    assert found.type_of("c") == found.type_of("d") == "FLOAT16"
    both = cast(
        proto("c = Constant <value_float = 0.1> () a = Mul (x, c) y = Sub (a, c)"), keep=("Sub",)
    )
    assert both.operators.count("Constant") == 2


def test_casts_of_the_model() -> None:
    """A pair that rounds on purpose rounds still; one that undoes the pass's own is gone."""
    body = "a = Cast <to = 10> (x) b = Cast <to = 1> (a) y = Mul (b, tiny)"
    rounds = cast(proto(body, tiny=1e-9))
    assert rounds.operators == ["Cast", "Cast", "Mul"]
    assert "too small" in rounds.left["y"]
    assert rounds.left["y"].startswith("its constant '")
    body = "h = Relu (x) a = Cast <to = 10> (h) n = Neg (a) b = Cast <to = 1> (n) y = Tanh (b)"
    mixed = cast(proto(body))
    assert mixed.operators == ["Cast", "Relu", "Neg", "Tanh", "Cast"]
    assert mixed.result.rewrites["idle-cast"] == 2
    assert mixed.sqnr({"x": noise(2, 8)}) > 60


def test_operands_that_are_fp32_in_the_schema() -> None:
    body = 'h = Relu (x) y = Resize <mode = "linear"> (h, , scales)'
    scales = np.array([1, 1, 2, 2], np.float32)
    model = proto(body, "float[1, 2, 4, 4] x", "float[1, 2, 8, 8] y", scales=scales)
    found = cast(model)
    assert found.type_of("scales") == "FLOAT"
    assert found.type_of("h") == "FLOAT16"
    assert found.sqnr({"x": noise(1, 2, 4, 4)}) > 55


def test_non_max_suppression_reads_fp32() -> None:
    body = """
        boxes = Sigmoid (x)
        scores = Softmax (s)
        y = NonMaxSuppression (boxes, scores, most, iou, least)
    """
    inputs, outputs = "float[1, 6, 4] x, float[1, 1, 6] s", "int64[n, 3] y"
    model = proto(body, inputs, outputs, most=np.array([3]), iou=[0.5], least=[0.1])
    found = cast(model)
    assert found.type_of("iou") == "FLOAT"
    assert found.operators.count("Cast") == 4
    assert found.type_of("boxes") == "FLOAT16"


def test_coordinates_of_a_grid_stay_fp32() -> None:
    model = proto("h = Relu (x) y = GridSample (h, grid)",
                  "float[1, 2, 4, 4] x, float[1, 3, 3, 2] grid", "float[1, 2, 3, 3] y")  # fmt: skip
    found = cast(model)
    (node,) = [node for node in found.after.graph.node if node.op_type == "GridSample"]
    assert node.input[1] == "grid"


@pytest.mark.parametrize("opset", [11, 13, 17, 19, 22, onnx.defs.onnx_opset_version()])
@pytest.mark.parametrize("to", ["fp16", "bf16"])
def test_opsets_and_types(opset: int, to: str) -> None:
    body = """
        h = Conv (x, w)
        b = BatchNormalization (h, s, t, m, v)
        c = Clip (b, lo, hi)
        p = MaxPool <kernel_shape = [2, 2]> (c)
        g = GlobalAveragePool (p)
        y = Flatten (g)
    """
    stats = {name: np.abs(noise(4, seed=i)) + 0.5 for i, name in enumerate("stmv")}
    model = proto(body, "float[2, 3, 6, 6] x", "float[2, 4] y", opset=opset,
                  w=noise(4, 3, 3, 3), lo=0.0, hi=6.0, **stats)  # fmt: skip
    feed = {"x": noise(2, 3, 6, 6)}
    found = cast(model, feed, to=to)
    kind = {"fp16": "FLOAT16", "bf16": "BFLOAT16"}[to]
    assert found.type_of("w") == found.type_of("c") == kind
    assert found.result.details["sqnr_db"] > {"fp16": 55, "bf16": 37}[to]
    lifted = max(opset, 22) if to == "bf16" else opset
    assert found.after.opset_import[0].version == lifted


def test_bf16_has_the_range_of_fp32() -> None:
    found = cast(proto("a = Mul (x, big) y = Mul (a, small)", big=1e20, small=1e-20), to="bf16")
    assert found.left == {}
    assert found.type_of("a") == "BFLOAT16"


def test_a_target_that_does_not_compute_in_the_type_is_refused() -> None:
    with pytest.raises(GraphoptError, match="'sm75' does not compute in bf16"):
        cast(proto(NET, **WEIGHTS), target="sm75", to="bf16")
    assert cast(proto(NET, **WEIGHTS), target="sm75").result.modified


@pytest.mark.parametrize(
    ("target", "told"), [("onnxruntime-cpu", True), ("sm86", False), ("generic", False)]
)
def test_a_cpu_is_said_to_gain_no_time(target: str, told: bool) -> None:
    notes = cast(proto(NET, **WEIGHTS), target=target).result.notes
    assert any("does not compute in fp16: a smaller file" in note for note in notes) is told


def test_a_ratio_that_is_demanded_and_not_met_is_told() -> None:
    feed = {"x": noise(64, 8)}
    model = proto(NET, "float[n, 8] x", "float[n, 8] y", **WEIGHTS)
    found = cast(model, feed, min_sqnr=200.0, io="low")
    assert found.result.unmet is None or "not 200 dB" in found.result.unmet
    assert cast(model, feed, min_sqnr=30.0).result.unmet is None


def test_sequences_and_optionals_keep_their_types() -> None:
    body = "h = Relu (x) s = SequenceConstruct (h, h) y = ConcatFromSequence <axis = 0> (s)"
    found: Cast = cast(proto(body, outputs="float[4, 8] y"))
    assert found.left["s"] == "it deals with other values than tensors"
    assert found.type_of("h") == "FLOAT16"


def test_an_opset_of_another_age_is_refused() -> None:
    model = load(proto("y = Relu (x)", opset=6).SerializeToString())
    with pytest.raises(GraphoptError, match=r"opset 6, opset 7 .* set-opset\{version=7\} makes"):
        graphopt.optimize(model, "cast-precision", verify="off")


def test_bits_are_those_of_fp32() -> None:
    body = "h = Relu (x) y = BitCast <to = 6> (h)"
    found = cast(proto(body, outputs="int32[2, 8] y", opset=26, ir_version=13))
    assert found.left == {"y": "it reads the bits of fp32"}


def test_the_presets() -> None:
    model = load(proto(NET, **WEIGHTS).SerializeToString())
    result = graphopt.optimize(model, "fp16", verify="off")
    assert result.report.steps[-1].details["type"] == "fp16"


def test_bf16_is_verified_where_onnxruntime_has_no_kernels() -> None:
    model = load(proto(NET, **WEIGHTS).SerializeToString())
    report = graphopt.optimize(model, "cast-precision{to=bf16}").report
    (difference,) = report.verification.total
    assert 35 < difference.sqnr_db < 60
