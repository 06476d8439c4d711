"""Leaving weights out of a file: any file gives what the ordinary parse gives, or its error."""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import big_model, serialized

import graphopt
from graphopt.ir import loading
from graphopt.ir.leaving_out import without_weights
from graphopt.ir.weights import WeightFile
from graphopt.ir.wire import (
    Around,
    Cut,
    UnusualWireError,
    cuts_at,
    fields,
    spliced,
    varint,
    varint_at,
)


def model_bytes() -> bytes:
    """A model with a large initializer, a small one, a large Constant and a body."""
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]>
        g (float[2000] x, bool c) => (float[2000] y) {
            a = Add (x, w)
            b = Mul (a, k)
            s = Sub (b, v)
            y = If (c) <then_branch = t () => (float[2000] p) { p = Neg (s) },
                        else_branch = e () => (float[2000] q) { q = Abs (s) }>
        }"""
    )
    array = np.arange(2000, dtype=np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(array, "w"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(array[:1], "v"))
    value = onnx.numpy_helper.from_array(array, "k")
    proto.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["k"], value=value))
    return bytes(proto.SerializeToString())


WHOLE = model_bytes()


def outcome(path: Path) -> bytes | str:
    """The loaded model, serialized, or the error."""
    try:
        return serialized(graphopt.load(path))
    except graphopt.GraphoptError as error:
        return str(error)
    except ir.serde.SerdeError:
        return "onnx_ir cannot serialize it"


def same_as_plain(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        path.write_bytes(content)
        got = outcome(path)
        with patch.object(loading, "without_weights", lambda file: None):
            assert got == outcome(path)


def skeleton_bytes(content: bytes) -> int | None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        path.write_bytes(content)
        skeleton = without_weights(WeightFile(path))
    return None if skeleton is None else len(skeleton.content)


def test_what_is_left_out() -> None:
    size = skeleton_bytes(WHOLE)
    assert size is not None
    assert size < len(WHOLE) - 2 * 8000 + 100
    same_as_plain(WHOLE)


@settings(max_examples=400)
@given(st.binary(max_size=30), st.sampled_from(range(len(WHOLE))), st.integers(0, 30))
def test_garbage_anywhere(garbage: bytes, at: int, over: int) -> None:
    same_as_plain(WHOLE[:at] + garbage + WHOLE[at + over :])


@settings(max_examples=600)
@given(st.integers(0, len(WHOLE) - 1).filter(lambda i: WHOLE[i : i + 4] != bytes(4)), st.data())
def test_one_byte_is_another(at: int, data: st.DataObject) -> None:
    byte = data.draw(st.integers(0, 255))
    same_as_plain(WHOLE[:at] + bytes([byte]) + WHOLE[at + 1 :])


def structural_positions() -> list[int]:
    """The bytes of tags and lengths, where a change means most."""
    found: list[int] = []

    def walk(start: int, stop: int, depth: int) -> None:
        for field in fields(WHOLE, start, stop):
            found.extend(range(field.start, field.body))
            if field.kind == 0:
                found.extend(range(field.body, field.stop))
            if (
                field.kind == 2
                and depth < 6
                and field.stop - field.body < 9000 + 20000 * (not depth)
            ):
                try:
                    walk(field.body, field.stop, depth + 1)
                except UnusualWireError:
                    continue

    walk(0, len(WHOLE), 0)
    return sorted(set(found))


@settings(max_examples=1500)
@given(st.sampled_from(structural_positions()), st.integers(0, 255))
def test_a_tag_or_a_length_is_another(at: int, byte: int) -> None:
    same_as_plain(WHOLE[:at] + bytes([byte]) + WHOLE[at + 1 :])


@pytest.mark.parametrize("kept", range(0, len(WHOLE), 101))
def test_cut_short(kept: int) -> None:
    same_as_plain(WHOLE[:kept])


def test_what_is_unusual_but_allowed() -> None:
    proto = onnx.load_model_from_string(WHOLE)
    graph = proto.graph.SerializeToString()
    split = onnx.GraphProto(initializer=[proto.graph.initializer[0]]).SerializeToString()
    rest = onnx.ModelProto()
    rest.CopyFrom(proto)
    del rest.graph.initializer[0]
    tail = b"\x3a" + varint(len(split)) + split
    same_as_plain(rest.SerializeToString() + tail)  # a graph in two parts
    rest.ClearField("graph")
    overlong = bytes([b | 0x80 for b in varint(len(graph))]) + b"\x00"
    same_as_plain(rest.SerializeToString() + b"\x3a" + overlong + graph)
    same_as_plain(WHOLE + b"\xa3\x06\xa4\x06")  # an empty group of number 100
    same_as_plain(WHOLE + b"\xa2\x06\x03abc")  # an unknown field
    tensor = proto.graph.initializer[0]
    for name, value in (("data_location", 0), ("float_data", [1.0]), ("data_type", 2)):
        changed = onnx.load_model_from_string(WHOLE)
        if name == "float_data":
            changed.graph.initializer[0].float_data.extend(value)
        else:
            setattr(changed.graph.initializer[0], name, value)
        same_as_plain(changed.SerializeToString())
    packed = onnx.load_model_from_string(WHOLE)
    packed.graph.initializer[0].dims[:] = [40, 50]
    same_as_plain(packed.SerializeToString())
    assert tensor.name == "w"


@given(st.integers(0, 2**63 - 1))
def test_varints_read_back(value: int) -> None:
    written = varint(value)
    assert varint_at(written, 0, len(written)) == (value, len(written))
    with pytest.raises(UnusualWireError):
        varint_at(written, 0, len(written) - 1)


@given(st.lists(st.integers(0, 40_000), min_size=1, max_size=4), st.integers(0, 300))
def test_lengths_around_what_is_put_in(sizes: list[int], around: int) -> None:
    """Sizes at which the lengths of the messages around take another number of bytes."""
    proto = onnx.GraphProto(name="n" * around)
    for number in range(len(sizes)):
        proto.initializer.add(name=str(number), raw_data=b"mark%04d" % number, doc_string="d")
    content = proto.SerializeToString()
    marks = [(content.find(b"mark%04d" % n), size) for n, size in enumerate(sizes)]
    found = cuts_at(content, 0, len(content), marks)
    assert all(isinstance(a, Around) and isinstance(a.inner[0], Cut) for a in found)
    parts, size = spliced(content, 0, len(content), found)
    data = iter([bytes([n]) * size for n, size in enumerate(sizes)])
    whole = b"".join(next(data) if part is None else part for part in parts)
    assert len(whole) == size
    for number, length in enumerate(sizes):
        proto.initializer[number].raw_data = bytes([number]) * length
    assert whole == proto.SerializeToString()


def test_a_model_without_large_weights_is_read_as_it_is() -> None:
    assert skeleton_bytes(serialized(big_model(5))) is None
