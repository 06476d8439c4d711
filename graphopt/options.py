"""Options as text, `{key=value, key=value}`, read into the fields of a dataclass and written back.

options := "{" [key "=" value (("," | " ") key "=" value)*] "}"
value   := word | "quoted string" | "[" [value ("," value)*] "]"
"""

from __future__ import annotations

import json
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal, NoReturn, TypeVar, Union

from graphopt.errors import GraphoptError, did_you_mean

T = TypeVar("T")

MAX_DEPTH = 20
"""How deeply lists and repetitions may be nested."""

_SPACE = re.compile(r"\s*")
_WORD = re.compile(r"[^\s,{}()\[\]\"=]+")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


@dataclass(frozen=True)
class Raw:
    """A value as it was written: text or a list, and the column it starts at (from 1)."""

    value: str | tuple[Raw, ...]
    column: int
    quoted: bool = False


class Scanner:
    """Reads tokens from one line of text and says where it is."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0

    def fail(self, what: str, column: int | None = None, fix: str | None = None) -> NoReturn:
        column = self.position + 1 if column is None else column
        raise GraphoptError(what, where=f"column {column} of '{self.text}'", fix=fix)

    def peek(self) -> str:
        """The next character that is not a space, or '' at the end."""
        match = _SPACE.match(self.text, self.position)
        self.position = match.end() if match else self.position
        return self.text[self.position : self.position + 1]

    def accept(self, character: str) -> bool:
        if self.peek() != character:
            return False
        self.position += 1
        return True

    def expect(self, character: str, after: str) -> None:
        if not self.accept(character):
            found = f"found '{self.peek()}'" if self.peek() else "the text ends"
            self.fail(f"'{character}' expected after {after}, {found}")

    def word(self, what: str) -> tuple[str, int]:
        """The next word and its column."""
        self.peek()
        match = _WORD.match(self.text, self.position)
        if match is None:
            found = f"found '{self.peek()}'" if self.peek() else "the text ends"
            self.fail(f"{what} expected, {found}")
        column, self.position = self.position + 1, match.end()
        return match.group(), column


def scan_options(scanner: Scanner) -> dict[str, tuple[Raw, int]]:
    """Reads `{...}` if it comes next: for each key its value and the key's column."""
    found: dict[str, tuple[Raw, int]] = {}
    if not scanner.accept("{"):
        return found
    while not scanner.accept("}"):
        key, column = scanner.word("an option or '}'")
        if key in found:
            scanner.fail(f"option '{key}' is given twice", column)
        scanner.expect("=", f"option '{key}'")
        found[key] = (_scan_value(scanner, key), column)
        scanner.accept(",")
    return found


def _scan_value(scanner: Scanner, key: str, depth: int = 0) -> Raw:
    start = scanner.peek()
    column = scanner.position + 1
    if depth > MAX_DEPTH:
        scanner.fail("lists are nested too deeply")
    if start == "[":
        scanner.accept("[")
        items: list[Raw] = []
        while not scanner.accept("]"):
            items.append(_scan_value(scanner, key, depth + 1))
            scanner.accept(",")
        return Raw(tuple(items), column)
    if start == '"':
        match = _STRING.match(scanner.text, scanner.position)
        if match is None:
            scanner.fail("the quoted string does not end")
        scanner.position = match.end()
        try:
            return Raw(json.loads(match.group()), column, quoted=True)
        except json.JSONDecodeError:
            scanner.fail("the quoted string has an unknown escape", column)
    return Raw(scanner.word(f"a value for '{key}'")[0], column)


def build(cls: type[T], raw: Mapping[str, tuple[Raw, int]], scanner: Scanner, what: str) -> T:
    """An instance of the dataclass `cls` from scanned options, each checked against its field.

    Raises:
        GraphoptError: for an unknown option (with a did-you-mean), a value of the wrong type, an
            option that is missing, or a ValueError of the class's own `__post_init__`.
    """
    hints = option_types(cls, what) if raw else {}
    known = {f.name: f for f in fields(cls) if f.init}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, (value, column) in raw.items():
        if key not in known:
            hint = did_you_mean(key, list(known)) if known else "it has none"
            scanner.fail(f"{what} has no option '{key}'", column, hint)
        try:
            values[key] = _convert(value, hints[key])
        except ValueError as error:
            scanner.fail(f"option '{key}' of {what} {error}", value.column)
    for name, f in known.items():
        if name not in values and f.default is MISSING and f.default_factory is MISSING:
            scanner.fail(f"{what} needs option '{name}'", fix=f"write {{{name}=...}}")
    try:
        return cls(**values)
    except ValueError as error:
        raise GraphoptError(f"{what}: {error}") from None


def option_types(cls: type[Any], what: str) -> dict[str, Any]:
    """The types of the fields of `cls`, by name.

    Raises:
        GraphoptError: if an annotation names what its module does not hold when it runs.
    """
    try:
        return typing.get_type_hints(cls)
    except NameError as error:
        raise GraphoptError(
            f"the types of its options cannot be read ({error})",
            where=what,
            fix="import them outside of TYPE_CHECKING",
        ) from None


def _convert(raw: Raw, hint: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return _convert_union(raw, arguments)
    if origin is Literal:
        if raw.value in arguments:
            return raw.value
        names = [str(argument) for argument in arguments]
        raise ValueError(f"cannot be {_shown(raw)}: {did_you_mean(str(raw.value), names)}")
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        items = raw.value if isinstance(raw.value, tuple) else (raw,)
        return tuple(_convert(item, arguments[0]) for item in items)
    if isinstance(raw.value, tuple):
        raise ValueError("takes one value, not a list")
    reader = _READERS.get(hint)
    if reader is None:
        raise TypeError(f"an option cannot have the type {hint!r}")
    return reader(raw)


def _convert_union(raw: Raw, arguments: tuple[Any, ...]) -> Any:
    if type(None) in arguments and raw.value == "none" and not raw.quoted:
        return None
    reasons = []
    for argument in arguments:
        if argument is type(None):
            continue
        try:
            return _convert(raw, argument)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError(reasons[-1])


def _read_bool(raw: Raw) -> bool:
    if raw.value not in ("true", "false"):
        raise ValueError(f"takes true or false, not {_shown(raw)}")
    return raw.value == "true"


def _read_int(raw: Raw) -> int:
    try:
        return int(str(raw.value))
    except ValueError:
        raise ValueError(f"takes a whole number, not {_shown(raw)}") from None


def _read_float(raw: Raw) -> float:
    try:
        return float(str(raw.value))
    except ValueError:
        raise ValueError(f"takes a number, not {_shown(raw)}") from None


def _read_str(raw: Raw) -> str:
    return str(raw.value)


_READERS: dict[Any, Callable[[Raw], Any]] = {
    bool: _read_bool,
    int: _read_int,
    float: _read_float,
    str: _read_str,
}


def _shown(raw: Raw) -> str:
    return "a list" if isinstance(raw.value, tuple) else f"'{raw.value}'"


def format_options(values: Mapping[str, Any]) -> str:
    """`values` as text that `scan_options` and `build` read back to the same values."""
    if not values:
        return ""
    return "{" + ",".join(f"{key}={format_value(value)}" for key, value in values.items()) + "}"


def format_value(value: Any) -> str:
    """One value as text."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, tuple):
        return "[" + ",".join(format_value(item) for item in value) + "]"
    text = str(value)
    if _WORD.fullmatch(text) and text != "none":
        return text
    return json.dumps(text, ensure_ascii=False)
