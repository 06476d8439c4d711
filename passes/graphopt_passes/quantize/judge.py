"""How far a model's outputs are from the float model's, on samples held out from calibration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.data.feeds import Feed, Samples, batches, input_specs
from graphopt.errors import GraphoptError
from graphopt.runtime.difference import RELATIVE_TOLERANCE, Comparer
from graphopt.runtime.session import Session

SAMPLES = 64
"""So many samples judge, at most: the energy of the noise is then known to about 0.3 dB."""
BATCH = 8
BUDGET_BYTES = 1 << 28
"""What their inputs and the float outputs may take in memory; at least one batch is used."""


class Judge:
    """Runs models on the same samples as the float model `reference`, and compares.

    The figure is the signal-to-noise ratio in dB, 10 log10(sum r^2 / sum (x - r)^2), r the float
    output over all samples and x the other model's, of the worst output. Outputs that are no
    floating-point numbers (labels, indices) count only if there are no others; each element is
    then right or wrong, so that 99% of agreement are 20 dB. An output whose shape depends on the
    values, and comes out different, has no figure: -inf, as one that is NaN or infinite where the
    float one is not.

    Attributes:
        feeds: the samples, a few to a feed.
        samples: how many there are.
    """

    def __init__(self, reference: ir.Model, samples: Samples, limit: int = SAMPLES) -> None:
        """Runs `reference`, which is not changed.

        Raises:
            GraphoptError: if there are no samples, or ONNX Runtime cannot run the model.
        """
        self.feeds: list[Feed] = []
        self.samples = 0
        self._expected: list[Feed] = []
        size = 0
        session = Session(reference)
        for feed, real in batches(samples, input_specs(reference), BATCH, limit):
            outputs = session.run(feed)
            size += sum(_bytes(value) for value in (*feed.values(), *outputs.values()))
            if self.feeds and size > BUDGET_BYTES:
                break
            self.feeds.append(feed)
            self._expected.append(outputs)
            self.samples += real
        if not self.feeds:
            raise GraphoptError("holds no samples", where=samples.description)
        first = self._expected[0]
        floats = [name for name, value in first.items() if _is_float(value)]
        self.outputs: tuple[str, ...] = tuple(floats or first)
        """The outputs that count."""

    def sqnr(self, model: ir.Model) -> float:
        """The figure of `model`, which has the inputs and outputs of the float one, in dB."""
        return self.compare(map(Session(model).run, self.feeds))

    def compare(
        self, results: Iterator[dict[str, Any]], outputs: Sequence[str] | None = None
    ) -> float:
        """The figure of `results`, one for each of `feeds`; of `outputs` only, if given."""
        names = self.outputs if outputs is None else outputs
        comparer = Comparer()
        for expected, result in zip(self._expected, results, strict=True):
            wanted = {name: expected[name] for name in names}
            got = {name: result[name] for name in names}
            if not all(_comparable(wanted[name], got[name]) for name in names):
                return -np.inf
            comparer.add(wanted, got)
        return min((d.sqnr_db for d in comparer.result()), default=np.inf)


def _is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and str(value.dtype) in RELATIVE_TOLERANCE


def _comparable(one: Any, other: Any) -> bool:
    """Whether two values of an output, arrays or sequences of them, have the same shapes."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_comparable, one, other))
    return bool(np.shape(one) == np.shape(other))


def _bytes(value: Any) -> int:
    return sum(map(_bytes, value)) if isinstance(value, list) else int(np.asarray(value).nbytes)
