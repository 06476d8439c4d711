"""Does the pruned model compute what the original computes without the channels that were cut?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphopt.data.feeds import Feed, Samples, batches, input_specs
from graphopt.data.random import RandomOptions, RandomSamples
from graphopt.errors import GraphoptError
from graphopt.ir import is_standard, nodes_of
from graphopt.runtime.session import Session
from graphopt.runtime.tap import tapped
from graphopt_passes.prune_channels.atoms import Labels
from graphopt_passes.prune_channels.doubles import in_double, run_in_double
from graphopt_passes.prune_channels.groups import Cut, Group
from graphopt_passes.prune_channels.labelling import Labelling
from graphopt_passes.prune_channels.masking import masked

Array: TypeAlias = "NDArray[Any]"

# Relative to the largest value of a tensor. The two models add in a different order, and the
# difference grows with depth; a wrong cut is off by the size of the values themselves. Where a net
# blows rounding up beyond that, the two are compared once more, in float64.
TOLERANCE = {
    ir.DataType.DOUBLE: 1e-10,
    ir.DataType.FLOAT: 1e-4,
    ir.DataType.FLOAT16: 5e-2,
    ir.DataType.BFLOAT16: 2e-1,
}
SAMPLES = 2
NO_EVALUATION = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
"""How onnx's reference evaluator says that it cannot run a model."""


@dataclass(frozen=True)
class Check:
    """The outcome: the largest difference, relative to the peak of the tensor it is in."""

    worst: float
    tensor: str
    tensors: int


def self_check(
    original: ir.Model,
    pruned: ir.Model,
    found: Labelling,
    cut: Cut,
    groups: list[Group],
    samples: Samples | None,
) -> Check | None:
    """Runs both on a few samples and compares every floating-point tensor at what stays.

    In ONNX Runtime; what differs there is run again in float64, by onnx's reference evaluator.

    Args:
        samples: noise is used if there are none.

    Returns:
        None if ONNX Runtime cannot run the original at all (an operator of its own, say).

    Raises:
        GraphoptError: on a difference beyond `TOLERANCE`: the pass itself is wrong.
    """
    specs = input_specs(original)
    if samples is None:
        samples = RandomSamples(RandomOptions(n=SAMPLES), specs)
    feed = next(batches(samples, specs, SAMPLES, SAMPLES))[0]
    names = _comparable(original, pruned, found)
    try:
        expected = _run(masked(original, found, cut), names, feed)
    except GraphoptError as error:
        if not _runs(original, feed):
            return None
        raise _inconsistent(f"the masked model does not run: {error.what}", groups) from None
    try:
        actual = _run(pruned, names, feed)
    except GraphoptError as error:
        raise _inconsistent(f"the pruned model does not run: {error.what}", groups) from None
    try:
        return compare(expected, actual, found, cut, groups)
    except GraphoptError as error:
        models = masked(in_double(original), found, cut, wide=True), pruned
        if not _widens(original):
            raise
        try:
            expected, actual = (run_in_double(model, names, feed) for model in models)
        except NO_EVALUATION:
            raise error from None
    return compare(expected, actual, found, cut, groups, ir.DataType.DOUBLE)


def _widens(model: ir.Model) -> bool:
    """Whether float64 means anything: rounding to integers happens at other numbers there."""
    return not any(is_standard(node, "QuantizeLinear") for node in nodes_of(model))


def compare(
    expected: Feed,
    actual: Feed,
    found: Labelling,
    cut: Cut,
    groups: list[Group],
    kind: ir.DataType | None = None,
) -> Check:
    """Compares tensors of the masked and of the pruned model, in the order of `expected`.

    Args:
        kind: what all of them were computed in; by default each in its own type.

    Raises:
        GraphoptError: at the first one that differs; it names the groups in that tensor.
    """
    check = Check(0.0, "", len(expected))
    for name, whole in expected.items():
        labels = found.labels[name]
        for axis, axis_labels in enumerate(labels):
            if cut.touches(axis_labels):
                whole = np.compress(cut.keep(axis_labels), whole, axis)
        if whole.shape != actual[name].shape:
            what = f"tensor '{name}' is {actual[name].shape}, not {whole.shape}"
            raise _inconsistent(what, _present(found, groups, labels))
        error = relative_difference(whole, actual[name])
        if not error <= TOLERANCE[kind or found.facts.types[name]]:
            what = f"tensor '{name}' is off by {error:.1e} of its peak"
            raise _inconsistent(what, _present(found, groups, labels))
        if error > check.worst or not check.tensor:
            check = Check(error, name, len(expected))
    return check


def relative_difference(expected: Array, actual: Array) -> float:
    """The largest absolute difference over the largest finite absolute value of `expected`.

    Infinities and NaNs have to be the same on both sides; else the difference is infinite.
    """
    a, b = expected.astype(np.float64), actual.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    peak = np.abs(a[finite]).max()
    return float(np.abs(a[finite] - b[finite]).max() / max(peak, 1e-30))


def _comparable(original: ir.Model, pruned: ir.Model, found: Labelling) -> list[str]:
    """The floating-point tensors that both models compute, in order."""
    kept = {value.name for node in pruned.graph for value in node.outputs}
    return [
        str(value.name)
        for node in original.graph
        for value in node.outputs
        if value.name in found.labels
        and value.name in kept
        and found.facts.types.get(str(value.name)) in TOLERANCE
    ]


def _run(model: ir.Model, names: list[str], feed: Feed) -> Feed:
    session = Session(tapped(model, names))
    return session.run({name: feed[name] for name in session.inputs})


def _runs(model: ir.Model, feed: Feed) -> bool:
    try:
        Session(model).run(feed)
    except GraphoptError:
        return False
    return True


def _present(found: Labelling, groups: list[Group], labels: list[Labels]) -> list[Group]:
    """The groups that occur in a tensor."""
    atoms = [atom for axis in labels for atom in np.unique(found.atoms.roots(axis)).tolist()]
    return [group for group in groups if np.isin(group.atoms, atoms).any()]


def _inconsistent(what: str, groups: list[Group]) -> GraphoptError:
    names = "; ".join(group.name for group in groups[:3]) or "none"
    return GraphoptError(
        f"internal inconsistency: {what} (groups: {names})",
        where="prune-channels",
        fix="nothing was changed; keep these layers with 'exclude', and report it with the model",
    )
