"""The keys of constants, coarse to fine: most need not be read to know that they differ."""

from __future__ import annotations

from collections.abc import Hashable

import onnx_ir as ir

from graphopt.ir import constant_tensor
from graphopt.ir.query import dims_of
from graphopt.ir.structure import contents_key
from graphopt.ir.weights import ends_of

# Bytes: what two weights of one shape hardly ever share.
_HEAD, _TAIL = 192, 64


def constant_key(tensor: ir.TensorProtocol) -> Hashable:
    """Type and shape, which are known of external data too."""
    return (tensor.dtype, *dims_of(tensor))


def sample_key(value: ir.Value) -> Hashable:
    """The first and the last bytes."""
    tensor = _tensor(value)
    if not _is_sampled(tensor):
        return contents_key(tensor)
    return ends_of(tensor, _HEAD, _TAIL)


def whole_key(value: ir.Value) -> Hashable:
    """All of it, unless the sample was that."""
    tensor = _tensor(value)
    return contents_key(tensor) if _is_sampled(tensor) else None


def _is_sampled(tensor: ir.TensorProtocol) -> bool:
    return tensor.dtype != ir.DataType.STRING and tensor.nbytes > _HEAD + _TAIL


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    tensor = constant_tensor(value)
    if tensor is None:
        raise ValueError(f"value '{value.name}' is not constant")
    return tensor
