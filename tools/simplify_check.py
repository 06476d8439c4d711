"""Is a simplified model still the same model? `bench_simplify.py` starts it in its own process.

    python simplify_check.py ORIGINAL SIMPLIFIED RESULT.json LATENCY_SECONDS

Writes what it found as JSON: validity, inputs and outputs, differences on random inputs in ONNX
Runtime with its optimizations off, and the ratio of latencies. `RESULT.json` is written after each
part, so that a part which crashes the process leaves the earlier ones.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from graphopt.data.feeds import Feed, InputSpec, input_specs
from graphopt.data.random import RandomOptions, RandomSamples
from graphopt.errors import GraphoptError
from graphopt.ir import load
from graphopt.runtime.difference import Comparer
from graphopt.runtime.reference import open_engine
from graphopt.runtime.session import Session, one_line

STANDARD_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
SIZES = ((2, 64), (1, 96), (3, 32), (1, 1), (1, 320))
"""What symbolic dimensions are tried as: the first axis, the others. The first two that run count.
"""
SAMPLES = 2  # of each size
MIN_PAIRS, MAX_PAIRS = 5, 200


def count_nodes(model: onnx.ModelProto) -> dict[str, int]:
    """Nodes of the graph, its subgraphs and the functions that are called, each function once.

    `foreign` are those of them from a domain that is neither ONNX's nor a function's.
    """
    bodies = {(f.domain, f.name, _overload(f)): f.node for f in model.functions}
    pending: list[Any] = [model.graph.node]
    called: set[tuple[str, str, str]] = set()
    total = foreign = 0
    while pending:
        for node in pending.pop():
            total += 1
            key = (node.domain, node.op_type, _overload(node))
            if key in bodies and key not in called:
                called.add(key)
                pending.append(bodies[key])
            foreign += key not in bodies and node.domain not in STANDARD_DOMAINS
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    pending.append(attribute.g.node)
                pending.extend(graph.node for graph in attribute.graphs)
    return {"nodes": total, "foreign": foreign}


def _overload(thing: Any) -> str:
    return str(getattr(thing, "overload", ""))  # since IR 10


def interface_changes(before: onnx.ModelProto, after: onnx.ModelProto) -> list[str]:
    """In what the inputs and outputs differ: `inputs: names`, `outputs: shapes` and so on."""
    changes = []
    for kind in ("input", "output"):
        old, new = getattr(before.graph, kind), getattr(after.graph, kind)
        if [v.name for v in old] != [v.name for v in new]:
            changes.append(f"{kind}s: names")
            continue
        pairs = list(zip(old, new, strict=True))
        if any(_type(a) != _type(b) for a, b in pairs):
            changes.append(f"{kind}s: types")
        elif any(_shape(a) != _shape(b) for a, b in pairs):
            changes.append(f"{kind}s: shapes")
    return changes


def _type(value: onnx.ValueInfoProto) -> tuple[str | None, int]:
    return value.type.WhichOneof("value"), value.type.tensor_type.elem_type


def _shape(value: onnx.ValueInfoProto) -> list[int | str] | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [d.dim_value if d.HasField("dim_value") else d.dim_param for d in tensor.shape.dim]


def invalid(path: Path) -> str | None:
    """What onnx's checker, with shape inference, has against the model; None if nothing."""
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return one_line(error)
    return None


def feeds_of(model: ir.Model) -> tuple[list[Feed], Any]:
    """Random inputs that `model` runs on, two sizes where dimensions are free, and its engine.

    Raises:
        GraphoptError: if it runs on none.
    """
    specs = tuple(
        replace(spec, shape=tuple(None if dim is None or dim < 0 else dim for dim in spec.shape))
        for spec in input_specs(model)  # some exporters write -1 for a free dimension
    )
    sizes = SIZES if any(None in spec.shape for spec in specs) else ((1, 1),)
    found: list[Feed] = []
    engine, refusal, good = None, GraphoptError("no inputs"), 0
    for first, other in sizes:
        fixed = tuple(_fixed(spec, first, other) for spec in specs)
        feeds = list(RandomSamples(RandomOptions(n=SAMPLES), fixed))
        try:
            engine = engine or open_engine(model, probe=feeds[0])
            for feed in feeds:
                engine.run(feed)
        except GraphoptError as error:
            refusal = error
            continue
        found += feeds
        good += 1
        if good == 2:
            break
    if not found:
        raise refusal
    return found, engine


def _fixed(spec: InputSpec, first: int, other: int) -> InputSpec:
    shape = tuple(
        (other if axis else first) if dim is None else dim for axis, dim in enumerate(spec.shape)
    )
    return replace(spec, shape=shape, batched=False)


def difference(engine: Any, feeds: list[Feed], after: ir.Model) -> dict[str, Any]:
    """The largest difference of any output: absolute, and relative to that output's peak."""
    other, comparer = open_engine(after, like=engine), Comparer()
    for feed in feeds:
        comparer.add(engine.run(feed), other.run(feed))
    rows = comparer.result()
    return {
        "max_abs": max((row.max_abs for row in rows), default=0.0),
        "max_rel": max((row.max_rel for row in rows), default=0.0),
        "within_tolerance": all(row.within() for row in rows),
    }


def own_noise(engine: Any, feeds: list[Feed], original: ir.Model) -> float:
    """How far ONNX Runtime's own optimizer moves the original, relative to an output's peak.

    Sums in another order differ by more than float32's precision where a net's outputs are the
    small ends of large numbers; a tool cannot be blamed for what the runtime does as well.
    """
    other, comparer = Session(original, optimize=True), Comparer()
    for feed in feeds:
        comparer.add(engine.run(feed), other.run(feed))
    return max((row.max_rel for row in comparer.result()), default=0.0)


def latency_ratio(before: ir.Model, after: ir.Model, feed: Feed, seconds: float, on: bool) -> float:
    """The median of the ratios of paired runs, after / before, on one thread.

    The order within a pair alternates.
    """
    sessions = [Session(model, optimize=on, threads=1) for model in (before, after)]
    for session in sessions:
        session.run(feed)
    ratios: list[float] = []
    end = time.perf_counter() + seconds
    while len(ratios) < MIN_PAIRS or (len(ratios) < MAX_PAIRS and time.perf_counter() < end):
        times = [0.0, 0.0]
        for index in (0, 1) if len(ratios) % 2 else (1, 0):
            begun = time.perf_counter()
            sessions[index].run(feed)
            times[index] = time.perf_counter() - begun
        ratios.append(times[1] / times[0])
    return statistics.median(ratios)


def check(before: Path, after: Path, seconds: float) -> Iterator[dict[str, Any]]:
    """What is found, part by part."""
    old, new = (onnx.load(path, load_external_data=False) for path in (before, after))
    yield {**count_nodes(new), "io_changed": interface_changes(old, new)}
    del old, new
    yield {"invalid": invalid(after)}
    original = load(before)
    try:
        feeds, engine = feeds_of(original)
    except GraphoptError as error:
        yield {"unchecked": f"the original does not run: {error}"}
        return
    try:
        result = load(after)
        yield difference(engine, feeds, result)
        if isinstance(engine, Session):
            yield {"noise_rel": own_noise(engine, feeds, original)}
    except GraphoptError as error:
        yield {"run_error": str(error)}
        return
    if seconds > 0 and isinstance(engine, Session):
        del engine
        yield {"latency_off": latency_ratio(original, result, feeds[0], seconds, on=False)}
        yield {"latency_on": latency_ratio(original, result, feeds[0], seconds, on=True)}


def main() -> None:
    before, after, result, seconds = sys.argv[1:]
    found: dict[str, Any] = {}
    for part in check(Path(before), Path(after), float(seconds)):
        for key, value in part.items():
            has_no_json = isinstance(value, float) and not math.isfinite(value)
            found[key] = str(value) if has_no_json else value  # float() reads it back
        Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
