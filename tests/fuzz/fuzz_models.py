"""Whole models out of the pieces, and what they run on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from fuzz_builder import Item, Scope, declared
from fuzz_structure import ALL, attempt
from onnx import helper

Feed = dict[str, Any]

SPECIAL = (0.0, -0.0, np.nan, np.inf, -np.inf, 1e-42, 3e38, -3e38, 0.5, -0.5, 3.0, -3.0, 1.0)


def grow(seed: int) -> tuple[onnx.ModelProto, list[Feed], list[Feed]]:
    """The model of `seed`, ordinary inputs, and inputs of SPECIAL numbers.

    The model runs on all of them unless it is at odds with itself.
    """
    s = Scope(seed)
    dtype = np.dtype(s.random.choice(["f4"] * 8 + ["f8", "f2"]))
    _add_inputs(s, dtype)
    favoured = s.random.choice(ALL[:5])
    for _ in range(s.random.randint(2, 9)):
        kinds = favoured if s.chance(0.5) else s.random.choice(ALL)
        attempt(s, s.random.choice(kinds))
    outputs = _outputs(s)
    model = _model(s, outputs)
    ordinary = [_feed(s, run, False) for run in range(2)]
    return model, ordinary, [_feed(s, 2, True)]


def _add_inputs(s: Scope, dtype: np.dtype[Any]) -> None:
    batch, channels = s.random.choice([1, 2, 2, 3]), s.random.choice([1, 2, 4, 4, 6])
    shapes = [
        (batch, channels, s.random.randint(3, 5), s.random.choice([1, 4, 4])),
        (batch, channels, s.random.choice([4, 6])),
        (channels, 4),
        (s.random.choice([0, 1, 5]), 3),
        (4,),
        (),
    ]
    for _ in range(s.random.randint(1, 3)):
        shape = s.random.choice(shapes[:3] if s.chance(0.8) else shapes)
        kind = dtype if s.chance(0.85) else np.dtype(s.random.choice(["i8", "i4", "?"]))
        item = Item(f"x{len(s.inputs)}", kind, shape)
        s.inputs.append(item)
        s.items.append(item)
    s.items.reverse() if s.chance(0.5) else None


def _outputs(s: Scope) -> list[Item]:
    """Some of what nothing uses, some of what is used, now and then an initializer."""
    used = {name for node in s.nodes for name in node.input}
    made = [item for item in s.items if item not in s.inputs]
    loose = [item for item in made if item.name not in used] or made[-1:]
    outputs = s.random.sample(loose, min(len(loose), s.random.randint(1, 3)))
    if made and s.chance(0.35):
        outputs.append(s.random.choice(made))
    if s.constants and s.chance(0.08):
        outputs.append(s.random.choice(s.constants))
    if s.chance(0.04):
        outputs.append(s.random.choice(s.inputs))
    return list({item.name: item for item in outputs or s.inputs[:1]}.values())


def _model(s: Scope, outputs: Sequence[Item]) -> onnx.ModelProto:
    dynamic = s.chance(0.4)
    inputs = [declared(item, _vague(s, item, "N") if dynamic else item.shape) for item in s.inputs]
    results = []
    for item in outputs:
        if item in s.inputs:
            results.append(inputs[s.inputs.index(item)])
        elif dynamic:
            free = [f"{item.name}_{axis}" for axis in range(item.rank)]
            results.append(declared(item, free))
        else:
            results.append(declared(item, item.shape))
    if s.chance(0.06):
        defaults = s.random.sample(s.constants, min(len(s.constants), 2))
        given = {result.name for result in results}
        inputs.extend(declared(i, i.shape) for i in defaults if i.name not in given)
    graph = helper.make_graph(s.nodes, "fuzz", inputs, results, s.weights)
    ir_version = {8: 4, 9: 4, 10: 5, 11: 6, 12: 7, 13: 7, 14: 7}.get(s.opset, 8)
    imports = [helper.make_opsetid("", s.opset)]
    if s.functions:
        imports.append(helper.make_opsetid("local", 1))
        ir_version = 8
    model = helper.make_model(graph, opset_imports=imports, ir_version=ir_version)
    model.functions.extend(s.functions)
    return model


def _vague(s: Scope, item: Item, symbol: str) -> list[int | str]:
    """The shape of an input with a free batch, or with other free axes."""
    shape: list[int | str] = list(item.shape)
    for axis in range(len(shape)):
        if s.chance(0.8 if axis == 0 else 0.2):
            shape[axis] = f"{symbol}{item.shape[axis]}_{axis}"
    return shape


def larger(model: onnx.ModelProto) -> Feed | None:
    """Inputs for which every free dimension is one larger; None if there is none."""
    generator, free, feed = np.random.default_rng(3), False, {}
    defaults = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name in defaults:
            continue
        dims = value.type.tensor_type.shape.dim
        shape = [
            1 + int(dim.dim_param[1:].split("_")[0]) if dim.dim_param else dim.dim_value
            for dim in dims
        ]
        free = free or any(dim.dim_param for dim in dims)
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
        feed[value.name] = _numbers(shape, dtype, generator, False)
    return feed if free else None


def _feed(s: Scope, run: int, special: bool) -> Feed:
    generator = np.random.default_rng(run)
    return {item.name: _numbers(item.shape, item.dtype, generator, special) for item in s.inputs}


def _numbers(
    shape: Sequence[int], dtype: np.dtype[Any], generator: np.random.Generator, special: bool
) -> np.ndarray:
    if dtype == np.bool_:
        return np.asarray(generator.random(shape) < 0.5)
    if dtype.kind != "f":
        return np.asarray(generator.integers(-3, 9, shape), dtype)
    if special:
        with np.errstate(over="ignore"):
            return np.asarray(generator.choice(SPECIAL, shape)).astype(dtype)
    return np.asarray(generator.standard_normal(shape)).astype(dtype)
