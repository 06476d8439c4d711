"""The protobuf wire format, as far as parts of a message are to be exchanged without parsing it.

A weight is most of a model's bytes, and protobuf holds it twice or thrice on the way. So on the way
in it is cut out before parsing, and on the way out it is put back after serializing; both change
the length of every message around it, which is what this module is for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, overload

# protobuf reads and writes no larger message.
LARGEST_MESSAGE_BYTES = 2**31 - 1

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5

_SIZES = {FIXED64: 8, FIXED32: 4}
_LONGEST_VARINT = 10


class UnusualWireError(Exception):
    """Truncated, a group, or not protobuf at all: whoever asks has it parsed the ordinary way."""


class Buffer(Protocol):
    """Bytes, or what reads like them."""

    @overload
    def __getitem__(self, index: int, /) -> int: ...
    @overload
    def __getitem__(self, index: slice, /) -> bytes: ...


class Field(NamedTuple):
    """One field of a message; positions count bytes from the start of the buffer."""

    number: int
    kind: int
    start: int
    """Of its tag."""
    body: int
    """Of its content, behind the tag and the length."""
    stop: int


@dataclass(frozen=True)
class Cut:
    """A field whose content, of whatever length it is, gives way to `size` bytes from elsewhere."""

    field: Field
    size: int


@dataclass(frozen=True)
class Around:
    """A field that is a message with cuts in it, in order."""

    field: Field
    inner: list[Cut | Around]


def varint_at(buffer: Buffer, position: int, stop: int) -> tuple[int, int]:
    """The number at `position` and where the next thing starts.

    Raises:
        UnusualWireError: if it does not end before `stop`, or is longer than any number.
    """
    value = shift = 0
    for index in range(position, min(stop, position + _LONGEST_VARINT)):
        byte = buffer[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, index + 1
        shift += 7
    raise UnusualWireError


def varint(value: int) -> bytes:
    """`value`, not negative, as protobuf writes it."""
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def fields(buffer: Buffer, start: int, stop: int) -> Iterator[Field]:
    """The fields of the message that is `buffer[start:stop]`, in order.

    Raises:
        UnusualWireError: at the first one that is not whole, or is a group.
    """
    position = start
    while position < stop:
        tag, body = buffer[position], position + 1
        if tag > 0x7F:
            tag, body = varint_at(buffer, position, stop)
        kind = tag & 7
        if kind == LENGTH_DELIMITED:
            length, body = varint_at(buffer, body, stop)
            end = body + length
        elif kind == VARINT:
            _, end = varint_at(buffer, body, stop)
        elif kind in _SIZES:
            end = body + _SIZES[kind]
        else:
            raise UnusualWireError
        if end > stop or tag < 8:
            raise UnusualWireError
        yield Field(tag >> 3, kind, position, body, end)
        position = end


def cuts_at(
    buffer: Buffer, start: int, stop: int, marks: Sequence[tuple[int, int]]
) -> list[Cut | Around]:
    """Where in the message `buffer[start:stop]` the fields are whose content starts at a mark.

    Args:
        marks: pairs of such a position and of the size of what is to come there, in order.
    """
    found: list[Cut | Around] = []
    positions = [position for position, _ in marks]
    done = 0
    for here in fields(buffer, start, stop):
        if done == len(marks):
            break
        upto = bisect_left(positions, here.stop, done)
        if upto == done:
            continue
        if positions[done] == here.body:
            found.append(Cut(here, marks[done][1]))
        else:
            inner = cuts_at(buffer, here.body, here.stop, marks[done:upto])
            found.append(Around(here, inner))
        done = upto
    return found


def spliced(
    buffer: Buffer, start: int, stop: int, inner: Sequence[Cut | Around]
) -> tuple[list[bytes | None], int]:
    """The message `buffer[start:stop]` with new content at the cuts.

    Returns:
        Its parts in order, None for each cut, whose content the caller has; and its size in bytes.
    """
    parts: list[bytes | None] = []
    size = position = 0
    for change in inner:
        here = change.field
        _, length_at = varint_at(buffer, here.start, here.body)
        if isinstance(change, Cut):
            content: list[bytes | None] = [None]
            length = change.size
        else:
            content, length = spliced(buffer, here.body, here.stop, change.inner)
        ahead = buffer[start + position : length_at] + varint(length)
        parts += [ahead, *content]
        size += len(ahead) + length
        position = here.stop - start
    rest = buffer[start + position : stop]
    parts.append(rest)
    return parts, size + len(rest)
