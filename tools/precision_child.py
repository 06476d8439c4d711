"""Casts one model to low types and measures what that costs; `bench_precision.py` starts it.

python precision_child.py '{"model": "a.onnx", "limit_s": 60, "result": "out.json"}'
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from known_samples import samples_of
from low_tensors import exact_weights, numbers_of, summed_in_single
from onnx.reference import ReferenceEvaluator
from processes import cpu_limit, cpu_seconds

import graphopt
from graphopt.data.feeds import Feed, Samples, batches, input_specs
from graphopt.ir import default_opset, measure
from graphopt.runtime.difference import Comparer
from graphopt.runtime.session import Session
from graphopt_passes.cast_precision import CastPrecision
from graphopt_passes.cast_precision.low import LOW_TYPES
from graphopt_passes.cast_precision.simulate import Fidelity
from graphopt_passes.cast_precision.telling import general_reason
from graphopt_passes.prune_channels.doubles import OPERATORS
from graphopt_passes.prune_channels.listing import one_sample_shapes
from graphopt_passes.prune_channels.selfcheck import NO_EVALUATION

Row = dict[str, Any]
SEEN = CastPrecision.samples
"""So many samples the pass looks at; the outputs are compared on them."""
UNSEEN = 64
"""And on so many others, where there are any."""
EVALUATED = "fp16"
"""The type that numpy has, and with it the reference evaluator."""


def bench(path: Path, limit_s: float) -> Row:
    """Everything about one model, under the name of each low type.

    Args:
        limit_s: CPU seconds for the reference evaluator.
    """
    original = graphopt.load(path)
    samples = samples_of(path, original)
    exact = graphopt.optimize(original, "lossless", verify="off").model
    measured = _Measured(original, exact, samples)
    row: Row = {"samples": samples.description, "seen": len(measured.seen), "types": {}}
    for to in LOW_TYPES:
        row["types"][to] = measured.row(to, limit_s)
    return row


class _Measured:
    """A model, as it is and simplified, and the samples that it is measured on."""

    def __init__(self, original: ir.Model, exact: ir.Model, samples: Samples) -> None:
        self._original, self._exact, self._samples = original, exact, samples
        specs = input_specs(original)
        self.seen, self._unseen = (
            [feed for feed, _ in batches(islice(samples, *span), specs, 1)]
            for span in ((0, SEEN), (SEEN, SEEN + UNSEEN))
        )
        self._session = Session(original)
        self._expected = [self._session.run(feed) for feed in self.seen]

    def row(self, to: str, limit_s: float) -> Row:
        started = cpu_seconds()
        done = self._cast(to)
        seconds, details = cpu_seconds() - started, done.report.steps[0].details
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "low.onnx"
            graphopt.save(done.model, file)
            cast, proto, invalid = graphopt.load(file), onnx.load(file), why_invalid(file)
        graphopt.infer_shapes(cast)
        reasons = Counter(general_reason(row["reason"]) for row in details["float"])
        row = {
            "nodes": len(cast.graph),
            "kept": len(details["float"]),
            "reasons": dict(reasons.most_common()),
            "fp32_macs": fp32_share(cast, self._samples),
            "goal_db": details["goal_db"],
            "fit": details["fit"],
            "cpu_s": seconds,
            "invalid": invalid,
            "sorted": is_sorted(proto.graph),
        }
        for what, (model, feeds) in self._asked(cast, to, fitted=bool(details["fit"])).items():
            row |= _told(what, self._fidelity(model, feeds)) if feeds else {}
        return {**row, **(self._evaluated(proto, limit_s) if to == EVALUATED else {})}

    def _cast(self, to: str, options: str = "") -> graphopt.Optimized:
        pipeline = f"cast-precision{{to={to}{options}}}"
        return graphopt.optimize(self._exact, pipeline, calibration=self._samples, verify="off")

    def _raised(self, opset: int) -> ir.Model:
        """The simplified model at an opset that has casts to the type: for bf16 that is 13."""
        if opset == default_opset(self._exact):
            return self._exact
        return graphopt.optimize(self._exact, f"set-opset{{version={opset}}}", verify="off").model

    def _asked(
        self, cast: ir.Model, to: str, *, fitted: bool
    ) -> dict[str, tuple[ir.Model, list[Feed]]]:
        """What is run in ONNX Runtime on which samples, by the name of what it shows."""
        low = LOW_TYPES[to]
        rounded = numbers_of(cast, low)
        asked = {
            "rounded": (rounded, self.seen),
            "unseen": (rounded, self._unseen),
            "data": (exact_weights(self._raised(default_opset(cast)), cast, low), self.seen),
        }
        if to == EVALUATED:
            asked["weights"] = cast, self.seen
        if fitted:
            model = self._cast(to, ",fit_weights=false").model
            graphopt.infer_shapes(model)
            nearest = numbers_of(model, low)
            asked |= {"nearest": (nearest, self.seen), "nearest_unseen": (nearest, self._unseen)}
        return asked

    def _fidelity(self, model: ir.Model, feeds: list[Feed]) -> Fidelity:
        """How far outputs of `model` are from the original's, in ONNX Runtime."""
        session, comparer = Session(model), Comparer()
        for feed in feeds:
            comparer.add(self._session.run(feed), session.run(feed))
        return Fidelity.of(comparer.result())

    def _evaluated(self, proto: onnx.ModelProto, limit_s: float) -> Row:
        """The same in onnx's reference evaluator, which computes in the low type; or why not.

        `evaluator_samples` tells how many of the samples it came to within the limit.
        """
        found: list[dict[str, Any]] = []
        try:
            with cpu_limit(limit_s), np.errstate(all="ignore"):
                evaluator = ReferenceEvaluator(proto, new_ops=[*OPERATORS, *summed_in_single()])
                for feed in self.seen:
                    results = evaluator.run(None, dict(feed))
                    found.append(dict(zip(evaluator.output_names, results, strict=True)))
        except TimeoutError:
            if not found:
                return {"evaluator": f"one sample takes over {limit_s:g} s"}
        except NO_EVALUATION as error:
            return {"evaluator": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
        comparer = Comparer()
        for expected, got in zip(self._expected, found, strict=False):
            comparer.add(expected, got)
        fidelity = Fidelity.of(comparer.result())
        return {"evaluator_samples": len(found), **_told("evaluator", fidelity)}


def fp32_share(model: ir.Model, samples: Samples) -> float:
    """The part of the multiply-accumulates, for one sample, that is computed in fp32."""
    costs = measure(model, one_sample_shapes(model, samples)).per_node
    macs = {node: cost.macs or 0 for node, cost in zip(model.graph, costs, strict=True)}
    wide = sum(n for node, n in macs.items() if node.outputs[0].dtype == ir.DataType.FLOAT)
    return wide / max(sum(macs.values()), 1)


def _told(what: str, fidelity: Fidelity) -> Row:
    found = fidelity.sqnr_db
    return {
        f"{what}_db": found if math.isfinite(found) else str(found),
        f"{what}_finite": fidelity.finite,
    }


def why_invalid(file: Path) -> str | None:
    """What onnx.checker has against a file, shapes and types included; None if it takes it."""
    try:
        onnx.checker.check_model(str(file), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return str(error).splitlines()[0][:200]
    return None


def is_sorted(graph: onnx.GraphProto, outer: frozenset[str] = frozenset()) -> bool:
    """Whether each node, in bodies too, reads only what is there before it."""
    known = {*outer, *(v.name for v in graph.input), *(t.name for t in graph.initializer)}
    known |= {sparse.values.name for sparse in graph.sparse_initializer}
    for node in graph.node:
        if not known.issuperset(filter(None, node.input)):
            return False
        if not all(is_sorted(body, frozenset(known)) for body in _bodies(node)):
            return False
        known.update(node.output)
    return known.issuperset(v.name for v in graph.output)


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    found = bench(Path(request["model"]), request["limit_s"])
    Path(request["result"]).write_text(json.dumps(found))
