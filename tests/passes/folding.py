"""What the pages of tests on fold-constants share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper
from rewriting import Outcome, apply

from graphopt_passes.fold_constants import FoldConstants

HEAD = '<ir_version: 9, opset_import: ["" : 17]>'


def fold(text: str, edit: Callable[[onnx.ModelProto], object] | None = None) -> Outcome:
    return apply(FoldConstants(), text, edit)


def overridable(name: str, array: np.ndarray) -> Callable[[onnx.ModelProto], None]:
    """An edit that adds an input with a default value."""

    def edit(model: onnx.ModelProto) -> None:
        tensor = onnx.numpy_helper.from_array(array, name)
        model.graph.initializer.append(tensor)
        model.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, array.shape))

    return edit
