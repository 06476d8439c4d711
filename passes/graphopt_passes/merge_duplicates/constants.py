"""The keys of constants, coarse to fine: most need not be read to know that they differ."""

from __future__ import annotations

from collections.abc import Hashable

import onnx_ir as ir

from graphopt.ir import constant_tensor
from graphopt.ir.structure import contents_key

_HEAD, _TAIL = 48, 16


def constant_key(tensor: ir.TensorProtocol) -> Hashable:
    """Type and shape, which are known of external data too."""
    return (tensor.dtype, *tensor.shape.numpy())


def sample_key(value: ir.Value) -> Hashable:
    """The first and the last elements, to the bit."""
    tensor = _tensor(value)
    if tensor.size <= _HEAD + _TAIL:
        return contents_key(tensor)
    flat = tensor.numpy().reshape(-1)
    if tensor.dtype == ir.DataType.STRING:
        return (*flat[:_HEAD].tolist(), *flat[-_TAIL:].tolist())
    return flat[:_HEAD].tobytes() + flat[-_TAIL:].tobytes()


def whole_key(value: ir.Value) -> Hashable:
    """All of it."""
    tensor = _tensor(value)
    return None if tensor.size <= _HEAD + _TAIL else contents_key(tensor)


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    tensor = constant_tensor(value)
    if tensor is None:
        raise ValueError(f"value '{value.name}' is not constant")
    return tensor
