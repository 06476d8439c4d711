"""The instrument that proves what passes did to the numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import onnx_ir as ir

from graphopt.data.feeds import Feed
from graphopt.errors import GraphoptError, ToleranceError, did_you_mean
from graphopt.ir import is_standard
from graphopt.pipeline.base import Effect, Pass, PassResult
from graphopt.runtime.difference import Difference, compare
from graphopt.runtime.reference import Engine, open_engine

Mode: TypeAlias = Literal["each", "final", "off"]
Outputs: TypeAlias = "list[dict[str, Any]]"


SIGMOID_ROUNDING = 4 * 2.0**-23
"""How far two float32 Sigmoids may be apart whatever their values are: they are computed as parts
of 1, so one that saturates near 0 is nothing but rounding, and its peak no measure for that."""
_MOVES = ("Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


@dataclass(frozen=True)
class Check:
    """One comparison: the outputs before `passes` as the reference, those after as the result."""

    passes: tuple[str, ...]
    effect: Effect
    differences: tuple[Difference, ...]


class Verify:
    """Runs the model before and after passes on the same inputs and compares the outputs.

    Mode `each` compares after every pass that changed something; `final` compares the start and
    the end of each unbroken run of EXACT passes, and the original with the final result. A run of
    EXACT passes that breaches its tolerance is a ToleranceError that names them.

    Raises:
        GraphoptError: if there is no such mode.
    """

    def __init__(
        self,
        feeds: list[Feed],
        mode: Mode = "final",
        tolerance: float | None = None,
        skipped: str | None = None,
    ) -> None:
        if mode not in get_args(Mode):
            raise GraphoptError(
                f"there is no verification '{mode}'", fix=did_you_mean(str(mode), [*get_args(Mode)])
            )
        self.checks: list[Check] = []
        self.total: tuple[Difference, ...] = ()
        """The final result against the original."""
        self.skipped = skipped
        """Why nothing can be compared, if so."""
        self.uniform: tuple[str, ...] = ()
        """The outputs of floats that are, but for rounding, one number on all inputs."""
        self._sigmoids: frozenset[str] = frozenset()
        self._feeds = feeds
        self._mode = mode
        self._tolerance = tolerance
        self._engine: Engine | None = None
        self._original: Outputs = []
        self._reference: Outputs = []
        self._pending: list[Pass] = []

    def start(self, model: ir.Model) -> None:
        if self.skipped is not None:
            return
        try:
            self._engine = open_engine(model, probe=self._feeds[0])
            self._original = [self._engine.run(feed) for feed in self._feeds]
            again = [self._engine.run(self._feeds[0])]
        except GraphoptError as error:
            self._engine = None
            fed = ", ".join(f"{name} {list(a.shape)}" for name, a in self._feeds[0].items())
            self.skipped = f"the original does not run on {fed}: {error}"
            return
        if not all(difference.exact for difference in compare(self._original[:1], again)):
            self._engine = None
            self.skipped = "the original gives other outputs each time it runs"
        self._reference = self._original
        self._sigmoids = frozenset(v.name or "" for v in model.graph.outputs if _is_sigmoid(v))
        self.uniform = _uniform(self._original, self._sigmoids)

    def before(self, step: Pass, model: ir.Model) -> None:
        if step.effect is Effect.LOSSY:
            self._settle(model)

    def after(self, step: Pass, result: PassResult) -> None:
        if not result.modified or self._engine is None:
            return
        self._pending.append(step)
        if self._mode == "each" or step.effect is Effect.LOSSY:
            self._settle(result.model)

    def end(self, model: ir.Model) -> None:
        self._settle(model)
        if self._engine is not None:
            self.total = compare(self._original, self._reference)

    def _settle(self, model: ir.Model) -> None:
        """Compares `model` with the last one compared, if passes have changed it since."""
        if not self._pending or self._engine is None:
            return
        names = tuple(step.name for step in self._pending)
        effect = self._pending[0].effect
        self._pending = []
        try:
            outputs = self._run(model, effect)
            differences = compare(self._reference, outputs)
        except GraphoptError as error:
            raise GraphoptError(f"broke the model: {error}", where=_named(names)) from None
        self.checks.append(Check(names, effect, differences))
        if effect is Effect.EXACT:
            self._enforce(names, differences)
        self._reference = outputs

    def _run(self, model: ir.Model, effect: Effect) -> Outputs:
        """The outputs of `model`, by the engine that ran it before.

        A LOSSY pass may make it one that only the other engine runs, such as one of bfloat16.
        """
        try:
            engine = open_engine(model, like=self._engine)
        except GraphoptError:
            if effect is not Effect.LOSSY:
                raise
            engine = self._engine = open_engine(model, probe=self._feeds[0])
        return [engine.run(feed) for feed in self._feeds]

    def _enforce(self, names: tuple[str, ...], differences: tuple[Difference, ...]) -> None:
        for difference in differences:
            if not difference.within(self._tolerance) and not self._is_rounding(difference):
                raise ToleranceError(
                    f"changed output '{difference.output}' by {difference.max_rel:.2g} of its "
                    "peak, more than rounding explains",
                    where=_named(names),
                    fix=("" if len(set(names)) == 1 else "--verify each shows which one; ")
                    + "samples unlike those of training (mean, std, scale?) can magnify rounding: "
                    "if these are right, --tolerance X allows more",
                )

    def _is_rounding(self, difference: Difference) -> bool:
        return (
            self._tolerance is None
            and difference.output in self._sigmoids
            and difference.dtype == "float32"
            and difference.max_abs <= SIGMOID_ROUNDING
        )


def _is_sigmoid(value: ir.Value) -> bool:
    node = value.producer()
    while node is not None and is_standard(node, *_MOVES) and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and is_standard(node, "Sigmoid")


def _uniform(outputs: Outputs, sigmoids: frozenset[str]) -> tuple[str, ...]:
    """The names of the outputs of floats that hold more than one number, but all the same."""
    found = []
    for name in outputs[0] if outputs else ():
        values = [np.asarray(each[name]) for each in outputs]
        if any(value.dtype.kind != "f" or not value.size for value in values):
            continue
        spread = max(float(v.max()) for v in values) - min(float(v.min()) for v in values)
        rounding = SIGMOID_ROUNDING if name in sigmoids else 0.0
        if sum(value.size for value in values) > 1 and spread <= rounding:
            found.append(name)
    return tuple(found)


def _named(names: tuple[str, ...]) -> str:
    unique = list(dict.fromkeys(names))
    return f"pass{'es' if len(unique) > 1 else ''} {', '.join(unique)}"
