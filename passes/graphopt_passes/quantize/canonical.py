"""The form of a model ahead of quantizing, and what is done for its floats behind it."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir import default_opset, is_standard
from graphopt.pipeline.base import PassContext
from graphopt.pipeline.runner import run
from graphopt.pipeline.text import parse
from graphopt.quantization import get_format
from graphopt.targets.quantization import Numbers, QuantizationRules
from graphopt_passes.set_opset.conversion import set_opset

PIPELINE = "lossless"
"""Folds what is constant and fuses BatchNormalization: a scale then fits what is computed."""
FINISH = "keep-blocked"


def canonicalize(model: ir.Model, context: PassContext) -> tuple[ir.Model, tuple[str, ...]]:
    """`model` simplified and fused, as another model, and notes on what was done."""
    result = run(parse(PIPELINE), model, context, any_order=True)
    if not result.modified:
        return model, ()
    before, after = result.steps[0].nodes_before, result.steps[-1].nodes_after
    return result.model, (f"simplified and fused it first: {before} -> {after} nodes",)


def with_gelu(
    model: ir.Model, rules: QuantizationRules, context: PassContext
) -> tuple[ir.Model, tuple[str, ...]]:
    """`model` with Gelu in place of what spells it out behind a Conv, as another model, and notes.

    The Conv gives integers, of which the runtime makes floats for each reader by itself, and so
    does not see any more that they read the same.
    """
    if default_opset(model) >= rules.gelu_opset or not any(map(_is_behind_conv, model.graph)):
        return model, ()
    try:
        raised, _ = lifted(model, context, rules.gelu_opset)
    except GraphoptError as error:
        return model, (f"Gelu stays spelled out, which is slower in integers: {error}",)
    fused, _ = canonicalize(raised, context)
    count = _gelus(fused) - _gelus(model)
    if not count:  # what looked like it is something else
        return model, ()
    return fused, (f"{count} x Gelu in one operator, of opset {default_opset(fused)}",)


def _gelus(model: ir.Model) -> int:
    return sum(is_standard(node, "Gelu") for node in model.graph)


def _is_behind_conv(erf: ir.Node) -> bool:
    """Whether it is an Erf of what a Conv makes, scaled."""
    if not is_standard(erf, "Erf"):
        return False
    scaling = erf.inputs[0].producer() if erf.inputs[0] is not None else None
    sources = [] if scaling is None else [v.producer() for v in scaling.inputs if v is not None]
    return any(is_standard(node, "Conv") for node in sources if node is not None)


def finish(model: ir.Model, context: PassContext) -> tuple[ir.Model, tuple[str, ...]]:
    """`model` with what is float made fast, as another model, where the target has a way."""
    if not context.target.blocked_channels:
        return model, ()
    result = run(parse(FINISH), model, context, any_order=True)
    if not result.modified:
        return model, ()
    counts = result.steps[0].rewrites
    told = ", ".join(f"{count} x {name}" for name, count in sorted(counts.items()))
    return result.model, (f"{FINISH}, for what is float: {told}", *result.steps[0].notes)


def needed_opset(model: ir.Model, numbers: Numbers) -> int:
    """The opset that the pairs need: by their formats, and by the float type of the model."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    half = any(tensor is not None and tensor.dtype == ir.DataType.FLOAT16 for tensor in tensors)
    scale = ir.DataType.FLOAT16 if half else ir.DataType.FLOAT
    data, weight = get_format(numbers.data), get_format(numbers.weight)
    return max(data.opset_for(scale), weight.opset_for(scale, axis=True))


def lifted(model: ir.Model, context: PassContext, new: int) -> tuple[ir.Model, tuple[str, ...]]:
    """`model` with opset `new`, as another model if its own is older, and notes.

    Raises:
        GraphoptError: if a node cannot be converted; it names the operator.
    """
    old = default_opset(model)
    if old >= new:
        return model, ()
    model = model.clone()
    set_opset(model, context, new)
    context.analyses.changed(keeps_facts=False)
    return model, (f"raised the opset from {old} to {new}, for its QuantizeLinear",)
