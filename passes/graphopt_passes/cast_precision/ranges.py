"""The range of every float tensor on the calibration samples, and what rounding it costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.calibration.collect import watch
from graphopt.pipeline.base import PassContext
from graphopt_passes.cast_precision.low import LOW_TYPES, Array, Loss, LowType
from graphopt_passes.cast_precision.signature import Signatures


@dataclass(frozen=True)
class LossObserver:
    """Makes the `Loss` of a tensor under the low type called `low`."""

    low: str

    def __call__(self, values: Array, samples: int, /) -> Loss:
        if np.isnan(values).any():
            raise ValueError("NaN")
        return LOW_TYPES[self.low].loss(values)


def measure_ranges(
    model: ir.Model, signatures: Signatures, low: LowType, context: PassContext, limit: int
) -> dict[ir.Value, Loss]:
    """The loss of each float tensor of the main graph; nothing without calibration samples.

    They are computed in fp32: runtimes on a CPU compute fp16 in fp32 and hide an overflow.

    Raises:
        GraphoptError: if a tensor is NaN on a sample.
    """
    if context.calibration is None:
        return {}
    values = [value for value in model.graph.inputs if signatures.is_float(value)]
    for node in model.graph:
        if node.op_type != "Constant":
            values += [v for v in node.outputs if v.name and signatures.is_float(v)]
    observer = LossObserver(low.name)
    found = watch(
        model,
        {str(value.name): observer for value in values},
        context.calibration,
        context.progress,
        limit=limit,
        jobs=context.jobs,
        backend=context.backend,
    )
    return {value: found[str(value.name)] for value in values}
