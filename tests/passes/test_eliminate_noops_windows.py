"""eliminate-noops: poolings and resizings that do nothing."""

from __future__ import annotations

import numpy as np
import pytest
from noops import F32, eliminate, goes, stays


@pytest.mark.parametrize("operator", ["AveragePool", "MaxPool"])
@pytest.mark.parametrize(
    ("attributes", "dims", "gone"),
    [
        ("kernel_shape = [1, 1]", "N, 1, 2, 5", True),
        ("kernel_shape = [1, 1], strides = [1, 1], pads = [0, 0, 0, 0]", "N, 1, 2, 5", True),
        ("kernel_shape = [1, 1], strides = [1, 2]", "N, 1, 2, 5", False),
        ("kernel_shape = [2, 1]", "N, 1, 2, 5", False),
        ("kernel_shape = [1, 1]", "N, 1, H, W", False),
        ("kernel_shape = [1, 1]", "N, 10, 1, 1", False),
        ("kernel_shape = [1]", "1, 2, 5", False),
    ],
)
def test_pools(operator: str, attributes: str, dims: str, gone: bool) -> None:
    result = "A, B, C" if "[1]" in attributes else "A, B, C, D"
    outcome = eliminate(f"m = {operator} <{attributes}> (x)", dims=dims, result=result)
    shape = [int(d) if d.isdigit() else {"H": 2, "W": 5}.get(d, 1) for d in dims.split(", ")]
    assert (goes if gone else stays)(outcome, F32.reshape(shape))


RESIZES = [
    ("(x, , s)", "s", [1, 1, 1, 1], True),
    ("(x, , s)", "s", [1, 1, 1, 1.01], False),
    ("(x, , , n)", "n", [1, 1, 2, 5], True),
    ("(x, , , n)", "n", [1, 1, 4, 5], False),
]


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("place", ["half_pixel", "align_corners", "asymmetric"])
@pytest.mark.parametrize(("inputs", "name", "numbers", "gone"), RESIZES)
def test_resize(
    mode: str, place: str, inputs: str, name: str, numbers: list[float], gone: bool
) -> None:
    dtype = np.float32 if name == "s" else np.int64
    outcome = eliminate(
        f'm = Resize <mode = "{mode}", coordinate_transformation_mode = "{place}"> {inputs}',
        dims="1, 1, 2, 5",
        result="A, B, C, D",
        **{name: np.array(numbers, dtype)},
    )
    assert (goes if gone else stays)(outcome, F32.reshape(1, 1, 2, 5))


def test_resize_to_own_dynamic_size() -> None:
    sizes = {"dims": "N, C, H, W", "result": "A, B, E, F", "a": np.array([0, 1])}
    assert goes(eliminate("s = Shape (x) m = Resize (x, , , s)", **sizes), F32.reshape(1, 1, 2, 5))
    body = "s = Shape (x) m = Resize <axes = [1, 2]> (x, , , p) "
    parts = "s = Shape <start = 2> (x) m = Resize <axes = [2, -1]> (x, , , s)"
    assert goes(eliminate(parts, **sizes), F32.reshape(1, 1, 2, 5))
    body = "s = Shape <start = 2> (x) m = Resize <axes = [3, 2]> (x, , , s)"
    assert not eliminate(body, **sizes).result.modified


def test_resize_of_a_region_stays() -> None:
    outcome = eliminate(
        'm = Resize <coordinate_transformation_mode = "tf_crop_and_resize"> (x, r, s)',
        dims="1, 1, 2, 5",
        result="A, B, C, D",
        r=np.float32([0, 0, 0, 0, 1, 1, 0.5, 0.5]),
        s=np.ones(4, np.float32),
    )
    assert not outcome.result.modified


@pytest.mark.parametrize(
    ("body", "opset", "gone"),
    [
        ("Upsample <scales = [1.0, 1.0, 1.0, 1.0]> (x)", 7, True),
        ("Upsample <scales = [1.0, 1.0, 2.0, 2.0]> (x)", 7, False),
        ("Upsample (x, s)", 9, True),
        ("Resize (x, s)", 10, True),
        ("Resize (x, e, s)", 11, True),
        ("Resize (x, e, e, n)", 11, True),
    ],
)
def test_older_resizes(body: str, opset: int, gone: bool) -> None:
    outcome = eliminate(
        f"m = {body}",
        opset=opset,
        dims="1, 1, 2, 5",
        result="A, B, C, D",
        s=np.ones(4, np.float32),
        e=np.zeros(0, np.float32),
        n=np.array([1, 1, 2, 5]),
    )
    assert (goes if gone else stays)(outcome, F32.reshape(1, 1, 2, 5))
