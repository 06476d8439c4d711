"""How long a Range is."""

from __future__ import annotations

import onnx
import pytest

from graphopt.ir import load
from graphopt.ir.facts import Facts


@pytest.mark.parametrize(
    ("ends", "length"),
    [
        ("zero, n, one", "n"),
        ("two, five, one", 3),
        ("five, two, one", 0),
        ("two, n, one", None),  # n may be less
        ("zero, n, two", None),
    ],
)
def test_range(ends: str, length: str | int | None) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[N] x) => (int64[M] r)
    <int64 zero = {{0}}, int64 one = {{1}}, int64 two = {{2}}, int64 five = {{5}},
    int64[1] a = {{0}}> {{
        s = Shape (x)
        n = Squeeze (s, a)
        r = Range ({ends})
    }}"""
    model = load(onnx.parser.parse_model(text))
    facts = Facts(model)
    dims, rows = facts.dims(model.graph.outputs[0]), facts.dims(model.graph.inputs[0])
    assert dims is not None
    assert rows is not None
    (found,) = dims
    if length is None:
        assert not isinstance(found, int)
        assert found != rows[0]
    else:
        assert found == (rows[0] if length == "n" else length)
