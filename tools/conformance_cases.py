"""The models of ONNX's backend suites, and the forms that conformance.py runs each of them in."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.backend.test.case.model import collect_testcases as collect_model_cases
from onnx.backend.test.case.node import collect_testcases as collect_node_cases
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import DATA_DIR

Feed = dict[str, Any]

SUITES = ("node", "simple", "pytorch-converted", "pytorch-operator", "light")


@dataclass(frozen=True)
class Case:
    """A model of a suite and the data that the suite gives for it."""

    suite: str
    name: str
    model: bytes
    data_sets: tuple[tuple[Any, ...], ...]
    """For each set the values of the inputs without initializers, in order: arrays (of
    ml_dtypes' types where numpy has none), lists of such, or None for an absent optional."""


@dataclass(frozen=True)
class Probe:
    """A case in one form: a model, and what to run it on."""

    proto: onnx.ModelProto
    feeds: tuple[Feed, ...]


@lru_cache(maxsize=1)
def cases() -> tuple[Case, ...]:
    """All cases, in order of suite and name. Takes about ten seconds, once per process."""
    found = [_from_onnx(case, "node") for case in _quietly(lambda: collect_node_cases(None))]
    simple = {case.name: _from_onnx(case, "simple") for case in _generated_simple()}
    simple.update({case.name: case for case in _on_disk("simple")})
    found += simple.values()
    for suite in ("pytorch-converted", "pytorch-operator"):
        found += _on_disk(suite)
    found += _light()
    return tuple(sorted(found, key=lambda case: (SUITES.index(case.suite), case.name)))


def not_available() -> list[str]:
    """The models of suite `real` by name: onnx ships their addresses, not their weights."""
    return sorted(
        folder.name
        for folder in (Path(DATA_DIR) / "real").iterdir()
        if (folder / "data.json").is_file()
        and "model_name" in json.loads((folder / "data.json").read_text())
    )


def _quietly(collect: Callable[[], Iterable[TestCase]]) -> Iterable[TestCase]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # some cases overflow on purpose
        return list(collect())


def _generated_simple() -> list[TestCase]:
    """Of suite `simple` some models are on disk and some are only made by its code."""
    return [c for c in _quietly(collect_model_cases) if c.kind == "simple" and c.model is not None]


def _from_onnx(case: TestCase, suite: str) -> Case:
    assert case.model is not None
    assert case.data_sets is not None
    sets = tuple(tuple(_value(v) for v in inputs) for inputs, _ in case.data_sets)
    return Case(suite, case.name, case.model.SerializeToString(), sets)


def _value(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return value


def _on_disk(suite: str) -> list[Case]:
    found = []
    for folder in sorted((Path(DATA_DIR) / suite).iterdir()):
        if not (folder / "model.onnx").is_file():
            continue
        content = (folder / "model.onnx").read_bytes()
        inputs = free_inputs(onnx.load_model_from_string(content))
        sets = tuple(_read_set(path, inputs) for path in sorted(folder.glob("test_data_set_*")))
        found.append(Case(suite, folder.name, content, sets))
    return found


def _read_set(folder: Path, inputs: list[onnx.ValueInfoProto]) -> tuple[Any, ...]:
    values: list[Any] = []
    for index, value in enumerate(inputs):
        content = (folder / f"input_{index}.pb").read_bytes()
        match value.type.WhichOneof("value"):
            case "sequence_type":
                sequence = onnx.SequenceProto.FromString(content)
                values.append(onnx.numpy_helper.to_list(sequence))
            case "optional_type":
                optional = onnx.OptionalProto.FromString(content)
                values.append(onnx.numpy_helper.to_optional(optional))
            case _:
                values.append(onnx.numpy_helper.to_array(onnx.TensorProto.FromString(content)))
    return tuple(values)


def _light() -> list[Case]:
    """Real networks whose weights are ConstantOfShape; their inputs are ramps from 0 to 1."""
    found = []
    for path in sorted((Path(DATA_DIR) / "light").glob("*.onnx")):
        content = path.read_bytes()
        inputs = free_inputs(onnx.load_model_from_string(content))
        shapes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in inputs]
        ramps = (np.arange(np.prod(s)).reshape(s) / np.prod(s) for s in shapes)
        found.append(Case("light", path.stem, content, (tuple(np.float32(r) for r in ramps),)))
    return found


def free_inputs(proto: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that a caller must give: those that no initializer has a value for."""
    given = {tensor.name for tensor in proto.graph.initializer}
    given |= {tensor.values.name for tensor in proto.graph.sparse_initializer}
    return [value for value in proto.graph.input if value.name not in given]


def make_probe(case: Case, form: str) -> Probe | None:
    """`case` in the form named `form` (of FORMS); None if it has no such form."""
    proto = onnx.load_model_from_string(case.model)
    names = [value.name for value in free_inputs(proto)]
    feeds = tuple(dict(zip(names, values, strict=True)) for values in case.data_sets)
    return FORMS[form](proto, feeds)


def _as_is(proto: onnx.ModelProto, feeds: tuple[Feed, ...]) -> Probe | None:
    return Probe(proto, feeds)


def _constant(proto: onnx.ModelProto, feeds: tuple[Feed, ...], keep: int = 0) -> Probe | None:
    """Inputs after the first `keep` as initializers, and initializers no longer inputs.

    That needs IR version 4. None if one of those inputs is no tensor, or there are none.
    """
    free = free_inputs(proto)
    kept = [value.name for value in free[:keep]]
    if len(kept) == len(proto.graph.input):
        return None
    tensors = _tensors(free[keep:], feeds[0])
    if tensors is None:
        return None
    inputs = [value for value in proto.graph.input if value.name in kept]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    proto.graph.initializer.extend(tensors)
    proto.ir_version = max(proto.ir_version, 4)
    return Probe(proto, ({name: feeds[0][name] for name in kept},))


def _all_but_first(proto: onnx.ModelProto, feeds: tuple[Feed, ...]) -> Probe | None:
    return _constant(proto, feeds, keep=1)


def _defaults(proto: onnx.ModelProto, feeds: tuple[Feed, ...]) -> Probe | None:
    """Zeros as default values of the inputs; every default is overridden by other values.

    That needs IR version 4. None if an input is no tensor of numbers, or there are none.
    """
    free = free_inputs(proto)
    if not proto.graph.input or not all(_is_numeric(v) for feed in feeds for v in feed.values()):
        return None
    zeros = {name: np.zeros_like(array) for name, array in feeds[0].items()}
    inputs = {value.name for value in proto.graph.input}
    other = {t.name: _other(t) for t in proto.graph.initializer if t.name in inputs}
    tensors = _tensors(free, zeros)
    if tensors is None:
        return None
    proto.graph.initializer.extend(tensors)
    proto.ir_version = max(proto.ir_version, 4)
    return Probe(proto, tuple({**feed, **other} for feed in feeds))


def _other(tensor: onnx.TensorProto) -> Any:
    """Another value for a default. Integers stay: they are shapes and axes."""
    array = onnx.numpy_helper.to_array(tensor)
    return array * array.dtype.type(0.5) if array.dtype.kind == "f" else array


def _dynamic(proto: onnx.ModelProto, feeds: tuple[Feed, ...]) -> Probe | None:
    """All dimensions of free inputs symbolic, each by its own name; those of outputs unknown.

    None if no dimension was static.
    """
    changed = 0
    for index, value in enumerate(free_inputs(proto)):
        if not value.type.HasField("tensor_type"):
            return None
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            changed += dim.HasField("dim_value")
            dim.dim_param = f"d{index}_{axis}"
    if not changed:
        return None
    for value in proto.graph.output:
        if value.type.HasField("tensor_type"):
            for dim in value.type.tensor_type.shape.dim:
                dim.ClearField("value")
    del proto.graph.value_info[:]
    return Probe(proto, feeds)


FORMS: Mapping[str, Callable[[onnx.ModelProto, tuple[Feed, ...]], Probe | None]] = {
    "as-is": _as_is,
    "constant-inputs": _constant,
    "all-but-first": _all_but_first,
    "defaults": _defaults,
    "dynamic": _dynamic,
}


def _is_numeric(array: Any) -> bool:
    return isinstance(array, np.ndarray | np.generic) and array.dtype.kind not in "OSU"


def _tensors(
    values: list[onnx.ValueInfoProto], arrays: Mapping[str, Any]
) -> list[onnx.TensorProto] | None:
    tensors = []
    for value in values:
        array = arrays[value.name]
        if not value.type.HasField("tensor_type") or not isinstance(array, np.ndarray | np.generic):
            return None
        tensor = onnx.numpy_helper.from_array(np.asarray(array), value.name)
        if tensor.data_type != value.type.tensor_type.elem_type:
            raise ValueError(f"{value.name}: {tensor.data_type} is not the declared type")
        tensors.append(tensor)
    return tensors
