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
    prepared, preparations = _prepared(options, rules, model, context)
    quantizer = Quantizer(prepared, options, context, model)
    quantizer, notes, details = _equalized(quantizer, options, context, model)
    notes += quantizer.notes + telling.of_floats(quantizer)
    details["float"] = telling.float_rows(quantizer.declined)
    if not quantizer.has_work:
        return _left_as_it_is(options, model, context, notes, details)
    notes = preparations + notes
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
    rewrites = telling.rewrites(quantized, rules)
    written, more = finish(quantized.model, context)
    return PassResult(written, True, rewrites, notes + more, details, unmet=choice.unmet)


def _left_as_it_is(
    options: Quantize,
    model: ir.Model,
    context: PassContext,
    notes: tuple[str, ...],
    details: dict[str, Any],
) -> PassResult:
    """The result where nothing is quantized: simplified, if floats can be made fast as well."""
    if quantized_already(model) is not None:
        notes += ("the model is quantized already: what it brings is kept as it is",)
    elif options.canonicalize and context.target.blocked_channels:
        simplified, told = canonicalize(model, context)
        finished, more = finish(simplified, context)
        notes = told + notes + more
        return PassResult(finished, finished is not model, notes=notes, details=details)
    return PassResult(model, False, notes=notes, details=details)


def _prepared(
    options: Quantize, rules: QuantizationRules, model: ir.Model, context: PassContext
) -> tuple[ir.Model, tuple[str, ...]]:
    """The model to quantize, not `model` itself if that is changed for it, and notes on it."""
    notes: tuple[str, ...] = ()
    if options.canonicalize and quantized_already(model) is None:
        model, notes = canonicalize(model, context)
        model, more = with_gelu(model, rules, context)
        notes += more
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
