"""Instruments that time a run and keep its intermediate models."""

from __future__ import annotations

import time
from pathlib import Path

import onnx_ir as ir

from graphopt.ir import save, writable_path
from graphopt.pipeline.base import Pass, PassResult


class Timing:
    """Measures each run of a pass: `seconds` has one number per run, in order (wall time)."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._begun = 0.0

    def start(self, model: ir.Model) -> None:
        self.seconds.clear()

    def before(self, step: Pass, model: ir.Model) -> None:
        self._begun = time.perf_counter()

    def after(self, step: Pass, result: PassResult) -> None:
        self.seconds.append(time.perf_counter() - self._begun)

    def end(self, model: ir.Model) -> None:
        pass


class Dump:
    """Saves the model after each pass that changed it: `01-fold-constants.onnx`, and so on."""

    def __init__(self, folder: Path) -> None:
        writable_path(folder / "model.onnx")
        self._folder = folder
        self._number = 0

    def start(self, model: ir.Model) -> None:
        self._number = 0

    def before(self, step: Pass, model: ir.Model) -> None:
        pass

    def after(self, step: Pass, result: PassResult) -> None:
        self._number += 1
        if result.modified:
            save(result.model, self._folder / f"{self._number:02}-{step.name}.onnx")

    def end(self, model: ir.Model) -> None:
        pass
