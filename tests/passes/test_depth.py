"""The work of a pass grows with the depth of a residual net, and no faster.

Work is counted in calls of functions, Python's and C's, so that it is the same on each machine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from quantize_nets import net

import graphopt
from graphopt.data.feeds import Feed

DEPTHS = 8, 16, 24
FEED: Feed = {"x": np.random.default_rng(1).standard_normal((16, 4, 8, 8)).astype(np.float32)}


def residual(blocks: int) -> ir.Model:
    """Two convolutions, with weights of their own, and a skip in each block."""
    body, weights = "s0 = Relu (x)", {}
    for i in range(1, blocks + 1):
        body += (
            f" c{i} = Conv <pads = [1,1,1,1]> (s{i - 1}, v{i}) r{i} = Relu (c{i})"
            f" d{i} = Conv <pads = [1,1,1,1]> (r{i}, w{i}) a{i} = Add (d{i}, s{i - 1})"
            f" s{i} = Relu (a{i})"
        )
        weights |= {f"v{i}": (4, 4, 3, 3), f"w{i}": (4, 4, 3, 3)}
    return net(f"{body} y = Conv (s{blocks}, u)", u=(3, 4, 1, 1), **weights)


def chain(blocks: int) -> ir.Model:
    """A convolution in two groups, one in one, and no skip in each block."""
    body, weights = "s0 = Relu (x)", {}
    for i in range(1, blocks + 1):
        body += f" c{i} = Conv <group = 2> (s{i - 1}, v{i})"
        body += f" d{i} = Conv (c{i}, w{i}) s{i} = Relu (d{i})"
        weights |= {f"v{i}": (4, 2, 1, 1), f"w{i}": (4, 4, 1, 1)}
    return net(f"{body} y = Conv (s{blocks}, u)", u=(3, 4, 1, 1), **weights)


def calls(function: Callable[[], object]) -> int:
    """How many functions are called by `function`."""
    count = 0

    def see(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize(
    ("make", "passes", "feed"),
    [
        (residual, "quantize{equalize=false}", FEED),
        (chain, "quantize{round_weights=false,equalize=false}", FEED),
        (residual, "equalize", None),
        (residual, "prune-channels{ratio=0.3}", FEED),
        (chain, "prune-channels{ratio=0.5}", FEED),
        (residual, "prune-channels{ratio=0.5,score=taylor,compensate=none}", FEED),
    ],
)
def test_the_work_grows_with_the_depth(
    make: Callable[[int], ir.Model], passes: str, feed: Feed | None
) -> None:
    def work(blocks: int) -> int:
        model = make(blocks)
        return calls(
            lambda: graphopt.optimize(model, passes, calibration=feed, target="sm86", verify="off")
        )

    work(1)  # what is imported and made once
    few, some, many = map(work, DEPTHS)
    assert many - some < 1.05 * (some - few)
