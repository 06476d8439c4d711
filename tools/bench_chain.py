"""CPU time of the lossless passes on long chains: it has to grow linearly with their length.

    python tools/bench_chain.py [NODES ...]

Each chain goes through the preset `lossless`; loading is not counted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import onnx
from onnx import TensorProto, helper

from graphopt.ir import count_nodes, load
from graphopt.pipeline.base import PassContext
from graphopt.pipeline.runner import run
from graphopt.pipeline.text import parse

Chain = Callable[[int], onnx.ModelProto]


def _model(nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("v0", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def live(length: int) -> onnx.ModelProto:
    """Nothing to do."""
    nodes = [_step(("Relu", "Neg")[i % 2], i) for i in range(length)]
    return _model([*nodes, helper.make_node("Relu", [f"v{length}"], ["y"])], [])


def identities(length: int) -> onnx.ModelProto:
    """Every other node is an Identity."""
    nodes = [_step(("Identity", "Neg")[i % 2], i) for i in range(length)]
    return _model([*nodes, helper.make_node("Relu", [f"v{length}"], ["y"])], [])


def constants(length: int) -> onnx.ModelProto:
    """Float arithmetic on constants, all of it to be evaluated."""
    weight = helper.make_tensor("c0", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])
    nodes = [helper.make_node("Neg", [f"c{i}"], [f"c{i + 1}"], name=f"n{i}") for i in range(length)]
    return _model([*nodes, helper.make_node("Add", ["v0", f"c{length}"], ["y"])], [weight])


def dead(length: int) -> onnx.ModelProto:
    """Nobody uses the end."""
    nodes = [_step("Neg", i) for i in range(length)]
    return _model([*nodes, helper.make_node("Relu", ["v0"], ["y"])], [])


def shapes(length: int) -> onnx.ModelProto:
    """Shape, Gather, Unsqueeze, Concat, Reshape, over and over, with a dynamic batch."""
    first = helper.make_tensor("first", TensorProto.INT64, [], [0])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [0])
    rest = helper.make_tensor("rest", TensorProto.INT64, [1], [3])
    nodes = []
    for i in range(length // 5):
        nodes += [
            helper.make_node("Shape", [f"v{i}"], [f"s{i}"]),
            helper.make_node("Gather", [f"s{i}", "first"], [f"g{i}"]),
            helper.make_node("Unsqueeze", [f"g{i}", "axes"], [f"u{i}"]),
            helper.make_node("Concat", [f"u{i}", "rest"], [f"t{i}"], axis=0),
            helper.make_node("Reshape", [f"v{i}", f"t{i}"], [f"v{i + 1}"]),
        ]
    last = helper.make_node("Relu", [f"v{length // 5}"], ["y"])
    return _model([*nodes, last], [first, axes, rest])


def factors(length: int) -> onnx.ModelProto:
    """Scales and shifts by constants, all of which become one of each."""
    weights, nodes = [], []
    for i in range(length):
        weights.append(helper.make_tensor(f"k{i}", TensorProto.FLOAT, [3], [1.01, 0.99, 1.0]))
        operator = ("Mul", "Add")[i % 2]
        nodes.append(helper.make_node(operator, [f"v{i}", f"k{i}"], [f"v{i + 1}"], name=f"n{i}"))
    return _model([*nodes, helper.make_node("Relu", [f"v{length}"], ["y"])], weights)


def transposes(length: int) -> onnx.ModelProto:
    """Pairs of Transposes with an activation between."""
    nodes = []
    for i in range(length):
        turn = {"perm": [1, 0]} if i % 2 == 0 else {}
        operator = "Transpose" if turn else "Sigmoid"
        nodes.append(helper.make_node(operator, [f"v{i}"], [f"v{i + 1}"], name=f"n{i}", **turn))
    last = {"perm": [1, 0]} if (length + 1) // 2 % 2 else {}
    return _model(
        [*nodes, helper.make_node("Transpose" if last else "Relu", [f"v{length}"], ["y"], **last)],
        [],
    )


def reshapes(length: int) -> onnx.ModelProto:
    """To three dimensions and back, over and over."""
    two = helper.make_tensor("two", TensorProto.INT64, [2], [-1, 3])
    three = helper.make_tensor("three", TensorProto.INT64, [3], [-1, 1, 3])
    nodes = [
        helper.make_node("Reshape", [f"v{i}", ("three", "two")[i % 2]], [f"v{i + 1}"])
        for i in range(length)
    ]
    return _model([*nodes, helper.make_node("Reshape", [f"v{length}", "two"], ["y"])], [two, three])


def _step(op_type: str, i: int) -> onnx.NodeProto:
    return helper.make_node(op_type, [f"v{i}"], [f"v{i + 1}"], name=f"n{i}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lengths", type=int, nargs="*", default=[5_000, 20_000])
    lengths = parser.parse_args().lengths
    chains: list[Chain] = [
        *(live, identities, constants, dead, shapes),
        *(factors, transposes, reshapes),
    ]
    print("chain        nodes  lossless s  nodes left")
    for chain in chains:
        for length in lengths:
            model = load(chain(length))
            start = time.process_time()
            result = run(parse("lossless"), model, PassContext()).model
            spent = time.process_time() - start
            print(f"{chain.__name__:12}{length:6}{spent:12.2f}{count_nodes(result):12}")


if __name__ == "__main__":
    main()
