"""`tools/bench_prune.py`: what it measures of a small model, and what it makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from prune_child import bench
from prune_report import is_exact, markdown


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """4 -> 8 -> 6 -> 2 features of tokens; batch and length are free."""
    random = np.random.default_rng(0)
    shapes = ((4, 8), (8, 6), (6, 2))
    weights = [
        numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), f"w{number}")
        for number, shape in enumerate(shapes)
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w1"], ["c"], "second"),
        helper.make_node("Softmax", ["c"], ["d"], "shares"),
        helper.make_node("MatMul", ["d", "w2"], ["y"], "third"),
    ]
    free = ["batch", "length"]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [*free, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [*free, 2])],
        weights,
    )
    path = tmp_path / "tokens.onnx"
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(proto, path)
    return path


def test_coverage_and_exactness(model: Path) -> None:
    row = json.loads(json.dumps(bench(str(model), [0.25, 0.5])))
    assert is_exact(row)
    assert row["macs"] == 24 * (32 + 48 + 12)
    assert row["parameters"] == 32 + 48 + 12
    assert row["cuts"]["0.25"]["macs"] == 24 * (24 + 36 + 12)
    assert row["cuts"]["0.5"]["parameters"] == 16 + 24 + 12
    assert row["cuts"]["0.5"]["fp64"] <= 1e-12
    others = row["cuts"]["0.5"]["other_sizes"]
    assert len(others) == 2
    assert max(size["fp64"] for size in others) <= 1e-12
    assert {kept["reason"]: kept["channels"] for kept in row["kept"]} == {
        "graph input 'x'": 4,
        "Softmax 'shares'": 12,
        "graph output 'y'": 2,
    }


def test_the_page_says_what_is_not_exact(model: Path) -> None:
    row = bench(str(model), [0.3, 0.5])
    wrong = json.loads(json.dumps(row))
    wrong["cuts"]["0.3"]["fp64"] = 1e-7
    other = json.loads(json.dumps(row))
    other["cuts"]["0.5"]["other_sizes"][1]["fp32"] = 1e-2
    order = json.loads(json.dumps(other))
    order["cuts"]["0.5"]["other_sizes"][1]["rounded"] = 2e-7
    wide = json.loads(json.dumps(row))
    wide["cuts"]["0.3"]["other_sizes"][0]["fp64"] = 1e-8
    rows = {"good": row, "wrong": wrong, "other": other, "order": order, "wide": wide}
    rows["dead"] = {"failure": "timeout"}
    exact = [name for name, entry in rows.items() if is_exact(entry)]
    assert exact == ["good", "order"]
    peer = {"good": {"failure": "error: no"}, "none": {"failure": "x"}}
    page = markdown(rows, peer)
    assert "2 of 6 models are exact" in page
    assert "sums: order (1e-02; whatever the order 2e-07)." in page
    assert "| good | 5 | 1 | 22 / 22 | 43 / 43 | yes:" in page
    assert page.count("**no**") == 3
    assert "| dead | timeout |" in page
    assert "| good | fails | error: no |" in page
    assert "Softmax: 12" in page
