"""What a run did, as data. Every view (text, JSON) is made from this."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from graphopt.ir import Cost
from graphopt.pipeline.base import Declined
from graphopt.runtime.difference import Difference


@dataclass(frozen=True)
class ModelFigures:
    """The size and speed of a model. None is "not measured"."""

    nodes: int
    parameters: int
    macs: int
    """For one sample; for one run of a model whose batch size is fixed."""
    macs_unknown: tuple[str, ...]
    """Nodes whose multiply-accumulates are missing from `macs`, for want of shapes."""
    weight_bytes: int
    file_bytes: int | None = None
    """With external data."""
    latency_ms: float | None = None
    """The median of one run in ONNX Runtime on this machine; see `Report.latency_batch`."""
    score: float | None = None
    """In the unit of the metric; for top1, per cent."""


@dataclass(frozen=True)
class StepRow:
    """One run of one pass."""

    step: str
    """As pipeline text."""
    effect: str
    modified: bool
    seconds: float
    nodes_before: int
    nodes_after: int
    rewrites: dict[str, int]
    notes: tuple[str, ...]
    declined: tuple[Declined, ...] = field(repr=False)
    """Near misses: rewrites whose pattern is there but that were not applied, and why."""
    details: dict[str, Any] = field(repr=False)
    unmet: str | None = None
    """What was demanded of the pass and its result does not meet."""


@dataclass(frozen=True)
class CheckRow:
    """One comparison of the model after `passes` with the model before them."""

    passes: tuple[str, ...]
    effect: str
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Verification:
    """What was compared, on which inputs, and what came out."""

    mode: str
    inputs: str
    """Where the inputs came from, and how many."""
    checks: tuple[CheckRow, ...] = ()
    total: tuple[Difference, ...] = ()
    """The result against the original, per output."""
    skipped: str | None = None
    """Why nothing was compared, if so."""


@dataclass(frozen=True)
class Score:
    """An evaluation before and after."""

    source: str
    metric: str
    before: float
    after: float
    max_drop: float | None

    @property
    def drop(self) -> float:
        """In the unit of the metric; negative if the score rose."""
        return self.before - self.after

    @property
    def met(self) -> bool:
        """Whether the drop is within what the user allowed."""
        rounding = 1e-9 * max(1.0, abs(self.before))
        return self.max_drop is None or self.drop <= self.max_drop + rounding


@dataclass(frozen=True)
class Report:
    """What `graphopt optimize` did to a model."""

    source: str
    source_sha256: str
    pipeline: str
    target: str
    versions: str
    calibration: str | None
    before: ModelFigures
    after: ModelFigures
    steps: tuple[StepRow, ...]
    verification: Verification
    evaluation: Score | None = None
    latency_batch: int | None = None
    warnings: tuple[str, ...] = ()
    output: str | None = None

    @property
    def unmet(self) -> tuple[str, ...]:
        """What passes were told to reach and did not, by pass."""
        return tuple(f"{row.step}: {row.unmet}" for row in self.steps if row.unmet is not None)


@dataclass(frozen=True)
class Comparison:
    """The outputs of `second` against those of `first`, on the same samples."""

    first: str
    second: str
    data: str
    samples: int
    differences: tuple[Difference, ...]
    tolerance: float | None

    @property
    def met(self) -> bool:
        """Whether every output is within the tolerance; true if none is stated."""
        return self.tolerance is None or all(d.within(self.tolerance) for d in self.differences)


@dataclass(frozen=True)
class LayerSensitivity:
    """What it costs to quantize one layer alone."""

    node: str
    op_type: str
    macs: int | None
    """For one sample; None if its shapes are not known."""
    sqnr_db: float
    """The signal-to-noise ratio of the worst output against the float model."""
    precision: str
    """What the pass computes it in: a format, or `float`."""


@dataclass(frozen=True)
class Sensitivity:
    """What `graphopt sensitivity` shows."""

    source: str
    pipeline: str
    target: str
    calibration: str
    data: str
    """The samples that were measured on; `samples` is their number."""
    samples: int
    everywhere_db: float
    """The signal-to-noise ratio with all layers quantized."""
    layers: tuple[LayerSensitivity, ...]
    """In the order of the graph."""
    notes: tuple[str, ...] = ()
    unmet: str | None = None
    """What was demanded of the pass and its result does not meet."""

    @property
    def by_sensitivity(self) -> tuple[LayerSensitivity, ...]:
        """The layers, those that cost the most first."""
        return tuple(sorted(self.layers, key=lambda layer: layer.sqnr_db))


@dataclass(frozen=True)
class Port:
    """An input or output of a model."""

    name: str
    type: str
    shape: tuple[int | str | None, ...] | None
    """A number, a symbol's name, or None if unknown, for each dimension."""


@dataclass(frozen=True)
class Inspection:
    """What `graphopt inspect` shows."""

    path: str
    file_bytes: int
    ir_version: int
    opsets: dict[str, int]
    producer: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    operators: dict[str, int]
    """How many nodes of each operator there are, in all graphs, most frequent first."""
    cost: Cost
    record: dict[str, str]
    """What graphopt wrote into the model when it made it."""
