"""Cuts channels of one model and checks that the cut is exact; `bench_prune.py` starts it.

    python prune_child.py '{"model": "a.onnx", "ratios": [0.3, 0.5], "result": "out.json"}'

The steps are those of prune-channels, without compensation, and the check is stricter than its own:
on every output, in float32 and in float64, and at other sizes where the model leaves any free.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from prune_report import FP32

from graphopt.data.arrays import ArraySamples
from graphopt.data.feeds import Feed, InputSpec, Samples, input_specs
from graphopt.errors import GraphoptError
from graphopt.ir import infer_shapes, load
from graphopt.ir.cost import measure
from graphopt.pipeline.base import PassContext
from graphopt.runtime.session import Session
from graphopt_passes.prune_channels import PruneChannels
from graphopt_passes.prune_channels.canonical import canonical
from graphopt_passes.prune_channels.doubles import in_double, run_in_double
from graphopt_passes.prune_channels.facts import choose_sizes, gather_facts
from graphopt_passes.prune_channels.groups import Cut, Group, choose, find_groups
from graphopt_passes.prune_channels.labelling import Labelling
from graphopt_passes.prune_channels.listing import kept_channels, one_sample_shapes
from graphopt_passes.prune_channels.masking import masked
from graphopt_passes.prune_channels.run import RULES, cut_channels
from graphopt_passes.prune_channels.scores import score
from graphopt_passes.prune_channels.selfcheck import NO_EVALUATION, relative_difference, self_check
from graphopt_passes.prune_channels.sweep import Sweep

SIDE, LENGTH = 64, 24
"""The size of a free height or width, and of any other free axis but the batch."""
OTHER_SIZES = ((2, 96, 17), (1, 128, 33))
"""Batch, side and length for the runs at other sizes."""


def draw(specs: tuple[InputSpec, ...], batch: int, side: int, length: int, seed: int = 0) -> Feed:
    """Normal noise, small integers, masks of ones; free axes have the sizes given."""
    random = np.random.default_rng(seed)
    feed: Feed = {}
    for spec in specs:
        shape = [
            dim if dim is not None else batch if axis == 0 else side if rank == 4 else length
            for rank in [len(spec.shape)]
            for axis, dim in enumerate(spec.shape)
        ]
        if "mask" in spec.name:
            feed[spec.name] = np.ones(shape, spec.dtype)
        elif spec.dtype.kind in "iu":
            feed[spec.name] = random.integers(0, 100, shape).astype(spec.dtype)
        else:
            feed[spec.name] = random.standard_normal(shape).astype(spec.dtype)
    return feed


def one_sample(specs: tuple[InputSpec, ...]) -> Samples:
    feed = draw(specs, 1, SIDE, LENGTH)
    fixed = next((spec.static_batch for spec in specs if spec.static_batch), 1)
    return ArraySamples("noise", {n: a[:1] if fixed > 1 else a for n, a in feed.items()}, specs)


def costs(model: ir.Model, samples: Samples) -> tuple[int, int]:
    """MACs for one sample of the usual size, and parameters."""
    cost = measure(model, one_sample_shapes(model, samples))
    return cost.macs, cost.parameters


def differences(
    original: ir.Model, pruned: ir.Model, found: Labelling, cut: Cut, specs: tuple[InputSpec, ...]
) -> dict[str, Any]:
    """How far outputs are from the masked model's, at the usual size and at others."""
    sides = _Sides(original, pruned, found, cut)
    free = any(dim is None for spec in specs for dim in spec.shape)
    others = [sides.at(draw(specs, *sizes, seed=2)) for sizes in OTHER_SIZES if free]
    return {**sides.difference(draw(specs, 2, SIDE, LENGTH, seed=1)), "other_sizes": others}


class _Sides:
    """The pruned model, and the original with the same channels silenced."""

    def __init__(self, original: ir.Model, pruned: ir.Model, found: Labelling, cut: Cut) -> None:
        self._original = original
        self._names = [str(value.name) for value in original.graph.outputs]
        self._sides = masked(original, found, cut), pruned
        self._wide = masked(in_double(original), found, cut, wide=True), pruned

    def at(self, feed: Feed) -> dict[str, Any] | str:
        """The differences at one size; or why even the original does not run there."""
        try:
            _fast(self._original, feed)
        except GraphoptError as error:
            return f"the original: {error.what[:120]}"
        return self.difference(feed)

    def difference(self, feed: Feed) -> dict[str, Any]:
        """The largest difference of an output, relative to its peak.

        `fp32`: in ONNX Runtime. `fp64`: in float64. `rounded`, where ONNX Runtime exceeds `FP32`:
        in float32 whatever the order of sums, for its kernels have another one for fewer channels.
        """
        report: dict[str, Any] = {"fp32": _worst(*(_fast(side, feed) for side in self._sides))}
        try:
            report["fp64"] = self._evaluated(feed, rounded=False)
            if report["fp32"] > FP32:
                report["rounded"] = self._evaluated(feed, rounded=True)
        except NO_EVALUATION as error:
            report["fp64_failure"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return report

    def _evaluated(self, feed: Feed, *, rounded: bool) -> float:
        return _worst(*(run_in_double(m, self._names, feed, rounded=rounded) for m in self._wide))


def _fast(model: ir.Model, feed: Feed) -> Feed:
    return Session(model, threads=1).run(feed)


def _worst(expected: Feed, actual: Feed) -> float:
    if any(actual[name].shape != array.shape for name, array in expected.items()):
        return float("inf")
    return max(relative_difference(array, actual[name]) for name, array in expected.items())


def bench(path: str, ratios: list[float]) -> dict[str, Any]:
    """Everything about one model."""
    model = load(path)
    specs = input_specs(model)
    samples = one_sample(specs)
    start = time.process_time()
    original = canonical(model)
    infer_shapes(original)
    prepared = time.process_time()
    facts = gather_facts(original, choose_sizes(original, samples))
    found = Sweep(original, facts).run(RULES)
    groups = find_groups(found)
    grouped = time.process_time()
    for node in original.graph:
        for value in node.outputs:
            if value.type is None and value.name in facts.types:
                value.type = ir.TensorType(facts.types[value.name])
    macs, parameters = costs(original, samples)
    return {
        "nodes": len(model.graph),
        "prepare_cpu_s": prepared - start,
        "group_cpu_s": grouped - prepared,
        "groups": len(groups),
        "channels": sum(len(group.atoms) for group in groups),
        "kept": kept_channels(original, found),
        "macs": macs,
        "parameters": parameters,
        "cuts": {
            str(ratio): _cut(original, found, groups, ratio, samples, specs) for ratio in ratios
        },
    }


def _cut(
    original: ir.Model,
    found: Labelling,
    groups: list[Group],
    ratio: float,
    samples: Samples,
    specs: tuple[InputSpec, ...],
) -> dict[str, Any]:
    scores = score(PruneChannels(score="l1"), original, found, groups, PassContext())
    cut = choose(found, groups, scores, ratio, 1)
    if not cut.gone.any():
        return {"failure": "nothing was cut"}
    pruned = cut_channels(original, found, cut)
    try:
        check = self_check(original, pruned, found, cut, groups, samples)
        inside = None if check is None else check.worst
        macs, parameters = costs(pruned, samples)
        return {
            "macs": macs,
            "parameters": parameters,
            "every_tensor": inside,
            **differences(original, pruned, found, cut, specs),
        }
    except GraphoptError as error:
        return {"failure": str(error)}


def main() -> None:
    request = json.loads(sys.argv[1])
    result = bench(request["model"], request["ratios"])
    Path(request["result"]).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
