"""What the tests of rewriting passes share: apply one, check the contract, compare the numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from models import serialized

from graphopt.ir import load
from graphopt.pipeline.base import Pass, PassContext, PassResult
from graphopt.targets import get_target

Feed = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Outcome:
    """A model before and after a pass."""

    before: onnx.ModelProto
    after: onnx.ModelProto
    result: PassResult

    @property
    def operators(self) -> list[str]:
        """The operators of the main graph, in order."""
        return [node.op_type for node in self.after.graph.node]

    @property
    def all_operators(self) -> Counter[str]:
        """How often each operator occurs, subgraphs and functions included."""
        model = ir.from_proto(self.after)
        graphs = [model.graph, *model.functions.values()]
        return Counter(n.op_type for g in graphs for n in ir.traversal.RecursiveGraphIterator(g))

    @property
    def initializers(self) -> dict[str, np.ndarray]:
        return {t.name: onnx.numpy_helper.to_array(t) for t in self.after.graph.initializer}

    @property
    def notes(self) -> str:
        return "\n".join(self.result.notes)

    @property
    def declined(self) -> list[str]:
        """The reasons of what was declined."""
        return [near_miss.reason for near_miss in self.result.declined]

    @property
    def reasons(self) -> str:
        """The same, one a line."""
        return "\n".join(self.declined)

    @property
    def rewrites(self) -> dict[str, int]:
        return dict(self.result.rewrites)

    def agrees(self, feed: Feed | None = None, *, rtol: float = 0.0, atol: float = 0.0) -> bool:
        """Whether both models give the same on `feed` in ONNX Runtime; to the bit by default."""
        for expected, actual in zip(run(self.before, feed), run(self.after, feed), strict=True):
            if expected.dtype != actual.dtype or expected.shape != actual.shape:
                return False
            if rtol == atol == 0.0:
                if expected.tobytes() != actual.tobytes():
                    return False
            elif not np.allclose(actual, expected, rtol, atol):
                return False
        return True


def apply(
    step: Pass,
    source: str | onnx.ModelProto,
    edit: Callable[[onnx.ModelProto], Any] | None = None,
    *,
    target: str = "generic",
) -> Outcome:
    """Applies `step` to a model (ONNX text or a proto, changed by `edit` first), for `target`.

    Checks what must hold for every pass: the result is valid, the interface is the same, `modified`
    is truthful, a second run changes nothing, and the same input gives the same bytes.
    """
    before = onnx.parser.parse_model(source) if isinstance(source, str) else source
    if edit is not None:
        edit(before)
    onnx.checker.check_model(before)
    model = load(before.SerializeToString())
    untouched = serialized(model)

    def context() -> PassContext:
        return PassContext(target=get_target(target))

    result = step.run(model, context())
    content = serialized(model)
    assert result.model is model
    assert result.modified == bool(result.rewrites) == (content != untouched)
    after = onnx.load_model_from_string(content)
    onnx.checker.check_model(after)
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)

    again = step.run(model, context())
    assert not again.modified
    assert serialized(model) == content
    other = load(before.SerializeToString())
    assert step.run(other, context()).notes == result.notes
    assert serialized(other) == content
    return Outcome(before, after, result)


def run(model: onnx.ModelProto, feed: Feed | None = None) -> list[np.ndarray]:
    """The outputs in ONNX Runtime, unoptimized, on one thread."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(array) for array in session.run(None, dict(feed or {}))]


def numbers(*shape: int, scale: float = 1, dtype: Any = np.float32) -> np.ndarray:
    return (np.random.default_rng(7).standard_normal(shape) * scale).astype(dtype)


def ints(**lists: list[int]) -> str:
    """Constants of ONNX text."""
    return ", ".join(
        f"int64[{len(v)}] {k} = {{{', '.join(map(str, v))}}}" for k, v in lists.items()
    )


def with_shapes(model: onnx.ModelProto) -> None:
    """An edit that gives the outputs the shapes that they have."""
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for output, known in zip(model.graph.output, inferred.graph.output, strict=True):
        output.CopyFrom(known)


def held(name: str, array: np.ndarray) -> Callable[[onnx.ModelProto], None]:
    """An edit that adds an initializer, for types and sizes that ONNX text cannot write."""

    def edit(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))

    return edit


def both(*edits: Callable[[onnx.ModelProto], Any]) -> Callable[[onnx.ModelProto], None]:
    """All of `edits`, one after the other."""

    def edit(model: onnx.ModelProto) -> None:
        for one in edits:
            one(model)

    return edit
