"""graphopt: a compiler for ONNX graphs.

    import graphopt

    result = graphopt.optimize("model.onnx", "lossless,quantize", calibration="calib.npz")
    graphopt.save(result.model, "small.onnx")

Names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphopt.emit.tensorrt import EngineReport, build_engine
    from graphopt.errors import GraphoptError, ToleranceError
    from graphopt.ir import Cost, ModelSource, infer_shapes, load, measure, save, to_graphsurgeon
    from graphopt.jobs.optimize import Optimized, optimize
    from graphopt.pipeline.base import (
        Effect,
        MinOpset,
        Need,
        NoOperator,
        Pass,
        PassContext,
        PassResult,
        Stage,
    )
    from graphopt.pipeline.graphsurgeon import GraphSurgeonPass
    from graphopt.pipeline.runner import Instrument, run
    from graphopt.pipeline.text import Pipeline, Repeat, parse
    from graphopt.report.model import Report

_HOMES = {
    "Cost": "graphopt.ir",
    "Effect": "graphopt.pipeline.base",
    "EngineReport": "graphopt.emit.tensorrt",
    "GraphSurgeonPass": "graphopt.pipeline.graphsurgeon",
    "GraphoptError": "graphopt.errors",
    "Instrument": "graphopt.pipeline.runner",
    "MinOpset": "graphopt.pipeline.base",
    "ModelSource": "graphopt.ir",
    "Need": "graphopt.pipeline.base",
    "NoOperator": "graphopt.pipeline.base",
    "Optimized": "graphopt.jobs.optimize",
    "Pass": "graphopt.pipeline.base",
    "PassContext": "graphopt.pipeline.base",
    "PassResult": "graphopt.pipeline.base",
    "Pipeline": "graphopt.pipeline.text",
    "Repeat": "graphopt.pipeline.text",
    "Report": "graphopt.report.model",
    "Stage": "graphopt.pipeline.base",
    "ToleranceError": "graphopt.errors",
    "build_engine": "graphopt.emit.tensorrt",
    "infer_shapes": "graphopt.ir",
    "load": "graphopt.ir",
    "measure": "graphopt.ir",
    "optimize": "graphopt.jobs.optimize",
    "parse": "graphopt.pipeline.text",
    "run": "graphopt.pipeline.runner",
    "save": "graphopt.ir",
    "to_graphsurgeon": "graphopt.ir",
}

__all__ = [
    "Cost",
    "Effect",
    "EngineReport",
    "GraphSurgeonPass",
    "GraphoptError",
    "Instrument",
    "MinOpset",
    "ModelSource",
    "Need",
    "NoOperator",
    "Optimized",
    "Pass",
    "PassContext",
    "PassResult",
    "Pipeline",
    "Repeat",
    "Report",
    "Stage",
    "ToleranceError",
    "build_engine",
    "infer_shapes",
    "load",
    "measure",
    "optimize",
    "parse",
    "run",
    "save",
    "to_graphsurgeon",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'graphopt' has no attribute '{name}'")
    value = globals()[name] = getattr(importlib.import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
