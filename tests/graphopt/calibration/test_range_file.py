"""Ranges in a file: saved, read back, edited by hand, refused for another model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import model as parse
from observed import NET

from graphopt.calibration import Range
from graphopt.calibration.fingerprint import fingerprint
from graphopt.calibration.range_file import TensorRange, load_ranges, save_ranges
from graphopt.errors import GraphoptError
from graphopt.ir import load, save

RANGES = {"a": TensorRange(Range(-1.5, 2.25), "mse", 200), "b": TensorRange(Range(0, 0))}

finite = st.floats(allow_nan=False, allow_infinity=False)


def saved(path: Path, change: dict[str, Any] | None = None, **entry: Any) -> Path:
    """A file of ranges in which `change` is made at the top, and `entry` in the range of a."""
    file = path / "ranges.json"
    save_ranges(file, parse(NET), RANGES)
    content = json.loads(file.read_text()) | (change or {})
    if isinstance(content["tensors"], dict):
        content["tensors"]["a"] |= entry
    file.write_text(json.dumps(content))
    return file


@given(st.dictionaries(st.sampled_from("abcxy"), st.tuples(finite, finite, st.integers(0))))
def test_what_is_saved_is_read_back_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, entries: dict[str, tuple[float, float, int]]
) -> None:
    ranges = {
        name: TensorRange(Range(*sorted((a, b))), "entropy", count)
        for name, (a, b, count) in entries.items()
    }
    file = tmp_path_factory.getbasetemp() / "ranges.json"
    save_ranges(file, parse(NET), ranges)
    assert load_ranges(file, parse(NET)) == ranges


def test_the_file_is_for_people_and_the_same_each_time(tmp_path: Path) -> None:
    file = tmp_path / "ranges.json"
    save_ranges(file, parse(NET), RANGES)
    text = file.read_text()
    assert '\n    "a": {"low": -1.5, "high": 2.25, "method": "mse", "count": 200},\n' in text
    assert '\n    "b": {"low": 0, "high": 0, "method": "by hand"}\n' in text
    save_ranges(file, parse(NET), RANGES)
    assert file.read_text() == text
    save_ranges(file, parse(NET), {})
    assert load_ranges(file, parse(NET)) == {}


def test_edited_values_count(tmp_path: Path) -> None:
    file = saved(tmp_path, low=-3, high=7)
    assert load_ranges(file, parse(NET))["a"].range == Range(-3, 7)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"low": 3.0}, "'a': low is 3.0, above high, 2.25"),
        ({"low": float("nan")}, "'a': a range must be finite"),
        ({"high": float("inf")}, "'a': a range must be finite"),
        ({"high": 10**400}, "'a': "),
        ({"high": "2"}, "'a': 'high' is '2', not a number"),
        ({"low": None}, "'a': 'low' is None, not a number"),
        ({"low": True}, "'a': 'low' is True, not a number"),
        ({"hihg": 3.0}, "'a': unknown key 'hihg'; did you mean 'high'"),
        ({"count": -1}, "'a': 'count' is -1, not a number of values"),
        ({"method": 3}, "'a': 'method' is 3, not a text"),
    ],
)
def test_bad_values_are_refused_by_name(
    tmp_path: Path, entry: dict[str, Any], message: str
) -> None:
    file = saved(tmp_path, **entry)
    with pytest.raises(GraphoptError) as error:
        load_ranges(file, parse(NET))
    assert str(error.value).startswith(f"{file}: {message}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "ranges"}, "is not a file of ranges"),
        ({"tensors": []}, "is not a file of ranges"),
        ({"tensors": {"a": 3}}, "is not an object such as"),
        ({"version": 2}, "is of version 2, and this graphopt reads version 1"),
        ({"model": "0" * 64}, "holds the ranges of another model"),
        ({"modle": ""}, "unknown key 'modle'; did you mean 'model'"),
        ({"tensors": {"aa": {"low": 0, "high": 1}}}, "there is no tensor 'aa' in the main graph"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    file = tmp_path / "ranges.json"
    save_ranges(file, parse(NET), RANGES)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(GraphoptError, match=message):
        load_ranges(file, parse(NET))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "is not a file of ranges"),
        (b"{}", "is not a file of ranges"),
        (b'{"tensors": {}, "tensors": {}}', "'tensors' comes twice"),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "ranges.json"
    file.write_bytes(content)
    with pytest.raises(GraphoptError, match=message):
        load_ranges(file, parse(NET))


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(GraphoptError, match=r"none\.json: cannot be read"):
        load_ranges(tmp_path / "none.json", parse(NET))
    with pytest.raises(GraphoptError, match="cannot be read"):
        load_ranges(tmp_path, parse(NET))
    with pytest.raises(GraphoptError, match="the output folder does not exist"):
        save_ranges(tmp_path / "no" / "r.json", parse(NET), RANGES)


def test_a_file_without_a_model_needs_only_the_names(tmp_path: Path) -> None:
    file = tmp_path / "ranges.json"
    file.write_text(
        '{"format": "graphopt ranges", "version": 1, "tensors": {"y": {"low": 0, "high": 6}}}'
    )
    assert load_ranges(file, parse(NET)) == {"y": TensorRange(Range(0, 6), "by hand", None)}


def test_tensors_that_are_needed(tmp_path: Path) -> None:
    file = saved(tmp_path)
    assert list(load_ranges(file, parse(NET), needed=["b"])) == ["a", "b"]
    with pytest.raises(GraphoptError, match="holds no range for the tensor 'c'"):
        load_ranges(file, parse(NET), needed=["a", "c"])


OTHERS = {
    "weight": NET.replace("{2}", "{2.5}"),
    "operator": NET.replace("Neg", "Abs"),
    "tensor": NET.replace("b = ", "bb = ").replace("(b)", "(bb)"),
    "order of inputs": NET.replace("Add (c, x)", "Add (x, c)"),
    "attribute": NET.replace("Relu (a)", "Clip (a)"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_model_has_another_fingerprint(what: str, tmp_path: Path) -> None:
    file = saved(tmp_path)
    with pytest.raises(GraphoptError, match="holds the ranges of another model"):
        load_ranges(file, parse(OTHERS[what]))


def test_what_only_describes_a_model_does_not_change_its_fingerprint(tmp_path: Path) -> None:
    model = parse(NET)
    expected = fingerprint(model)
    model.doc_string, model.producer_name = "text", "somebody"
    model.graph.node(0).name = "renamed"
    model.graph.inputs[0].shape = ir.Shape(["N", 4])
    assert fingerprint(model) == expected
    for external in (False, True):
        save(model, tmp_path / "m.onnx", external_data=external)
        assert fingerprint(load(tmp_path / "m.onnx")) == expected


BRANCHES = """
<ir_version: 9, opset_import: ["" : 17]>
g (bool c, float[2] x) => (float[2] y)
{
    y = If (c) <
        then_branch = t () => (float[2] a) <float[1] k = {1}> { a = Mul (x, k) },
        else_branch = e () => (float[2] b) { z = Constant <value = float[1] {2}> () b = Add (x, z) }
    >
}
"""


@pytest.mark.parametrize("change", [("k = {1}", "k = {3}"), ("{2}", "{3}"), ("Add", "Sub")])
def test_branches_count(change: tuple[str, str]) -> None:
    assert BRANCHES.count(change[0]) == 1
    assert fingerprint(parse(BRANCHES)) == fingerprint(parse(BRANCHES))
    assert fingerprint(parse(BRANCHES)) != fingerprint(parse(BRANCHES.replace(*change)))
