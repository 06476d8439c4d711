"""What a value is for, and what it is made of: walks along the graph."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from graphopt.ir import constant_array, constant_tensor, is_standard
from graphopt.ir.facts import Facts
from graphopt_passes.cast_precision.low import LowType
from graphopt_passes.cast_precision.signature import Signatures
from graphopt_passes.cast_precision.tables import (
    GUARDED,
    INDEX_ARITHMETIC,
    MASKED,
    MEANS,
    MOVERS,
    STATISTICS,
    WEIGHTED,
)

_SMALL_INTEGERS = frozenset(
    {ir.DataType.BOOL, ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT4, ir.DataType.UINT4}
)
_LARGEST_STEP = 1 << 24
"""Constants beyond it are no integers to count with: they mask."""


def masks(node: ir.Node, index: int) -> bool:
    """Whether input `index` of `node` is added to, or put among, what only a Softmax reads.

    A number so low that its exponential is 0 may then be any other such number.
    """
    if not is_standard(node, *MASKED) or index not in MASKED[node.op_type]:
        return False
    return node.op_type == "Attention" or ends_in_softmax(node.outputs[0])


def ends_in_softmax(value: ir.Value) -> bool:
    """Whether `value` reaches a Softmax and nothing else, by way of movers and masks alone."""
    pending, seen = [value], {value}
    while pending:
        current = pending.pop()
        if current.is_graph_output() or not current.uses():
            return False
        for node, index in current.uses():
            if is_standard(node, "Softmax") or (is_standard(node, "Attention") and index == 3):
                continue
            masked = is_standard(node, "Add", "Where") and index in MASKED[node.op_type]
            if not masked and not is_standard(node, *MOVERS):
                return False
            fresh = [output for output in node.outputs if output not in seen]
            pending.extend(fresh)
            seen.update(fresh)
    return True


def guarded_by(node: ir.Node) -> list[ir.Node]:
    """The nodes behind `node` that must not read 0, such as a Div by it, and those on the way."""
    pending, path = list(node.outputs), [node]
    found: list[ir.Node] = []
    while pending:
        for user, index in pending.pop().uses():
            if user in path:
                continue
            if is_standard(user, *GUARDED) and index in GUARDED[user.op_type]:
                found += [*path[1:], user]
            if is_standard(user, *MOVERS, "Sqrt"):
                path.append(user)
                pending.extend(user.outputs)
    return list(dict.fromkeys(found))


def statistics(nodes: list[ir.Node], signatures: Signatures) -> Iterator[ir.Node]:
    """The nodes that make a variance, or a norm, and the divisor out of it."""
    inside: set[ir.Node] = set()
    for node in nodes:
        if is_standard(node, *MEANS):
            square = _square(node)
            if square is not None:
                inside.update({square, node})
                yield from (square, node)
            elif is_standard(node, "ReduceL2", "ReduceSumSquare"):
                inside.add(node)
                yield node
            continue
        if not is_standard(node, *STATISTICS):
            continue
        floats = [v for v in node.inputs if signatures.is_float(v) and constant_tensor(v) is None]
        from_inside = [v for v in floats if v is not None and v.producer() in inside]
        if not from_inside:
            continue
        if len(from_inside) == len(floats):
            inside.add(node)
            yield node
        elif node.op_type == "Sub":  # mean(x^2) - mean(x)^2
            others = [v for v in floats if v is not None and v not in from_inside]
            for one in (node, *_means(others)):
                inside.add(one)
                yield one


def _means(values: list[ir.Value]) -> Iterator[ir.Node]:
    """The nodes that make `values` out of means, and the means; nothing above them."""
    pending, seen = list(values), set(values)
    while pending:
        producer = pending.pop().producer()
        if producer is None or not is_standard(producer, *MEANS, *STATISTICS):
            continue
        yield producer
        if not is_standard(producer, *MEANS):
            fresh = [v for v in producer.inputs if v is not None and v not in seen]
            pending.extend(fresh)
            seen.update(fresh)


def _square(node: ir.Node) -> ir.Node | None:
    """The node whose squares the reduction `node` adds up."""
    source = node.inputs[0]
    producer = None if source is None else source.producer()
    if producer is None:
        return None
    if is_standard(producer, "Mul") and producer.inputs[0] is producer.inputs[1]:
        return producer
    if is_standard(producer, "Pow"):
        exponent = constant_array(producer.inputs[1])
        if exponent is not None and exponent.size == 1 and float(exponent.reshape(-1)[0]) == 2.0:
            return producer
    return None


def integers(
    signatures: Signatures, facts: Facts, low: LowType
) -> tuple[dict[ir.Node, None], set[ir.Value]]:
    """The nodes that compute from integers alone, and the values that are integers which the low
    type may not hold.

    An int8, a truth value, and a size that is known to be small are held.
    """
    alone: dict[ir.Node, None] = {}
    whole: set[ir.Value] = set()
    for node in signatures.nodes:
        if not any(signatures.is_float(value) for value in node.outputs):
            continue
        if _makes_integers(node, signatures, facts, low):
            alone[node] = None
            whole.update(node.outputs)
            continue
        floats = [v for v in node.inputs if v is not None and signatures.is_float(v)]
        varying = [v for v in floats if constant_tensor(v) is None]
        if not varying or any(v.producer() not in alone for v in varying):
            continue
        if is_standard(node, *WEIGHTED) and not _is_outer_product(node, facts):
            continue
        alone[node] = None
        if is_standard(node, *MOVERS, "Add", "Sub", "Mul", "Where", "Max", "Min", "Clip", "Cast"):
            constants = [v for v in floats if constant_tensor(v) is not None]
            if all(v in whole for v in varying) and all(map(_is_step, constants)):
                whole.update(node.outputs)
    return alone, whole


def _makes_integers(node: ir.Node, signatures: Signatures, facts: Facts, low: LowType) -> bool:
    if is_standard(node, "Range"):
        return True
    if not is_standard(node, "Cast") or node.inputs[0] is None:
        return False
    dtype = signatures.dtype(node.inputs[0])
    if dtype is None or dtype in _SMALL_INTEGERS or not dtype.is_integer():
        return False
    known = facts[node.inputs[0]].ints()
    return known is None or any(abs(number) > low.exact_integers for number in known)


def _is_step(value: ir.Value) -> bool:
    array = constant_array(value)
    return array is not None and bool(
        (array == array.round()).all() and (abs(array) <= _LARGEST_STEP).all()
    )


def _is_outer_product(node: ir.Node, facts: Facts) -> bool:
    """Whether a MatMul sums nothing, as the angles of rotary embeddings are made."""
    dims = facts.dims(node.inputs[0])
    return is_standard(node, "MatMul") and dims is not None and len(dims) > 0 and dims[-1] == 1


def index_arithmetic(signatures: Signatures) -> dict[ir.Node, None]:
    """The nodes that compute what is cast to integers, and nothing else."""
    found: dict[ir.Node, None] = {}
    for node in reversed(signatures.nodes):
        if is_standard(node, "Cast"):
            dtype = signatures.dtype(node.outputs[0])
            is_index = (
                dtype is not None and dtype.is_integer() and signatures.is_float(node.inputs[0])
            )
        else:
            is_index = is_standard(node, *INDEX_ARITHMETIC) and _only_for(node, found)
        if is_index and not is_standard(node, "Constant"):
            found[node] = None
    return found


def _only_for(node: ir.Node, found: dict[ir.Node, None]) -> bool:
    users = [user for value in node.outputs for user, _ in value.uses()]
    is_output = any(value.is_graph_output() for value in node.outputs)
    return bool(users) and not is_output and all(user in found for user in users)
