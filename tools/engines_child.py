"""Prepares and builds the variants of one model; `bench_engines.py` starts it.

    python engines_child.py '{"model": "a.onnx", "targets": ["sm86"], "result": "out.json"}'

What there is so far is written after each variant, so that a crash or a hang costs only the rest.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
from processes import cpu_seconds
from random_samples import random_samples, sample_shape

import graphopt
from graphopt.data.feeds import Samples, input_specs
from graphopt.data.samples import open_samples
from graphopt.emit.tensorrt import DEFAULT_BATCH, ShapeRange
from graphopt.errors import GraphoptError
from graphopt.ir import walk
from graphopt.targets import get_target

Row = dict[str, Any]
ORIGINAL, SIMPLIFIED, INT8 = "original", "simplified", "int8+fp16"
PIPELINES = {
    "fp16": None,
    INT8: "quantize",
    "pruned": "prune-channels{ratio=0.3},quantize",
}
"""What makes the other variants of the simplified one, before `cast-precision`."""
LAYERS = frozenset({"Conv", "Gemm", "MatMul"})
VARIANTS = (ORIGINAL, SIMPLIFIED, *PIPELINES)
REPORTED = "sm75"
"""Not among the GPUs that must take the model; INT8 is built for it all the same."""
DATA = "calib.npz"
"""Real samples, where they lie beside the model."""


@dataclass(frozen=True)
class Prepared:
    """A variant as a file.

    Attributes:
        promised: the nodes that `quantize` says will compute in int8.
        figures: what is to be told of it.
    """

    path: Path
    promised: tuple[str, ...]
    figures: Row


def what_matters(target: str) -> Hashable:
    """All that the pipelines here read of a target: where it is equal, so is what they make."""
    known = get_target(target)
    precisions = known.precisions & {"fp32", "fp16", "int8"}
    alignment = tuple(sorted(known.alignment.items()))
    weights = known.weight_formats & {"int8"}
    return known.family, precisions, weights, alignment, known.opsets, known.unwanted_operators


def shape_ranges(model: ir.Model, name: str) -> dict[str, ShapeRange]:
    """A free batch is 1, 8 and 32; other free axes are those of a sample."""
    ranges = {}
    for spec in input_specs(model):
        if None in spec.shape:
            shape = sample_shape(spec, name)
            batches = DEFAULT_BATCH if spec.batched and spec.shape[0] is None else shape[:1] * 3
            least, best, most = ((batch, *shape[1:]) for batch in batches)
            ranges[spec.name] = (least, best, most)
    return ranges


def bench(model: Path, targets: Sequence[str], result: Path) -> None:
    """Writes the row of `model` to `result`."""
    loaded = graphopt.load(model)
    data = model.with_name(DATA)
    samples: Samples = (
        open_samples(str(data), input_specs(loaded))
        if data.exists()
        else random_samples(loaded, model.stem)
    )
    shapes = shape_ranges(loaded, model.stem)
    row: Row = {"shapes": shapes, "variants": {}}
    alike: dict[Hashable, list[str]] = {}
    for target in targets:
        alike.setdefault(what_matters(target), []).append(target)
    with tempfile.TemporaryDirectory() as folder:
        for group in alike.values():
            maker = Maker(model, samples, group[0], Path(folder))
            for variant in VARIANTS:
                asked = [*group, REPORTED] if variant == INT8 and REPORTED not in group else group
                told = row["variants"].setdefault(variant, {"engines": {}})
                told |= maker.told(variant)
                for target in asked:
                    told["engines"].setdefault(target, maker.engine(variant, target, shapes))
                whole = result.with_suffix(".new")
                whole.write_text(json.dumps(row))
                whole.replace(result)  # the time limit may end us at any moment


class Maker:
    """Makes the variants of one model for one kind of target."""

    def __init__(self, model: Path, samples: Samples, target: str, folder: Path) -> None:
        self._model, self._samples, self._target, self._folder = model, samples, target, folder
        self._simplified: ir.Model | None = None
        self._made: dict[str, Prepared | str] = {}

    def told(self, variant: str) -> Row:
        """What is to be said of a variant; nothing if it cannot be made."""
        made = self._prepared(variant)
        return {} if isinstance(made, str) else made.figures

    def engine(self, variant: str, target: str, shapes: dict[str, ShapeRange]) -> Row:
        """The engine of a variant, or under "failure" why there is none."""
        made = self._prepared(variant)
        if isinstance(made, str):
            return {"failure": f"cannot be made: {made}"}
        before = _cpu_of_children()
        try:
            report = graphopt.build_engine(
                made.path, self._folder / "engine", target=get_target(target), shapes=shapes
            )
        except GraphoptError as error:
            return {"failure": _line(error, self._folder)}
        found = {node.name: node.precision for node in report.compute_nodes or ()}
        return {
            "cpu_s": _cpu_of_children() - before,
            "builder": report.builder,
            "engine_bytes": report.engine_bytes,
            "note": report.kernel_table_note,
            "kernels": report.kernels_by_precision,
            "nodes": report.compute_nodes_by_precision,
            "fp32_nodes": [name for name, kind in found.items() if kind == "fp32"],
            "weight_bytes": report.weight_bytes,
            "weight_bytes_by_type": report.weight_bytes_by_type,
            "padding_bytes": report.padding_bytes,
            "written_bytes": report.activation_bytes,
            "not_int8": {
                name: found.get(name) or "unknown"
                for name in made.promised
                if found.get(name) != "int8"
            },
        }

    def _prepared(self, variant: str) -> Prepared | str:
        if variant not in self._made:
            try:
                self._made[variant] = self._make(variant)
            except GraphoptError as error:
                self._made[variant] = _line(error, self._folder)
        return self._made[variant]

    def _make(self, variant: str) -> Prepared:
        if variant == ORIGINAL:
            return Prepared(self._model, (), {})
        started = cpu_seconds()
        if self._simplified is None:
            self._simplified, _ = self._optimize(graphopt.load(self._model), "lossless")
        model, promised = self._simplified, tuple[str, ...]()
        pipeline = PIPELINES.get(variant)
        if pipeline is not None:
            model, promised = self._optimize(model, pipeline)
            model, _ = self._optimize(model, tables_in_int8(model))
        if variant in PIPELINES:
            model, _ = self._optimize(model, "cast-precision")
        path = self._folder / f"{VARIANTS.index(variant)}.onnx"
        graphopt.save(model, path)
        return Prepared(
            path,
            promised,
            {
                "prepare_cpu_s": cpu_seconds() - started,
                "promised": len(promised),
                "float_weights": float_weights(model),
                "int8_weights": int8_weights(model),
            },
        )

    def _optimize(self, model: ir.Model, pipeline: str) -> tuple[ir.Model, tuple[str, ...]]:
        done = graphopt.optimize(
            model, pipeline, calibration=self._samples, target=self._target, verify="off"
        )
        rows = (row for step in done.report.steps for row in step.details.get("quantized", ()))
        return done.model, tuple(row["node"] for row in rows)


def tables_in_int8(model: ir.Model) -> str:
    """The pipeline that stores the tables that Gather reads in int8, and no layer's weights."""
    layers = ",".join(sorted({node.op_type for node in walk(model.graph)} & LAYERS))
    exclude = f",exclude=[{layers}]" if layers else ""
    return f"quantize-weights{{format=int8,embeddings=true{exclude}}}"


def float_weights(model: ir.Model) -> dict[str, int]:
    """The bytes of the model's float weights, by the operator that reads them."""
    found: Counter[str] = Counter()
    for value in model.graph.initializers.values():
        stored = value.const_value
        if stored is not None and stored.dtype.is_floating_point():
            users = sorted({user.op_type for user, _ in value.uses()})
            found[users[0] if users else "none"] += stored.nbytes
    return dict(found.most_common())


def int8_weights(model: ir.Model) -> int:
    """The bytes of the model's int8 weights."""
    return sum(
        stored.nbytes
        for value in model.graph.initializers.values()
        if (stored := value.const_value) is not None and stored.dtype == ir.DataType.INT8
    )


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _line(error: GraphoptError, folder: Path) -> str:
    """An error in one line, without the name of a temporary folder."""
    return " ".join(str(error).replace(f"{folder}/", "").split())


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    bench(Path(request["model"]), request["targets"], Path(request["result"]))
