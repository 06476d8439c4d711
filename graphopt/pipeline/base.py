"""What a pass is.

Light to import: a pass is found, listed and parsed without onnx or numpy. Hence a pass's module
holds its options, and imports its implementation inside `run`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum, IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from graphopt.errors import GraphoptError
from graphopt.options import format_options
from graphopt.progress import Progress, Quiet
from graphopt.targets import Target, get_target

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphopt.data.evaluation import Evaluation
    from graphopt.data.feeds import Samples
    from graphopt.ir.facts import Facts


class Stage(IntEnum):
    """Where in a pipeline a pass belongs. A pipeline goes forward through the stages."""

    ANY = 0
    """It may stand anywhere."""
    SIMPLIFY = 1
    FUSE = 2
    COMPRESS = 3
    QUANTIZE = 4
    FINALIZE = 5


class Effect(Enum):
    """What a pass may do to the numbers."""

    EXACT = "exact"
    """Nothing but the reassociation of floating-point sums; the verifier holds it to that."""
    LOSSY = "lossy"
    """It changes the function; the verifier measures by how much."""


class Need(Enum):
    """What a pass cannot do without, checked before anything runs."""

    CALIBRATION = "calibration data"
    RANGES = "calibration data, or a file of ranges"
    EVALUATION = "an evaluation"


class Invariant(Protocol):
    """A property of a model that a pass requires or ensures."""

    def breach(self, model: ir.Model) -> str | None:
        """Why `model` does not have the property, or None if it has."""
        ...


@dataclass(frozen=True)
class MinOpset:
    """The model imports at least this version of the default ONNX domain."""

    version: int

    def breach(self, model: ir.Model) -> str | None:
        from graphopt.ir import default_opset

        opset = default_opset(model)
        if opset >= self.version:
            return None
        return (
            f"the model has opset {opset}, opset {self.version} or newer is needed, which "
            f"set-opset{{version={self.version}}} makes of it"
        )


@dataclass(frozen=True)
class NoOperator:
    """No node of the main graph has this operator of the default domain."""

    op_type: str

    def breach(self, model: ir.Model) -> str | None:
        from graphopt.ir import is_standard

        for node in model.graph:
            if is_standard(node, self.op_type):
                return f"node '{node.name}' is a {self.op_type}"
        return None


class Analyses:
    """What passes have found out about a model, for the passes after them.

    The runner tells it what a pass has changed. A context that is used without the runner serves
    one model that does not change between passes.
    """

    def __init__(self) -> None:
        self._model: ir.Model | None = None
        self._facts: Facts | None = None
        self._nodes: list[ir.Node] | None = None
        self._operators: frozenset[str] | None = None

    def facts(self, model: ir.Model) -> Facts:
        """What is certain about the values of `model`; see `graphopt.ir.facts`."""
        self._turn_to(model)
        if self._facts is None:
            from graphopt.ir.facts import Facts

            self._facts = Facts(model)
        return self._facts

    def nodes(self, model: ir.Model) -> list[ir.Node]:
        """All nodes of `model`, as `graphopt.ir.nodes_of` gives them."""
        self._turn_to(model)
        if self._nodes is None:
            from graphopt.ir import nodes_of

            self._nodes = list(nodes_of(model))
        return self._nodes

    def operators(self, model: ir.Model) -> frozenset[str]:
        """The operators of the nodes of `model`, of whatever domain."""
        nodes = self.nodes(model)
        if self._operators is None:
            self._operators = frozenset([node.op_type for node in nodes])
        return self._operators

    def changed(self, *, keeps_facts: bool) -> None:
        """A pass has changed the model; whether all facts still hold."""
        self._nodes = self._operators = None
        if not keeps_facts:
            self._facts = None

    def _turn_to(self, model: ir.Model) -> None:
        if self._model is not model:
            self._model, self._facts, self._nodes, self._operators = model, None, None, None


@dataclass(frozen=True)
class PassContext:
    """What a pass may use besides the model."""

    target: Target = field(default_factory=lambda: get_target("generic"))
    calibration: Samples | None = None
    """Representative samples, already checked against the model's inputs."""
    evaluation: Evaluation | None = None
    progress: Progress = field(default_factory=Quiet)
    jobs: int = 1
    """In how many processes to calibrate."""
    backend: str | None = None
    """Where else to calibrate: `dask=ADDRESS`, see `graphopt.calibration.collect`."""
    ranges: Path | None = None
    """The file of the ranges of tensors: read if there is one, otherwise written."""
    analyses: Analyses = field(default_factory=Analyses, compare=False)


@dataclass(frozen=True)
class Declined:
    """A rewrite that did not happen although its pattern is there."""

    rewrite: str
    node: str
    """Its name, or that of its first output."""
    op_type: str
    reason: str
    """Half a sentence that follows "kept: "."""

    @staticmethod
    def of(rewrite: str, node: ir.Node, reason: str) -> Declined:
        from graphopt.ir import label

        return Declined(rewrite, label(node), node.op_type, reason)


@dataclass(frozen=True)
class PassResult:
    """What a pass did."""

    model: ir.Model
    modified: bool
    rewrites: Mapping[str, int] = field(default_factory=dict)
    """How often each kind of rewrite was applied, by its name."""
    notes: tuple[str, ...] = ()
    """Sentences for the user."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """More, for the report: anything that JSON can hold."""
    declined: tuple[Declined, ...] = ()
    """The near misses: what a reader of the graph would expect to be rewritten, and is not."""
    unmet: str | None = None
    """What the user demanded of the pass and `model`, the best that it found, does not meet: a
    sentence without a full stop. The job is then done, but not as asked (exit status 1)."""


@dataclass(frozen=True)
class Pass(ABC):
    """A step of a pipeline. Subclasses are frozen dataclasses; their fields are the options.

    `run` may change the model that it is given and nothing else; it holds no state between runs
    and gives the same bytes for the same input.
    """

    name: ClassVar[str]
    """In kebab-case; equals the entry point."""
    stage: ClassVar[Stage]
    effect: ClassVar[Effect]
    needs: ClassVar[tuple[Need, ...]] = ()
    requires: ClassVar[tuple[Invariant, ...]] = ()
    ensures: ClassVar[tuple[Invariant, ...]] = ()
    keeps_facts: ClassVar[bool] = False
    """Whether each value that is still there afterwards means the same as before: then what is
    known about its type and shape (`PassContext.analyses`) is kept for the next pass."""

    @abstractmethod
    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """Applies the pass to `model`."""

    def required(self) -> tuple[Need, ...]:
        """The needs of this instance, which may depend on its options."""
        return self.needs

    def __str__(self) -> str:
        """The pass as pipeline text: the options that differ from their defaults."""
        changed = {f.name: v for f in fields(self) if (v := getattr(self, f.name)) != f.default}
        return self.name + format_options(changed)


def check_invariants(
    step: Pass, model: ir.Model, invariants: tuple[Invariant, ...], when: str
) -> None:
    """Raises GraphoptError if `model` breaches one of `invariants` of `step`."""
    for invariant in invariants:
        breach = invariant.breach(model)
        if breach is not None:
            raise GraphoptError(f"{breach} ({when} '{step.name}')", where=f"pass '{step.name}'")
