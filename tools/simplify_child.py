"""One tool simplifies one model in a process of its own; `bench_simplify.py` starts it.

    python simplify_child.py '{"tool": "onnxsim", "model": "a.onnx", "out": "b.onnx", ...}'

It imports the tool and `onnx`, and nothing of graphopt's, so that each tool may live in an
environment of its own. What it measured goes as JSON into the file `result`.

Before the clock starts the tool simplifies a model of three nodes: whatever it imports lazily is
then imported, and is in the memory baseline.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper
from processes import cpu_seconds, forget_peak, memory_kib


@dataclass(frozen=True)
class Tool:
    """How a tool is called: `save(simplify(load(path)), path)`."""

    version: str
    load: Callable[[str], Any]
    simplify: Callable[[Any], Any]
    save: Callable[[Any, str], object]
    loads_itself: bool = False
    """`load` does nothing and `simplify` takes the path: its time has the loading in it."""


def open_tool(name: str, passes: str, verify: bool) -> Tool:
    """Imports the tool called `name`; raises ImportError if it is not installed."""
    if name == "graphopt":
        return _graphopt(passes, verify)
    if name == "onnxslim":
        import onnxslim

        return Tool(version(name), onnx.load, onnxslim.slim, onnx.save)
    if name == "onnxsim":
        import onnxsim

        return Tool(version(name), onnx.load, lambda m: onnxsim.simplify(m)[0], onnx.save)
    if name == "onnxscript":
        import onnx_ir
        from onnxscript import optimizer

        def optimized(model: Any) -> Any:
            return optimizer.optimize(model)

        return Tool(version(name), onnx_ir.load, optimized, onnx_ir.save)
    raise ImportError(f"no tool is called '{name}'")


def _graphopt(passes: str, verify: bool) -> Tool:
    import graphopt

    def optimized(path: str) -> Any:
        mode: Any = "final" if verify else "off"
        return graphopt.optimize(path, passes, verify=mode, latency=False).model

    return Tool(version("graphopt"), str, optimized, graphopt.save, loads_itself=True)


def warm_up(tool: Tool) -> None:
    """A convolution with its batch normalization and a constant to fold, from file to file."""
    numbers = [0.5, 1.5]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2, 1, 1, 1], numbers)
    scale, bias, mean, var = (
        helper.make_tensor(name, TensorProto.FLOAT, [2], numbers) for name in ("s", "b", "m", "v")
    )
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"], name="norm"),
        helper.make_node("Neg", ["s"], ["k"], name="constant"),
        helper.make_node("Add", ["n", "k"], ["y"], name="add"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 2, 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 2, 2])
    graph = helper.make_graph(nodes, "warm", [x], [y], [weight, scale, bias, mean, var])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "warm.onnx")
        onnx.save(model, path)
        tool.save(tool.simplify(tool.load(path)), path)


def run(tool: Tool, source: str, out: str) -> dict[str, Any]:
    """Simplifies `source` into `out`: CPU seconds and KiB of memory."""
    forget_peak()
    baseline = memory_kib("VmRSS")
    wall, start = time.perf_counter(), cpu_seconds()
    model = tool.load(source)
    loaded = cpu_seconds()
    result = tool.simplify(model)
    simplified = cpu_seconds()
    tool.save(result, out)
    end = cpu_seconds()
    wall = time.perf_counter() - wall
    peak = memory_kib("VmHWM")
    alone = simplified - loaded
    if tool.loads_itself:
        alone -= _load_seconds(source)
    return {
        "cpu_s": end - start,
        "simplify_cpu_s": max(alone, 0.0),
        "wall_s": wall,
        "peak_kib": peak,
        "baseline_kib": baseline,
        "version": tool.version,
    }


def _load_seconds(source: str) -> float:
    """What graphopt's loading takes, which its `optimize` did as well."""
    import graphopt

    start = cpu_seconds()
    graphopt.load(source)
    return cpu_seconds() - start


def main() -> None:
    request = json.loads(sys.argv[1])
    tool = open_tool(request["tool"], request["passes"], request["verify"])
    if "model" not in request:  # only asked whether the tool is there
        print(tool.version)
        return
    warm_up(tool)
    measured = run(tool, request["model"], request["out"])
    Path(request["result"]).write_text(json.dumps(measured))
    if request.get("again"):  # a second run on the result, which should find nothing to do
        tool.save(tool.simplify(tool.load(request["out"])), request["again"])


if __name__ == "__main__":
    main()
