"""Shapes of dynamic inputs: what the user writes, and the optimization profile made from it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from graphopt.dimensions import UNKNOWN_DIMENSIONS
from graphopt.errors import GraphoptError, did_you_mean

if TYPE_CHECKING:
    import onnx_ir as ir

Shape: TypeAlias = "tuple[int, ...]"
# The least, the optimal and the greatest shape of an input.
ShapeRange: TypeAlias = "tuple[Shape, Shape, Shape]"

# Batches that suit most uses: what is suggested, and what `batch_shapes` gives.
DEFAULT_BATCH = (1, 8, 32)

_EXAMPLE = "write it as image:1x3x224x224,8x3x224x224,32x3x224x224"
_ITEM = re.compile(r"\s*([^=]+?)\s*=\s*([0-9][0-9x:\s]*?)\s*(?:,|$)", re.ASCII)
_SHAPE = r"[0-9]+(?:\s*x\s*[0-9]+)*"
_COLON_ITEM = re.compile(
    rf"\s*([^=]+?)\s*:\s*({_SHAPE}(?:\s*,\s*{_SHAPE})*)\s*(?:[,;]|$)", re.ASCII
)


@dataclass(frozen=True)
class InputSpec:
    """An input of the network.

    Attributes:
        dims: -1 where dynamic.
        symbols: the name of each dynamic dimension, None where it has none.
    """

    name: str
    dims: tuple[int, ...]
    symbols: tuple[str | None, ...]


def parse_shapes(text: str) -> dict[str, ShapeRange]:
    """Reads `name:least,optimal,greatest` or `name=least:optimal:greatest`, joined by commas.

    A shape is integers joined by `x`. A single one is all three. A semicolon may stand between
    items of the first form.

    Raises:
        GraphoptError: if the text is wrong.
    """
    shapes: dict[str, ShapeRange] = {}
    at = 0
    while at < len(text):
        item = _ITEM.match(text, at) or _COLON_ITEM.match(text, at)
        if item is None:
            raise GraphoptError(f"cannot read '{text[at:].strip()}'", where="shapes", fix=_EXAMPLE)
        if item[1] in shapes:
            raise GraphoptError(f"input '{item[1]}' is given twice", where="shapes")
        shapes[item[1]] = _shape_range(item[1], item[2].replace(",", ":"))
        at = item.end()
    if not shapes:
        raise GraphoptError("nothing is given", where="shapes", fix=_EXAMPLE)
    return shapes


def input_specs(model: ir.Model) -> list[InputSpec]:
    """The inputs as a builder would name and see them.

    Raises:
        GraphoptError: if the rank of one is unknown.
    """
    from graphopt.ir import main_inputs

    specs = []
    for value in main_inputs(model):
        if value.shape is None:
            raise GraphoptError("has no rank", where=f"input '{value.name}'")
        dims = list(value.shape)
        fixed = [isinstance(dim, int) and dim >= 0 for dim in dims]
        names = [None if isinstance(dim, int) else dim.value for dim in dims]
        specs.append(
            InputSpec(
                name=value.name or "",
                dims=tuple(
                    dim if isinstance(dim, int) and known else -1
                    for dim, known in zip(dims, fixed, strict=True)
                ),
                symbols=tuple(None if name in UNKNOWN_DIMENSIONS else name for name in names),
            )
        )
    return specs


def batch_shapes(model: ir.Model) -> dict[str, ShapeRange]:
    """Shapes for a model whose open sizes are all batches: 1, 8 and 32.

    Raises:
        GraphoptError: if an axis other than a first one is open, and shares no name with one.
    """
    return profile_of(input_specs(model), {}, batch=DEFAULT_BATCH)


def profile_of(
    inputs: Sequence[InputSpec],
    given: Mapping[str, ShapeRange],
    *,
    batch: tuple[int, int, int] | None = None,
) -> dict[str, ShapeRange]:
    """The optimization profile: three shapes for each dynamic input, in the order of `inputs`.

    A dimension that shares its name with one that is given gets the same numbers. What an engine is
    good for is the user's to say: an axis that stays open is an error, with the option to add.

    Args:
        batch: what a first axis gets that is still open; None if that is an error too.

    Raises:
        GraphoptError: if `given` contradicts the model or itself, or an axis stays open.
    """
    _require_known(given, [spec.name for spec in inputs])
    known: dict[str, tuple[int, int, int]] = {}
    for spec in inputs:
        if spec.name in given:
            _take_given(spec, given[spec.name], known)
    missing = [spec for spec in inputs if spec.name not in given and -1 in spec.dims]
    for spec in missing:
        if batch is not None and spec.dims[0] == -1 and spec.symbols[0]:
            known.setdefault(spec.symbols[0], batch)
    filled = {spec.name: _fill(spec, known, batch) for spec in missing}
    for spec in missing:
        _require_filled(spec, filled[spec.name], missing, known)
    return {
        spec.name: given[spec.name] if spec.name in given else _range(filled[spec.name])
        for spec in inputs
        if -1 in spec.dims
    }


def _shape_range(name: str, text: str) -> ShapeRange:
    shapes = [
        tuple(int(size) for size in re.split(r"\s*x\s*", shape.strip()))
        for shape in text.split(":")
        if re.fullmatch(r"[0-9]{1,9}(\s*x\s*[0-9]{1,9})*", shape.strip(), re.ASCII)
    ]
    if len(shapes) != text.count(":") + 1:
        raise GraphoptError(f"cannot read '{text}'", where=f"shapes of '{name}'", fix=_EXAMPLE)
    if len(shapes) not in (1, 3):
        raise GraphoptError(
            f"{len(shapes)} shapes are given",
            where=f"shapes of '{name}'",
            fix="give the least, the optimal and the greatest, or one that is all three",
        )
    least, optimal, greatest = shapes * 3 if len(shapes) == 1 else shapes
    if not len(least) == len(optimal) == len(greatest):
        raise GraphoptError("the three shapes differ in rank", where=f"shapes of '{name}'")
    if any(not a <= b <= c for a, b, c in zip(least, optimal, greatest, strict=True)):
        raise GraphoptError(
            f"'{text}' is not in ascending order",
            where=f"shapes of '{name}'",
            fix="give the least, the optimal and the greatest shape",
        )
    return least, optimal, greatest


def _require_known(given: Mapping[str, ShapeRange], names: list[str]) -> None:
    if not isinstance(given, Mapping):
        raise GraphoptError(
            f"cannot be of type {type(given).__name__}",
            where="shapes",
            fix="give three shapes for each input, by name",
        )
    for name in given:
        if name not in names:
            raise GraphoptError(
                f"the model has no input '{name}'", where="shapes", fix=did_you_mean(name, names)
            )


def _take_given(
    spec: InputSpec, shapes: ShapeRange, known: dict[str, tuple[int, int, int]]
) -> None:
    where = f"shapes of '{spec.name}'"
    if len(shapes) != 3 or not all(isinstance(shape, (list, tuple)) for shape in shapes):
        raise GraphoptError(
            f"{shapes} is not three shapes",
            where=where,
            fix="give the least, the optimal and the greatest",
        )
    if any(len(shape) != len(spec.dims) for shape in shapes):
        raise GraphoptError(
            f"the input has {len(spec.dims)} dimensions, the given shape has another number",
            where=where,
        )
    for axis, (size, symbol) in enumerate(zip(spec.dims, spec.symbols, strict=True)):
        numbers = shapes[0][axis], shapes[1][axis], shapes[2][axis]
        if size != -1:
            if numbers != (size, size, size):
                raise GraphoptError(f"axis {axis} of the input is fixed at {size}", where=where)
        elif symbol and known.setdefault(symbol, numbers) != numbers:
            raise GraphoptError(
                f"axis {axis} is '{symbol}', which another input has with other numbers",
                where=where,
                fix="give it the same everywhere",
            )


_Numbers: TypeAlias = "list[tuple[int, int, int] | None]"


def _fill(
    spec: InputSpec,
    known: Mapping[str, tuple[int, int, int]],
    batch: tuple[int, int, int] | None,
) -> _Numbers:
    """The three sizes of each axis; None where nothing says them."""
    numbers: _Numbers = []
    for axis, (size, symbol) in enumerate(zip(spec.dims, spec.symbols, strict=True)):
        if size != -1:
            numbers.append((size, size, size))
        elif symbol is not None and symbol in known:
            numbers.append(known[symbol])
        else:
            numbers.append(batch if axis == 0 else None)
    return numbers


def _range(numbers: _Numbers) -> ShapeRange:
    least, best, greatest = zip(*(three for three in numbers if three is not None), strict=True)
    return least, best, greatest


def _require_filled(
    spec: InputSpec,
    numbers: _Numbers,
    missing: Sequence[InputSpec],
    known: Mapping[str, tuple[int, int, int]],
) -> None:
    """Raises GraphoptError with the option to add, for all inputs in `missing`, if one is open."""
    if None not in numbers:
        return
    axis = numbers.index(None)
    open_shape = "x".join(
        str(symbol or "?") if size == -1 else str(size)
        for size, symbol in zip(spec.dims, spec.symbols, strict=True)
    )
    option = ";".join(f"{each.name}:{_suggestion(each, known)}" for each in missing)
    only_batches = all(None not in _fill(each, known, DEFAULT_BATCH) for each in missing)
    names = "" if only_batches else ", with numbers for the names in it"
    raise GraphoptError(
        f"axis {axis} of input '{spec.name}' ({open_shape}) is dynamic, its size unknown",
        fix=f'give its least, optimal and greatest shape with --shapes "{option}"{names}',
    )


def _suggestion(spec: InputSpec, known: Mapping[str, tuple[int, int, int]]) -> str:
    """The three shapes to give, with the names of the sizes that are still to be filled in."""
    shapes = []
    for which, batch in enumerate(DEFAULT_BATCH):
        sizes = []
        for axis, (size, symbol) in enumerate(zip(spec.dims, spec.symbols, strict=True)):
            if size != -1:
                sizes.append(str(size))
            elif symbol is not None and symbol in known:
                sizes.append(str(known[symbol][which]))
            else:
                sizes.append(str(batch) if axis == 0 else symbol or "?")
        shapes.append("x".join(sizes))
    return ",".join(shapes)
