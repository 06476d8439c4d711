"""What `cast-precision` does, step by step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from graphopt.data.feeds import Samples
from graphopt.errors import GraphoptError
from graphopt.ir import constant_tensor, default_opset, is_standard, measure, named_nodes
from graphopt.pipeline.base import PassContext, PassResult
from graphopt.runtime.session import Session
from graphopt.targets import Target
from graphopt_passes.cast_precision import telling
from graphopt_passes.cast_precision.decide import Decider, Decision
from graphopt_passes.cast_precision.low import LOW_TYPES, LowType
from graphopt_passes.cast_precision.ranges import measure_ranges
from graphopt_passes.cast_precision.refit import Fit
from graphopt_passes.cast_precision.rewrite import Writer
from graphopt_passes.cast_precision.signature import Signatures
from graphopt_passes.cast_precision.simulate import Fidelity, Simulator
from graphopt_passes.set_opset.conversion import set_opset

if TYPE_CHECKING:
    from graphopt_passes.cast_precision import CastPrecision

WHERE = "pass 'cast-precision'"
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear")
_LOW_SCALES_OPSET = 19
"""The first opset in which a scale may be of 16 bits."""
_QUANTIZED_GOAL = 30.0
"""What goes into an integer beside a rounding boundary may come out as the next one."""


def run(options: CastPrecision, model: ir.Model, context: PassContext) -> PassResult:
    """Runs the pass; see `CastPrecision`."""
    low = LOW_TYPES[options.to]
    _require(low, context.target)
    named_nodes(model, options.keep, where=WHERE, option="keep")
    before = measure(model).weight_bytes
    if not _has_floats(Signatures(model, context.analyses.facts(model), low)):
        return PassResult(model, modified=False, notes=("there is no fp32 to cast",))
    old = default_opset(model)
    notes = [
        *_raise_opset(model, context, low),
        *_on_samples(context.calibration),
        *_on_target(low, context.target),
    ]
    goal = _goal(options, model, low)
    decision, fidelity, fit = _decide(options, model, context, low, goal)
    rows = telling.left_rows(decision)
    costs = measure(model, facts=context.analyses.facts(model)).per_node
    share = telling.fp32_share(decision, dict(zip(model.graph, costs, strict=True)))
    fit.apply(model, decision)
    writer = Writer(model, decision, low_io=options.io == "low")
    writer.write()
    after = measure(model).weight_bytes
    counts = telling.rewrites(decision, writer.counts, fit)
    details: dict[str, Any] = {
        "type": low.name,
        "weight_bytes_before": before,
        "weight_bytes_after": after,
        "goal_db": goal,
        "sqnr_db": None if fidelity is None else fidelity.rounded,
        "float": rows,
        "float_macs_share": share,
        "fit": telling.fit_row(fit, decision),
    }
    notes += telling.summary(counts, low, before, after, fidelity)
    notes += telling.notes_on_fit(fit, decision)
    notes += telling.notes_on(rows, share)
    missed = fidelity is not None and not (fidelity.finite and fidelity.sqnr_db >= goal)
    unmet = telling.shortfall(fidelity, goal, low) if fidelity is not None and missed else None
    if unmet is not None and options.min_sqnr is None:
        notes.append(unmet)
        unmet = None
    modified = bool(counts) or default_opset(model) != old
    return PassResult(model, modified, counts, tuple(notes), details, unmet=unmet)


def _require(low: LowType, target: Target) -> None:
    """Raises GraphoptError if the GPU of `target` does not compute in `low`."""
    refusal = target.why_not(low.name) if target.family == "tensorrt" else None
    if refusal is not None:
        raise GraphoptError(refusal, where=WHERE, fix=f"it computes in {target.precisions_text()}")


def _has_floats(signatures: Signatures) -> bool:
    return any(
        signatures.floats(node)
        for node in signatures.nodes
        if not is_standard(node, "Cast", "Constant")
    )


def _raise_opset(model: ir.Model, context: PassContext, low: LowType) -> list[str]:
    """Raises the opset to where operators, and scales, may be low; notes on that."""
    quantized = any(is_standard(node, *_QUANTIZED) for node in model.graph)
    wanted = max(low.opset, _LOW_SCALES_OPSET if quantized else 0)
    old = default_opset(model)
    if old >= wanted:
        return []
    try:
        set_opset(model, context, wanted)
    except GraphoptError as error:
        return [f"left at opset {old}, where less can be {low.name}: {error}"]
    context.analyses.changed(keeps_facts=False)
    what = "scales" if quantized and low.opset <= old else "operators"
    return [f"raised the opset from {old} to {wanted}, where {what} may be {low.name}"]


def _on_samples(samples: Samples | None) -> list[str]:
    if samples is None:
        return ["no samples: what overflows is told from the structure alone (--calib measures)"]
    return [f"the ranges come from {samples.description}"] if samples.is_random else []


def _on_target(low: LowType, target: Target) -> list[str]:
    """That a CPU takes the model, but gains nothing but its size; a GPU that cannot is an error."""
    refusal = target.why_not(low.name) if target.family == "onnxruntime-cpu" else None
    return [] if refusal is None else [f"{refusal}: a smaller file, which takes no less time there"]


def _decide(
    options: CastPrecision, model: ir.Model, context: PassContext, low: LowType, goal: float
) -> tuple[Decision, Fidelity | None, Fit]:
    """Which nodes become low, what that costs (None if it is not measured), and better weights."""
    facts = context.analyses.facts(model)
    signatures = Signatures(model, facts, low)
    kept = named_nodes(model, options.keep, where=WHERE, option="keep")
    runs = context.calibration is not None and _runs(model)
    measured = measure_ranges(model, signatures, low, context, options.samples) if runs else {}
    decision = Decider(signatures, facts, low, measured, options.headroom, kept).decide()
    if not runs:
        return decision, None, Fit()
    simulator = Simulator(model, context, options.samples)
    demanded, quantized = options.min_sqnr is not None, _is_quantized(model)
    refit_below = goal if quantized else max(goal, low.goals[0])
    decision, fidelity = simulator.reach(
        decision,
        # Unless it is asked for, nothing in fp32 comes between pairs, which might not fuse then.
        -math.inf if quantized and not demanded else goal,
        refit_below=refit_below if options.fit_weights else -math.inf,
        demanded=demanded,
    )
    return decision, fidelity, simulator.fit


def _runs(model: ir.Model) -> bool:
    """Whether ONNX Runtime knows all operators of `model`."""
    try:
        Session(model)
    except GraphoptError:
        return False
    return True


def _goal(options: CastPrecision, model: ir.Model, low: LowType) -> float:
    if options.min_sqnr is not None:
        return options.min_sqnr
    if _is_quantized(model):
        return _QUANTIZED_GOAL
    return low.goals[any(map(_multiplies_data, model.graph))]


def _is_quantized(model: ir.Model) -> bool:
    return any(is_standard(node, "QuantizeLinear") for node in model.graph)


def _multiplies_data(node: ir.Node) -> bool:
    """Whether `node` is of an attention or a gate: a product, to which both factors bring errors,
    and those of a Softmax are those of its inputs times their size."""
    if is_standard(node, "Mul", "MatMul", "Einsum"):
        return sum(v is not None and constant_tensor(v) is None for v in node.inputs) > 1
    return is_standard(node, "Softmax", "Attention", "LSTM", "GRU")
