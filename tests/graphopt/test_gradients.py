"""Each rule of reverse mode against finite differences, in float64, on the reference evaluator."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.ops.op_erf import Erf

from graphopt.gradients import RULES, Backward
from graphopt.runtime.session import Session
from graphopt.runtime.tap import tapped

STEP = 1e-5
TOLERANCE = 1e-6
"""Relative to the largest gradient: what central differences with that step leave."""

RANDOM = np.random.default_rng(0)


def away(*shape: int, low: float = 0.3, high: float = 2.0) -> np.ndarray:
    """Numbers of both signs that are not near zero."""
    return RANDOM.uniform(low, high, shape) * RANDOM.choice([-1.0, 1.0], shape)


def above(*shape: int) -> np.ndarray:
    return RANDOM.uniform(0.5, 2.0, shape)


def distinct(*shape: int) -> np.ndarray:
    """Numbers with gaps: no step makes another one the largest."""
    return RANDOM.permutation(np.prod(shape)).reshape(shape) / 7.0 - 1.0


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


Case = tuple[str, tuple[Any, ...], dict[str, Any]]

POINTWISE: list[Case] = [
    ("Abs", (away(3, 4),), {}),
    ("Add", (away(3, 4), away(4)), {}),
    ("Add", (away(2, 1, 4), away(3, 1)), {}),
    ("Cast", (away(3),), {"to": TensorProto.DOUBLE}),
    ("CastLike", (away(3), np.zeros(1)), {}),
    ("Celu", (away(3, 4),), {"alpha": 0.7}),
    ("Clip", (away(3, 4), np.array(-1.0), np.array(1.2)), {}),
    ("Clip", (away(3, 4), "", np.array(1.2)), {}),
    ("Cos", (away(3),), {}),
    ("Div", (away(3, 4), away(3, 1)), {}),
    ("Dropout", (away(3),), {}),
    ("Elu", (away(3, 4),), {"alpha": 0.5}),
    ("Erf", (away(3, 4),), {}),
    ("Exp", (away(3),), {}),
    ("Gelu", (np.append(away(11), 1e-4),), {}),
    ("Gelu", (away(3, 4),), {"approximate": "tanh"}),
    ("HardSigmoid", (away(3, 4, high=4.0),), {"alpha": 0.3, "beta": 0.4}),
    ("HardSwish", (away(3, 4, high=5.0),), {}),
    ("Identity", (away(3),), {}),
    ("LeakyRelu", (away(3, 4),), {"alpha": 0.2}),
    ("Log", (above(3),), {}),
    ("Max", (distinct(3, 4), distinct(4) + 0.05), {}),
    ("Mean", (away(3, 4), away(4), away(1)), {}),
    ("Min", (distinct(3, 4), distinct(4) + 0.05), {}),
    ("Mish", (away(3, 4),), {}),
    ("Mul", (away(3, 4), away(2, 1, 4)), {}),
    ("Neg", (away(3),), {}),
    ("PRelu", (away(2, 3, 4), away(3, 1)), {}),
    ("Pow", (above(3, 4), away(4)), {}),
    ("Pow", (above(3), np.array(0.0)), {}),
    ("Reciprocal", (away(3),), {}),
    ("Relu", (away(3, 4),), {}),
    ("Selu", (away(3, 4),), {}),
    ("Sigmoid", (away(3),), {}),
    ("Sin", (away(3),), {}),
    ("Softplus", (away(3),), {}),
    ("Softsign", (away(3),), {}),
    ("Sqrt", (above(3),), {}),
    ("Sub", (away(3, 4), away(4)), {}),
    ("Sum", (away(3, 4), away(4), away(3, 1)), {}),
    ("Tanh", (away(3),), {}),
    ("ThresholdedRelu", (distinct(3, 4) + 0.01,), {"alpha": 0.0}),
    ("Where", (np.array([True, False, True]), away(2, 3), away(3)), {}),
]

LAYOUT: list[Case] = [
    ("Concat", (away(2, 3), away(2, 1), away(2, 2)), {"axis": -1}),
    ("CumSum", (away(2, 4), np.array(1)), {}),
    ("CumSum", (away(2, 4), np.array(0)), {"exclusive": 1}),
    ("CumSum", (away(2, 4), np.array(1)), {"exclusive": 1, "reverse": 1}),
    ("DepthToSpace", (away(1, 8, 2, 3),), {"blocksize": 2}),
    ("DepthToSpace", (away(1, 8, 2, 3),), {"blocksize": 2, "mode": "CRD"}),
    ("Expand", (away(3, 1), ints(2, 1, 4)), {}),
    ("Flatten", (away(2, 3, 4),), {"axis": 2}),
    ("Gather", (away(4, 3), np.array([[0, -1], [0, 2]])), {}),
    ("Gather", (away(2, 4, 3), np.array(1)), {"axis": 1}),
    ("GatherElements", (away(3, 4), np.array([[0, -1], [2, 2], [1, 0]])), {"axis": 1}),
    ("GatherND", (away(3, 4, 2), np.array([[0, 1], [0, 1], [-1, 3]])), {}),
    ("Pad", (away(2, 3), ints(1, 0, 0, 2)), {}),
    ("Reshape", (away(2, 6), ints(3, -1)), {}),
    ("Slice", (away(5, 6), ints(1, -2), ints(4, -7), ints(0, 1), ints(2, -2)), {}),
    ("Slice", (away(5, 6), ints(-3), ints(100)), {}),
    ("SpaceToDepth", (away(1, 2, 4, 6),), {"blocksize": 2}),
    ("Squeeze", (away(2, 1, 3), ints(1)), {}),
    ("Tile", (away(2, 3), ints(2, 3)), {}),
    ("Transpose", (away(2, 3, 4),), {"perm": [2, 0, 1]}),
    ("Transpose", (away(2, 3),), {}),
    ("Trilu", (away(4, 4), np.array(1)), {}),
    ("Trilu", (away(4, 4),), {"upper": 0}),
    ("Unsqueeze", (away(2, 3), ints(0, 2)), {}),
]

LINEAR: list[Case] = [
    ("Einsum", (away(2, 3, 4), away(2, 5, 4)), {"equation": "bij,bkj->bik"}),
    ("Einsum", (away(2, 3, 4), away(3)), {"equation": "bij, i -> b"}),
    ("Gemm", (away(2, 3), away(3, 4), away(4)), {"alpha": 0.5, "beta": 2.0}),
    ("Gemm", (away(3, 2), away(4, 3), away(2, 1)), {"transA": 1, "transB": 1}),
    ("MatMul", (away(2, 3), away(3, 4)), {}),
    ("MatMul", (away(2, 5, 2, 3), away(3, 4)), {}),
    ("MatMul", (away(5, 2, 3), away(4, 1, 3, 2)), {}),
    ("MatMul", (away(3), away(3)), {}),
    ("MatMul", (away(3), away(2, 3, 4)), {}),
    ("MatMul", (away(2, 4, 3), away(3)), {}),
    ("Conv", (away(2, 3, 5, 6), away(4, 3, 3, 2), away(4)), {"pads": [1, 0, 2, 1]}),
    ("Conv", (away(2, 4, 7, 6), away(6, 2, 3, 3)), {"group": 2, "strides": [2, 3]}),
    ("Conv", (away(2, 3, 7, 6), away(6, 1, 2, 3), away(6)), {"group": 3, "dilations": [2, 1]}),
    ("Conv", (away(2, 3, 9), away(2, 3, 4)), {"auto_pad": "SAME_UPPER", "strides": [2]}),
    ("ConvTranspose", (away(2, 3, 3, 4), away(3, 2, 3, 2), away(2)), {"strides": [2, 1]}),
    ("ConvTranspose", (away(1, 3, 5), away(3, 2, 4)), {"pads": [1, 2], "strides": [3]}),
    ("AveragePool", (away(2, 3, 7, 6),), {"kernel_shape": [3, 2], "strides": [2, 2]}),
    ("AveragePool", (away(1, 2, 6),), {"kernel_shape": [3], "pads": [1, 1]}),
    (
        "AveragePool",
        (away(1, 2, 6, 6),),
        {"kernel_shape": [3, 3], "pads": [1, 0, 1, 1], "count_include_pad": 1, "strides": [2, 2]},
    ),
    ("MaxPool", (distinct(1, 2, 7, 6),), {"kernel_shape": [3, 2], "strides": [2, 1]}),
    ("MaxPool", (distinct(1, 2, 7),), {"kernel_shape": [3], "pads": [1, 1], "strides": [2]}),
    ("MaxPool", (distinct(1, 2, 8),), {"kernel_shape": [3], "strides": [2], "ceil_mode": 1}),
]

NORMS: list[Case] = [
    (
        "BatchNormalization",
        (away(2, 3, 4), away(3), away(3), np.zeros(3), np.ones(3)),
        {"epsilon": 0.1},
    ),
    ("GroupNormalization", (away(2, 6, 3), away(6), away(6)), {"num_groups": 2, "stash_type": 11}),
    ("InstanceNormalization", (away(2, 3, 4, 2), away(3), away(3)), {}),
    ("LayerNormalization", (away(2, 3, 4), away(4), away(4)), {"epsilon": 0.1}),
    ("LayerNormalization", (away(2, 3, 4), away(3, 4)), {"axis": 1}),
    ("RMSNormalization", (away(2, 3, 4), away(4)), {"epsilon": 0.1}),
    ("LpNormalization", (away(2, 4),), {"p": 2}),
    ("GlobalAveragePool", (away(2, 3, 4, 2),), {}),
    ("GlobalMaxPool", (distinct(2, 3, 4, 2),), {}),
    ("LogSoftmax", (away(2, 4),), {}),
    ("ReduceL1", (away(2, 3, 4), ints(1)), {}),
    ("ReduceL2", (away(2, 3, 4), ints(-1)), {"keepdims": 0}),
    ("ReduceLogSumExp", (away(2, 3, 4), ints(0, 2)), {}),
    ("ReduceMax", (distinct(2, 3, 4), ints(1, 2)), {"keepdims": 0}),
    ("ReduceMean", (away(2, 3, 4), ints(0, -1)), {"keepdims": 0}),
    ("ReduceMean", (away(2, 3),), {}),
    ("ReduceMin", (distinct(2, 3, 4), ints(1)), {}),
    ("ReduceSum", (away(2, 3, 4), ints(1)), {}),
    ("ReduceSum", (away(2, 3),), {"noop_with_empty_axes": 1}),
    ("ReduceSumSquare", (away(2, 3, 4), ints(1)), {}),
    ("Softmax", (away(2, 3, 4),), {"axis": 1}),
]

CASES = [*POINTWISE, *LAYOUT, *LINEAR, *NORMS]
OPSET = {"RMSNormalization": 23, "Mish": 22}
NOT_HERE = {"Split", "Swish"}
"""Several outputs, and an operator that the reference evaluator may lack: tests of their own."""


def single(op_type: str, arrays: Any, attributes: Any, opset: int, outputs: int = 1) -> ir.Model:
    """A model of one node; what it reads are the model's inputs `x0`, `x1`, ..."""
    names = ["" if isinstance(array, str) else f"x{i}" for i, array in enumerate(arrays)]
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op_type, names, results, "node", **attributes)
    values = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in zip(names, arrays, strict=True)
        if n
    ]
    empty = [helper.make_empty_tensor_value_info(name) for name in results]
    graph = helper.make_graph([node], "single", values, empty)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))


def evaluate(model: ir.Model, names: Any, feed: Any, runtime: bool) -> dict[str, np.ndarray]:
    """Values of `model` by name, from the reference evaluator or ONNX Runtime."""
    if runtime:
        session = Session(tapped(model, names))
        return session.run({name: a for name, a in feed.items() if name in session.inputs})
    evaluator = ReferenceEvaluator(ir.to_proto(tapped(model, names)))
    wanted = {name: a for name, a in feed.items() if name in evaluator.input_names}
    return dict(zip(evaluator.output_names, evaluator.run(None, wanted), strict=True))


def check_single(case: Case, opset: int, outputs: int = 1, runtime: bool = False) -> None:
    """All gradients of a node along three directions."""
    op_type, arrays, attributes = case
    model = single(op_type, arrays, attributes, opset, outputs)
    feed = {f"x{i}": array for i, array in enumerate(arrays) if not isinstance(array, str)}
    names = [f"y{i}" for i in range(outputs)]
    results = evaluate(model, names, feed, runtime)
    random = np.random.default_rng(1)
    seeds = {name: random.standard_normal(y.shape) for name, y in results.items()}
    edges = [(0, int(name[1:])) for name, array in feed.items() if array.dtype == np.float64]
    backward = Backward(model, edges, names)
    gradients = dict(backward.run(evaluate(model, backward.values, feed, runtime), seeds))
    assert set(gradients) == set(edges) - set(backward.blocked)
    assert (0, 0) in gradients or (0, 1) in gradients
    for (_, index), gradient in gradients.items():
        x = feed[f"x{index}"]
        assert gradient.shape == x.shape
        assert gradient.dtype == np.float64
        for _ in range(3):
            direction = random.standard_normal(x.shape)
            losses = []
            for step in (STEP, -STEP):
                moved = {**feed, f"x{index}": x + step * direction}
                results = evaluate(model, names, moved, runtime)
                losses.append(sum(float((seeds[n] * y).sum()) for n, y in results.items()))
            expected = (losses[0] - losses[1]) / (2 * STEP)
            found = float((gradient * direction).sum())
            assert abs(found - expected) <= TOLERANCE * max(1.0, np.abs(gradient).sum())


@pytest.fixture(autouse=True)
def _exact_erf(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference evaluator's own rounds to float32."""
    erf = np.vectorize(math.erf, otypes=[np.float64])
    monkeypatch.setattr(Erf, "_run", lambda self, x: (erf(x),))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_a_rule_is_the_derivative(case: Case) -> None:
    check_single(case, OPSET.get(case[0], 21 if case[0] == "GroupNormalization" else 20))


def test_every_rule_has_a_case() -> None:
    assert set(RULES) == {case[0] for case in CASES} | NOT_HERE


@pytest.mark.parametrize(
    ("case", "opset"),
    [
        (("Squeeze", (away(2, 1, 3),), {"axes": [1]}), 11),
        (("ReduceSum", (away(2, 3),), {"axes": [0]}), 11),
        (("ReduceMean", (away(2, 3),), {"axes": [-1], "keepdims": 0}), 13),
    ],
    ids=lambda part: part[0] if isinstance(part, tuple) else str(part),
)
def test_older_opsets(case: Case, opset: int) -> None:
    check_single(case, opset)


@pytest.mark.parametrize(
    ("case", "opset"),
    [
        (("Softmax", (away(2, 3, 4),), {}), 11),  # over axes 1 and 2 as one
        (("LogSoftmax", (away(2, 3, 4),), {"axis": 2}), 11),
        (("Pad", (away(3, 4), ints(-1, 2), np.array(0.5), ints(1)), {}), 19),
        (("LpNormalization", (away(2, 4),), {"p": 1, "axis": 0}), 20),
    ],
    ids=lambda part: part[0] if isinstance(part, tuple) else str(part),
)
def test_what_the_reference_evaluator_does_not_do(case: Case, opset: int) -> None:
    check_single(case, opset, runtime=True)


def test_all_outputs_of_a_split_count() -> None:
    check_single(("Split", (away(2, 6), ints(1, 3, 2)), {"axis": 1}), 18, outputs=3)
