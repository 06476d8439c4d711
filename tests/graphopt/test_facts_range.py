"""How long a Range is."""

from __future__ import annotations

import onnx
import pytest

from graphopt.ir import load
from graphopt.ir.facts import Facts


@pytest.mark.parametrize(
    ("ends", "length"),
    [
        ("zero, n, one", "input0[0]"),
        ("two, five, one", "3"),
        ("five, two, one", "0"),
        ("two, n, one", None),  # n may be less
        ("zero, n, two", None),
    ],
)
def test_range(ends: str, length: str | None) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[N] x) => (int64[M] r)
    <int64 zero = {{0}}, int64 one = {{1}}, int64 two = {{2}}, int64 five = {{5}},
    int64[1] a = {{0}}> {{
        s = Shape (x)
        n = Squeeze (s, a)
        r = Range ({ends})
    }}"""
    model = load(onnx.parser.parse_model(text))
    dims = Facts(model).dims(model.graph.outputs[0])
    assert dims is not None
    assert len(dims) == 1
    if length is not None:
        assert str(dims[0]) == length
    else:
        assert str(dims[0]) != "input0[0]"
