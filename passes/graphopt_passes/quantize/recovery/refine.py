from __future__ import annotations
import numpy as np
import onnx_ir as ir
from graphopt.ir import Names
from graphopt.data.feeds import batches, input_specs
from graphopt.reconstruction import Moments, Stream
from graphopt_passes.quantize.recovery.layers import IntegerLayer
from graphopt_passes.quantize.recovery.refit import Choice, Evidence, Weights, choose

HELD_BYTES = 512 << 20
MAX_ROWS = 32768
HELD_ROWS = 8192

def refine(reference, quantized, fit, held, limits, verbose=False, adapt=None):
    model = quantized.model.clone()
    names = Names(model)
    specs = input_specs(reference)
    parts = (fit, held)
    flags = [part is held for part in parts for _ in batches(part, specs, 32)]
    def feeds():
        for part in parts:
            for feed, _ in batches(part, specs, 32):
                yield feed
    streams = [Stream(m, feeds, budget=HELD_BYTES) for m in (model, reference)]
    twins = {n.outputs[0].name: n for n in reference.graph}
    nodes = {n.outputs[0].name: n for n in model.graph}
    todo = {c.node.outputs[0].name: c for c in quantized.candidates}
    out = {}
    for node in list(model.graph):
        if adapt and node.op_type == "QuantizeLinear":
            adapt(model, reference, node, streams, flags, twins, quantized)
            continue
        c = todo.get(node.outputs[0].name)
        if c is None: continue
        twin = twins.get(node.outputs[0].name)
        reason = IntegerLayer.declines(node, twin, c.rule)
        if reason:
            print(node.name, reason); continue
        layer = IntegerLayer(node, twin, c.rule, c.axis)
        g, k, o = layer.shape
        fitrows = min(MAX_ROWS, max(8192, 20 * k))
        nfit = flags.count(False); nheld = flags.count(True)
        ev = Evidence(Moments(g, k, o), [], [])
        pairs = zip(streams[0].values(node, node.inputs[c.rule.data].name, after=False),
                    streams[1].values(twin, twin.outputs[0].name, after=True), flags, strict=True)
        for number, (x, y, held_out) in enumerate(pairs):
            total = layer.row_count(y)
            quota = HELD_ROWS // nheld if held_out else fitrows // nfit
            rows = np.arange(total)
            if total > quota:
                rows = np.sort(np.random.default_rng((0, number)).choice(total, quota, replace=False))
            a, b = layer.rows(x, y, rows)
            if held_out: ev.x.append(a); ev.y.append(b)
            else: ev.fit.add(a, b)
        present = Weights(layer.integers(), layer.scale())
        ch = choose(present, layer.reference(), ev, limits, np.float32, layer.can_shift)
        if verbose: print(f"{layer.name[-40:]:40s} {g,k,o} {ch.before:.4f} -> {ch.after:.4f} {ch.weights.kept}")
        if ch.weights is not present:
            layer.write(names, ch.weights.integers, ch.weights.scale, ch.weights.shift)
        out[layer.name] = ch
    return model, out
