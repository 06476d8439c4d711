"""Grows an ONNX graph node by node, knowing every shape, in the form its opset wants."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

OPSETS = (8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23)
MAX_ELEMENTS = 4096
MAX_RANK = 5


class Misfit(Exception):  # noqa: N818 - it is no failure
    """A node would not be valid; whoever wanted it does without."""


@dataclass(frozen=True)
class Item:
    """A value of the graph."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    """As it is when the graph runs; what the graph says about it may be less."""
    data: np.ndarray | None = field(default=None, compare=False)
    """The content of constants, and of shapes."""

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def is_float(self) -> bool:
        return self.dtype.kind == "f"


class Scope:
    """A graph while it grows; one in a subgraph sees the items of its parent."""

    def __init__(self, seed: int, parent: Scope | None = None) -> None:
        self.random = random.Random(seed)
        self.parent = parent
        self.root: Scope = self if parent is None else parent.root
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.items: list[Item] = [] if parent is None else list(parent.items)
        self.inputs: list[Item] = []
        self.functions: list[onnx.FunctionProto] = []
        self.is_function = False
        """Whether constants must be nodes."""
        if parent is None:
            self.opset = self.random.choice(OPSETS)
            self.names = 0
            self.constants: list[Item] = []
        else:
            self.opset = parent.opset

    # what is drawn

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def pick(self, fits: Any = None) -> Item:
        """An item that `fits`, most often one of the last."""
        found = [item for item in self.items if fits is None or fits(item)]
        if not found:
            raise Misfit
        return found[-1] if self.chance(0.6) else self.random.choice(found)

    def floats(self, rank: int = 0) -> Item:
        return self.pick(lambda item: item.is_float and item.rank >= rank)

    def array(self, shape: Sequence[int], dtype: Any, near: float = 1.0) -> np.ndarray:
        """Random numbers of magnitude `near`, none close to zero."""
        generator = np.random.default_rng(self.random.getrandbits(32))
        if np.dtype(dtype).kind != "f":
            return generator.integers(1, 4, shape).astype(dtype)
        sign = generator.choice([-1.0, 1.0], shape)
        return np.asarray(near * sign * generator.uniform(0.25, 1.5, shape)).astype(dtype)

    # what is built

    def name(self) -> str:
        self.root.names += 1
        return f"v{self.root.names}"

    def constant(self, data: Any, dtype: Any = None) -> Item:
        """An initializer that may be shared, a Constant node, or something folding must find."""
        array = np.asarray(data, dtype)
        if self.is_function and self.opset < 13:
            raise Misfit
        for known in self.root.constants if self.chance(0.5) and not self.is_function else ():
            same_type = known.dtype == array.dtype and known.shape == array.shape
            if same_type and known.data is not None and known.data.tobytes() == array.tobytes():
                return known
        item = Item(self.name(), array.dtype, array.shape, array)
        tensor = numpy_helper.from_array(array, item.name)
        if (self.chance(0.8) or self.opset < 9) and not self.is_function:
            owner = self.root if self.chance(0.5) else self
            owner.weights.append(tensor)
            if owner is self.root:
                self.root.constants.append(item)
        else:
            self.nodes.append(helper.make_node("Constant", [], [item.name], value=tensor))
        return item

    def initializer(self, array: np.ndarray) -> Item:
        """An initializer of its own."""
        if self.is_function:
            raise Misfit
        item = Item(self.name(), array.dtype, array.shape, array)
        self.weights.append(numpy_helper.from_array(array, item.name))
        return item

    def ints(self, *numbers: int) -> Item:
        return self.constant(np.array(numbers, np.int64))

    def number(self, value: float, dtype: Any) -> Item:
        """A constant of one element, of rank 0 or 1."""
        return self.constant(np.array(value if self.chance(0.7) else [value], dtype))

    def node(self, op_type: str, *inputs: Item | None, **attributes: Any) -> Item:
        return self.nodes_outputs(op_type, inputs, 1, attributes)[0]

    def nodes_outputs(
        self, op_type: str, inputs: Sequence[Item | None], count: int, attributes: dict[str, Any]
    ) -> list[Item]:
        """A node and its outputs.

        Raises:
            Misfit: unless its opset has it, its inputs fit, and all its shapes are known and small.
        """
        names = [self.name() for _ in range(count)]
        given = [item.name if item is not None else "" for item in inputs]
        node = helper.make_node(op_type, given, names, **attributes)
        types = {
            item.name: helper.make_tensor_type_proto(
                helper.np_dtype_to_tensor_dtype(item.dtype), item.shape
            )
            for item in inputs
            if item is not None
        }
        data = {
            item.name: numpy_helper.from_array(item.data, item.name)
            for item in inputs
            if item is not None and item.data is not None and item.data.size < 64
        }
        imports = [helper.make_opsetid("", self.opset)]
        try:
            schema = onnx.defs.get_schema(op_type, self.opset, "")
            found = onnx.shape_inference.infer_node_outputs(
                schema, node, types, data, opset_imports=imports, ir_version=8
            )
        except (
            onnx.checker.ValidationError,
            onnx.shape_inference.InferenceError,
            onnx.defs.SchemaError,
            RuntimeError,
            ValueError,
        ) as error:
            raise Misfit(str(error)) from error
        if schema.deprecated or len(given) > schema.max_input or any(n not in found for n in names):
            raise Misfit(op_type)
        results = [_item(name, found[name]) for name in names]
        self.nodes.append(node)
        self.items.extend(results)
        return results

    def with_axes(self, op_type: str, x: Item, axes: Sequence[int], **attributes: Any) -> Item:
        """Squeeze, Unsqueeze or a reduction, whose axes were an attribute once."""
        since = 13 if op_type in ("Squeeze", "Unsqueeze", "ReduceSum") else 18
        if self.opset < since:
            return self.node(op_type, x, axes=list(axes), **attributes)
        return self.node(op_type, x, self.ints(*axes), **attributes)

    def slice(
        self,
        x: Item,
        starts: Sequence[int],
        ends: Sequence[int],
        axes: Sequence[int],
        steps: Sequence[int] | None = None,
    ) -> Item:
        if self.opset < 10:
            if steps is not None and set(steps) != {1}:
                raise Misfit
            return self.node("Slice", x, starts=list(starts), ends=list(ends), axes=list(axes))
        more = [] if steps is None else [self.ints(*steps)]
        return self.node("Slice", x, self.ints(*starts), self.ints(*ends), self.ints(*axes), *more)

    def pad(self, x: Item, pads: Sequence[int], value: float = 0.0, mode: str = "constant") -> Item:
        if self.opset < 11:
            return self.node("Pad", x, pads=list(pads), value=value, mode=mode)
        with np.errstate(over="ignore"):
            fill = [self.constant(np.array(value, x.dtype))] if value or self.chance(0.5) else []
        return self.node("Pad", x, self.ints(*pads), *fill, mode=mode)

    def clip(self, x: Item, low: float | None, high: float | None) -> Item:
        if self.opset < 11:
            bounds = {"min": low, "max": high}
            return self.node("Clip", x, **{k: v for k, v in bounds.items() if v is not None})
        ends = [None if v is None else self.constant(np.array(v, x.dtype)) for v in (low, high)]
        return self.node("Clip", x, *ends)

    def split(self, x: Item, axis: int, parts: Sequence[int]) -> list[Item]:
        if self.opset < 13:
            return self.nodes_outputs("Split", [x], len(parts), {"axis": axis, "split": parts})
        return self.nodes_outputs("Split", [x, self.ints(*parts)], len(parts), {"axis": axis})

    def reshape(self, x: Item, shape: Sequence[int]) -> Item:
        """Reshape to a constant shape, some of it as 0 or -1."""
        asked = list(shape)
        for axis in range(min(len(asked), x.rank)):
            if asked[axis] == x.shape[axis] and asked[axis] and self.chance(0.2):
                asked[axis] = 0
        if asked and 0 not in shape and 0 not in x.shape and self.chance(0.4):
            asked[self.random.randrange(len(asked))] = -1
        return self.node("Reshape", x, self.ints(*asked))

    def known(self, item: Item, data: np.ndarray) -> Item:
        """`item`, of which the content is known."""
        better = Item(item.name, item.dtype, item.shape, data)
        self.items[self.items.index(item)] = better
        return better

    def graph(
        self, name: str, outputs: Sequence[Item], inputs: Sequence[Item] = ()
    ) -> onnx.GraphProto:
        """What has grown, as a subgraph."""
        ends = [[declared(item, item.shape) for item in items] for items in (inputs, outputs)]
        return helper.make_graph(self.nodes, name, *ends, self.weights)


def _item(name: str, found: onnx.TypeProto) -> Item:
    tensor = found.tensor_type
    if not tensor.HasField("shape") or not tensor.elem_type:
        raise Misfit
    if not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        raise Misfit
    shape = tuple(dim.dim_value for dim in tensor.shape.dim)
    if int(np.prod(shape)) > MAX_ELEMENTS or len(shape) > MAX_RANK or min(shape, default=0) < 0:
        raise Misfit
    return Item(name, np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)), shape)


def declared(item: Item, shape: Sequence[int | str] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(
        item.name, helper.np_dtype_to_tensor_dtype(item.dtype), shape
    )
