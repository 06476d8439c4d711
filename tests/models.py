"""Small models in ONNX text, for tests that need any model at all."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

MLP = """
<ir_version: 9, opset_import: ["" : 17]>
mlp (float[batch, 4] x) => (float[batch, 2] y)
<float[4, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, float[3] b = {0.5, -0.5, 0.25},
 float[3, 2] v = {1, -1, 2, -2, 3, -3}>
{
    h = Gemm (x, w, b)
    r = Relu (h)
    y = MatMul (r, v)
}
"""


def proto(text: str) -> onnx.ModelProto:
    """A checked model from ONNX text."""
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model)
    return model


def model(text: str = MLP) -> ir.Model:
    """The same, as the IR."""
    return ir.from_proto(proto(text))


def serialized(of: ir.Model) -> bytes:
    return ir.to_proto(of).SerializeToString(deterministic=True)


def big_model(parameters: int = 1000, seed: int = 0) -> ir.Model:
    """`y = x @ w` with a weight of `parameters` rows and 4 columns, for storage tests."""
    weight = np.random.default_rng(seed).standard_normal((parameters, 4)).astype(np.float32)
    text = (
        '<ir_version: 9, opset_import: ["" : 17]> '
        f"g (float[batch, {parameters}] x) => (float[batch, 4] y) {{ y = MatMul (x, w) }}"
    )
    result = onnx.parser.parse_model(text)
    result.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return ir.from_proto(result)
