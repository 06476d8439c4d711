"""Running a model in whichever engine can: ONNX Runtime, or onnx's reference evaluator."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from graphopt.data.feeds import Feed
from graphopt.errors import GraphoptError
from graphopt.ir.external import embedded
from graphopt.runtime.session import Session, one_line


class Engine(Protocol):
    """Runs a model: from a feed to its outputs by name."""

    def run(self, feed: Feed) -> dict[str, np.ndarray[Any, Any]]: ...


class ReferenceEngine:
    """onnx's reference evaluator: slow, but it knows types that ONNX Runtime's CPU lacks."""

    def __init__(self, model: ir.Model) -> None:
        """Prepares `model`; raises GraphoptError if the evaluator does not know an operator."""
        try:
            self._evaluator = ReferenceEvaluator(ir.to_proto(embedded(model)))
        except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
            raise GraphoptError(
                f"the reference evaluator refuses the model: {one_line(error)}"
            ) from None
        self.outputs: tuple[str, ...] = tuple(self._evaluator.output_names)

    def run(self, feed: Feed) -> dict[str, np.ndarray[Any, Any]]:
        """The outputs by name; raises GraphoptError if an operator fails on these inputs."""
        try:
            return dict(zip(self.outputs, self._evaluator.run(None, dict(feed)), strict=True))
        except (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError) as error:
            raise GraphoptError(f"the model fails on this input: {one_line(error)}") from None


def open_engine(
    model: ir.Model, *, like: Engine | None = None, probe: Feed | None = None
) -> Engine:
    """ONNX Runtime if it can run `model`, otherwise the reference evaluator.

    Args:
        like: use the same kind of engine as this one, since numbers of two engines differ.
        probe: an input that the engine must be able to run; its Python interface lacks some types.

    Raises:
        GraphoptError: if neither can.
    """
    if isinstance(like, ReferenceEngine):
        return ReferenceEngine(model)
    try:
        session = Session(model)
        if probe is not None:
            session.run(probe)
        return session
    except GraphoptError as refused:
        if like is not None:
            raise
        try:
            engine = ReferenceEngine(model)
            if probe is not None:
                engine.run(probe)
            return engine
        except GraphoptError as error:
            raise GraphoptError(f"{refused}; {error}") from None
