"""What a decision costs: the model computed in fp32 with every low tensor rounded.

Runtimes on a CPU compute a graph of fp16 in fp32 and round little of it, so they say nothing of
it. Sums stay in fp32, as they do inside the kernels of a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import onnx_ir as ir

from graphopt.data.feeds import Feed, batches, input_specs
from graphopt.ir.query import is_standard, walk
from graphopt.pipeline.base import PassContext
from graphopt.runtime.difference import Comparer, Difference
from graphopt.runtime.session import Session
from graphopt.runtime.tap import tapped
from graphopt_passes.cast_precision.decide import Decision, fill
from graphopt_passes.cast_precision.refit import Fit, refit
from graphopt_passes.cast_precision.rewrite import Writer

ROUNDS = 16
"""How many times nodes are given back, at most."""
PART = 0.02
"""The part of the low nodes that is given back at a time; each time as much more, if a ratio is
demanded."""
LEAST_GAIN_DB = 3.0
"""What rounds must gain where nobody demands a ratio, if they do not reach what is wished for: the
rounding of every layer adds up, and no few nodes are to blame then."""
PATIENCE = 3
"""After so many rounds without that gain, what they left is low again."""
TAPPED_SAMPLES = 4
GROUP_BYTES = 1 << 28
"""The bytes of the tensors that are looked at in one run, at most."""


@dataclass(frozen=True)
class Fidelity:
    """How far the outputs are from those of the model in fp32.

    Attributes:
        sqnr_db: of the worst output of floats; infinite if there is none.
        finite: whether no output is NaN or infinite where that of the model is not.
    """

    sqnr_db: float
    finite: bool

    @property
    def rounded(self) -> float | None:
        """`sqnr_db` for a report; None if it is infinite."""
        return round(self.sqnr_db, 2) if math.isfinite(self.sqnr_db) else None

    @staticmethod
    def of(differences: Iterable[Difference]) -> Fidelity:
        floats = [d for d in differences if "float" in d.dtype]
        return Fidelity(
            min((d.sqnr_db for d in floats), default=math.inf),
            all(math.isfinite(d.max_abs) for d in floats),
        )


@dataclass
class Simulator:
    """Computes a model as it is, and as a decision would have it, on the same samples."""

    model: ir.Model
    context: PassContext
    limit: int
    fit: Fit = field(default_factory=Fit)
    _expected: list[dict[str, np.ndarray]] = field(default_factory=list)

    def reach(
        self, decision: Decision, goal: float, *, refit_below: float, demanded: bool
    ) -> tuple[Decision, Fidelity]:
        """What keeps `goal` dB, if that can be: with better weights, and with nodes left in fp32.

        Args:
            refit_below: under so many dB other weights are looked for, which cost nothing to run.
            demanded: whether to leave nodes though that gains little.
        """
        decision, fidelity = self.repair(decision, -math.inf)  # first, nothing may overflow
        if fidelity.finite and fidelity.sqnr_db < refit_below:
            self._refit(decision)
            if self.fit.weights:
                fidelity = self._with_fit(decision, fidelity)
        return self.repair(decision, goal, fidelity, demanded=demanded)

    def _with_fit(self, decision: Decision, nearest: Fidelity) -> Fidelity:
        """With the weights that were found; they are dropped where they do not beat `nearest`."""
        fitted = self.fidelity(decision)
        if fitted.finite and fitted.sqnr_db > nearest.sqnr_db:
            return fitted
        reason = "others are better on held-out samples, but not on all of them"
        self.fit = Fit(reason=reason, not_finite=self.fit.not_finite)
        return nearest

    def _refit(self, decision: Decision) -> None:
        simulated, twins = self._simulated(decision)
        samples = self.context.calibration
        assert samples is not None
        self.fit = refit(
            self.model,
            simulated,
            twins,
            decision,
            samples,
            self.limit,
            self._judge,
            self.context.progress,
        )

    def _judge(self, simulated: ir.Model, feeds: Iterator[Feed]) -> float:
        sessions = Session(self.model), Session(simulated)
        comparer = Comparer()
        for feed in feeds:
            comparer.add(*(session.run(feed) for session in sessions))
        return Fidelity.of(comparer.result()).sqnr_db

    def fidelity(self, decision: Decision) -> Fidelity:
        """Of the outputs under `decision`.

        Raises:
            GraphoptError: if ONNX Runtime cannot run the model.
        """
        if not self._expected:
            session = Session(self.model)
            self._expected = [session.run(feed) for feed in self._feeds(self.limit)]
        session = Session(self._simulated(decision)[0])
        comparer = Comparer()
        for expected, feed in zip(self._expected, self._feeds(self.limit), strict=True):
            comparer.add(expected, session.run(feed))
        return Fidelity.of(comparer.result())

    def repair(
        self,
        decision: Decision,
        goal: float,
        fidelity: Fidelity | None = None,
        *,
        demanded: bool = False,
    ) -> tuple[Decision, Fidelity]:
        """Leaves nodes in fp32, those that lose most first, until the outputs keep `goal` dB.

        Args:
            fidelity: that of `decision`, if it is known.
            demanded: whether to go on though a round gains little.
        """
        best, fidelity = decision, fidelity or self.fidelity(decision)
        tried, result, idle = best, fidelity, 0
        for number in range(1, ROUNDS + 1):
            if result.finite and result.sqnr_db >= goal:
                break
            worst = self._worst(tried, PART * number if demanded else PART)
            if not worst:
                break
            tried = replace(tried, left=dict(tried.left))
            for node in worst:
                tried.leave(node, "it loses most")
            fill(tried)
            result = self.fidelity(tried)
            gain = result.sqnr_db - fidelity.sqnr_db
            is_enough = result.finite and result.sqnr_db >= goal
            least = 0.0 if demanded or is_enough else LEAST_GAIN_DB
            if result.finite > fidelity.finite or gain >= least:
                best, fidelity, idle = tried, result, 0
                continue
            idle += 1
            if idle == PATIENCE and not demanded:
                break
        return best, fidelity

    def _simulated(self, decision: Decision) -> tuple[ir.Model, dict[ir.Node, ir.Node]]:
        """A copy of the model with what is low under `decision` rounded, and its nodes by ours."""
        copy = self.model.clone()
        twins = dict(zip(walk(self.model.graph), walk(copy.graph), strict=True))
        self.fit.apply(copy, decision, twins)
        Writer(copy, decision.moved(twins), simulated=True).write()
        return copy, twins

    def _feeds(self, limit: int) -> Iterator[Feed]:
        samples = self.context.calibration
        assert samples is not None
        for feed, _ in batches(islice(samples, limit), input_specs(self.model), 1):
            yield feed

    def _worst(self, decision: Decision, part: float) -> Sequence[ir.Node]:
        """The low nodes whose results have most of the error that their inputs do not have.

        They are `part` of all low ones, and those that make their inputs. Pairs follow the nodes
        that they belong to: by themselves they gain nothing in fp32.
        """
        nodes = [
            node
            for node in decision.low_nodes()
            if node.graph is self.model.graph
            and node.outputs
            and not is_standard(node, "QuantizeLinear", "DequantizeLinear")
        ]
        noise = self._noise(decision)
        losses: list[tuple[float, int, ir.Node]] = []
        for position, node in enumerate(nodes):
            own = max((noise.get(str(v.name), 0.0) for v in node.outputs), default=0.0)
            given = max((noise.get(str(v.name), 0.0) for v in node.inputs if v), default=0.0)
            losses.append((-(own - given), position, node))
        count = max(1, round(part * len(nodes)))
        chosen = [node for loss, _, node in sorted(losses)[:count] if loss < 0]
        makers = [v.producer() for node in chosen for v in node.inputs if v is not None]
        return [*chosen, *(p for p in makers if p is not None and decision.is_low(p))]

    def _noise(self, decision: Decision) -> dict[str, float]:
        """The error of each tensor of the main graph as a part of its energy, on a few samples."""
        simulated, _ = self._simulated(decision)
        present = set(ir.convenience.create_value_mapping(simulated.graph))
        names = [
            str(value.name)
            for node in self.model.graph
            for value in node.outputs
            if value.name in present and decision.signatures.is_float(value)
        ]
        sums = {name: np.zeros(2) for name in names}
        for group in self._groups(names):
            sessions = [Session(tapped(m, group)) for m in (self.model, simulated)]
            for feed in self._feeds(TAPPED_SAMPLES):
                wanted = {name: feed[name] for name in sessions[0].inputs}
                expected, got = (session.run(wanted) for session in sessions)
                for name in group:
                    sums[name] += _energies(expected[name], got[name])
        return {
            name: float(noise / signal) if signal else float(noise > 0)
            for name, (signal, noise) in sums.items()
        }

    def _groups(self, names: list[str]) -> Iterator[list[str]]:
        """`names` in groups whose tensors fit into memory together."""
        sizes = self._sizes(names)
        group: list[str] = []
        used = 0
        for name in names:
            if group and used + sizes[name] > GROUP_BYTES:
                yield group
                group, used = [], 0
            group.append(name)
            used += sizes[name]
        if group:
            yield group

    def _sizes(self, names: list[str]) -> dict[str, int]:
        values = ir.convenience.create_value_mapping(self.model.graph)
        facts = self.context.analyses.facts(self.model)
        sizes = {}
        for name in names:
            dims = facts.dims(values[name]) or ()
            sizes[name] = 4 * math.prod(dim if isinstance(dim, int) else 64 for dim in dims)
        return sizes


def _energies(expected: np.ndarray, got: np.ndarray) -> np.ndarray:
    """[2]: the sums of squares of the signal and of the error; what is infinite weighs most."""
    signal = expected.astype(np.float64)
    with np.errstate(invalid="ignore"):  # of infinite numbers
        error = got.astype(np.float64) - signal
    broken = ~np.isfinite(error) & np.isfinite(signal)
    held = np.isfinite(signal) & ~broken
    noise = float(np.vdot(error[held], error[held]))
    return np.array(
        [float(np.vdot(signal[held], signal[held])), math.inf if broken.any() else noise]
    )
