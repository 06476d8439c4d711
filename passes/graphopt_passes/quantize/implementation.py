"""What `quantize` does, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.pipeline.base import PassContext, PassResult
from graphopt.targets.quantization import QuantizationRules, quantization_rules
from graphopt_passes.equalize.implementation import equalize, summary
from graphopt_passes.quantize import telling
from graphopt_passes.quantize.canonical import canonicalize, finish, lifted, needed_opset, with_gelu
from graphopt_passes.quantize.choice import choose_floating, measures, parts
from graphopt_passes.quantize.existing import quantized_already
from graphopt_passes.quantize.gates import spelled_out
from graphopt_passes.quantize.kept_ranges import keep_ranges
from graphopt_passes.quantize.projections import take_projections_apart
from graphopt_passes.quantize.quantizer import Quantizer
from graphopt_passes.quantize.recovery import Steps, recover

if TYPE_CHECKING:
    from graphopt_passes.quantize import Quantize


def run(options: Quantize, model: ir.Model, context: PassContext) -> PassResult:
    """Runs the pass; see `Quantize`."""
    rules = quantization_rules(context.target.family, options.format)
    refusal = context.target.why_not(rules.numbers.precision)
    if refusal is not None:
        raise GraphoptError(
            refusal,
            where="pass 'quantize'",
            fix=f"it computes in {context.target.precisions_text()}",
        )
    given = quantized_already(model) is not None
    canonicalizes = options.canonicalize and not given
    canonical, simplified = canonicalize(model, context) if canonicalizes else (model, ())
    prepared, changes = _prepared(canonical, rules, context, gelu=canonicalizes)
    quantizer = Quantizer(prepared, options, context, model)
    quantizer, more, details = _equalized(quantizer, options, context, model)
    told = quantizer.notes + telling.of_floats(quantizer)
    details["float"] = telling.float_rows(quantizer.declined)
    if quantizer.has_work:
        notes = simplified + changes + more + told
        return _quantized(quantizer, options, context, notes, details)
    if given:
        told += ("the model is quantized already: what it brings is kept as it is",)
    elif canonicalizes and context.target.blocked_channels:
        finished, more = finish(canonical, context)
        told = simplified + told + more
        return PassResult(finished, finished is not model, notes=told, details=details)
    return PassResult(model, False, notes=told, details=details)


def _quantized(
    quantizer: Quantizer,
    options: Quantize,
    context: PassContext,
    notes: tuple[str, ...],
    details: dict[str, Any],
) -> PassResult:
    """The model with its pairs; `notes` and `details` say what came before."""
    samples = held_out = context.calibration
    if samples is not None:
        samples, held_out = parts(options, samples)
    histograms = quantizer.calibrate(samples, any_choice=measures(options))
    choice = choose_floating(quantizer, held_out, context, options)
    quantized = quantizer.write(choice.floating)
    notes += choice.notes + telling.of_calibration(samples, quantized.placement, histograms)
    details |= choice.details
    if samples is not None:
        steps = Steps.of(options, scales=not quantizer.has_read_ranges)
        recovery = recover(quantizer, quantized, samples, steps, context.progress, options.samples)
        notes += tuple(recovery.notes)
        details["recovered"] = recovery.rows
    notes += keep_ranges(quantizer, quantized, histograms, options.method, context)
    details["tensors"] = telling.tensor_rows(quantized, histograms)
    details["quantized"] = telling.node_rows(quantized)
    rewrites = telling.rewrites(quantized, quantizer.rules)
    written, more = finish(quantized.model, context)
    return PassResult(written, True, rewrites, notes + more, details, unmet=choice.unmet)


def _prepared(
    model: ir.Model, rules: QuantizationRules, context: PassContext, *, gelu: bool
) -> tuple[ir.Model, tuple[str, ...]]:
    """`model` as it can be quantized, as another model if it is changed for that, and notes."""
    model, notes = with_gelu(model, rules, context) if gelu else (model, ())
    model, more = lifted(model, context, needed_opset(model, rules.numbers))
    notes += more
    if rules.whole_products:
        copy = model.clone()
        count = take_projections_apart(copy, context)
        if count:
            model = copy
            notes += (f"{count} products taken apart: whole, and split behind, they run in float",)
    return spelled_out(model, rules), notes


def _equalized(
    quantizer: Quantizer, options: Quantize, context: PassContext, original: ir.Model
) -> tuple[Quantizer, tuple[str, ...], dict[str, Any]]:
    """A quantizer of the model with its channels rescaled, notes and details on it."""
    if not options.equalize or context.calibration is None:
        return quantizer, (), {}
    model, groups = equalize(
        quantizer.model,
        context,
        context.calibration,
        options.samples,
        rules=quantizer.rules,
        method=options.method,
        layers=quantizer.layers,
    )
    if not groups:
        return quantizer, (), {}
    return Quantizer(model, options, context, original), summary(groups), {"equalized": groups}
