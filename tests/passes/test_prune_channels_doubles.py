"""The evaluation in float64 by which prune-channels checks a cut where rounding hides it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphopt.runtime.session import Session
from graphopt_passes.prune_channels.doubles import run_in_double

RANDOM = np.random.default_rng(11)


def net(body: str, opset: int = 17, **weights: np.ndarray) -> ir.Model:
    header = f'<ir_version: 8, opset_import: ["" : {opset}]>'
    source = f"{header} g (float[n, 4, 3, 5] x) => (float[n, 4, 3, 5] y) {{ {body} }}"
    proto = onnx.parser.parse_model(source)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, k) for k, a in weights.items())
    return ir.from_proto(proto)


def image() -> dict[str, np.ndarray]:
    return {"x": 3 + RANDOM.standard_normal((2, 4, 3, 5)).astype(np.float32)}


NORM = {name: RANDOM.uniform(0.5, 2, 4).astype(np.float32) for name in ("s", "b", "m", "v")}


@pytest.mark.parametrize("opset", [7, 8, 9, 13, 14, 15, 17])
def test_batch_normalization_is_that_of_inference(opset: int) -> None:
    """Against ONNX Runtime, which for any opset takes the mean and variance that are given."""
    model = net("y = BatchNormalization <epsilon = 0.01> (x, s, b, m, v)", opset, **NORM)
    feed = image()
    np.testing.assert_allclose(
        run_in_double(model, ["y"], feed)["y"], Session(model).run(feed)["y"], rtol=1e-5, atol=1e-5
    )


def test_batch_normalization_in_training_is_not_evaluated() -> None:
    model = net(
        "y, rm, rv = BatchNormalization <training_mode = 1> (x, s, b, m, v)", opset=15, **NORM
    )
    with pytest.raises(RuntimeError, match="in training"):
        run_in_double(model, ["y"], image())


def test_rounded_means_that_each_node_gives_float32() -> None:
    """Adding 1e8 and taking it off again loses what a float32 cannot hold next to it."""
    model = net("a = Add (x, c)  y = Sub (a, c)", c=np.array(1e8, np.float32))
    feed = image()
    exact = run_in_double(model, ["y"], feed)["y"]
    rounded = run_in_double(model, ["y"], feed, rounded=True)["y"]
    np.testing.assert_allclose(exact, feed["x"], atol=1e-7)
    np.testing.assert_array_equal(rounded, Session(model).run(feed)["y"])
    assert set(rounded.ravel()) <= {0.0, 8.0}
