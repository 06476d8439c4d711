"""The page of `bench_engines.py`, and what on it did not hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engines_child import INT8, REPORTED, SIMPLIFIED, VARIANTS

SHARE = 0.30
"""What int8+fp16 may leave of the weight bytes of the fp32 engine."""
ZEROS = 0.1
"""The share of the weight bytes from which on stored zeros are told."""
NAMES = 3
"""How many nodes are named before the rest is counted."""
Row = Mapping[str, Any]
HEAD = """# What TensorRT makes of each model

Made by `tools/bench_engines.py`. Every model is built with {builder} on a CPU for {targets}, as it
is and in four variants: *simplified* (`lossless`), *fp16* (`lossless,cast-precision`), *int8+fp16*
(`lossless,quantize,quantize-weights,cast-precision`, where `quantize-weights` stores the tables
that Gather reads in int8, and nothing else) and *pruned* (the same behind
`prune-channels{{ratio=0.3}}`). A variant is made once and built for every GPU: all that the passes
read of these targets is the same. The fixtures are calibrated on their own data, the others on
noise. A free batch is 1, 8 and 32; other free axes have one size.
"""
CELLS = """## Kernels

A cell: CPU seconds of the slowest build, from the start of its process to the engine on disk; all
kernels; the nodes Conv, ConvTranspose, Gemm, MatMul and Einsum by what they compute in, int8 / fp16
/ fp32, and after a plus those that no kernel names: folded away, or inside one for several nodes.
Where the GPUs differ it is that of {first}. {last} computes no int8 Conv, so it stands apart.
"""
BYTES = """## Bytes

A cell: the weights in the engine, and what the kernels write for one sample, in MB ("?" where the
builder's log does not say). The last column is what int8+fp16 leaves of the weights of the
simplified engine. Zeros are not counted among weights: TensorRT-RTX pads each channel of an int8
depthwise Conv to four, and where the batch is fixed the zeros are in the engine; export with a free
batch to be rid of them. Its int8 Convs write fp32, of which the next kernel makes int8, whatever
the scales and the activation: that is why int8 nets of Convs have more kernels than fp16 ones, and
write more.
"""


def required(row: Row) -> list[str]:
    """The GPUs that must take a model: all that it was asked for but the one reported only."""
    return [target for target in row.get("targets", ()) if target != REPORTED]


def engines(row: Row, variant: str) -> dict[str, Row]:
    """The engines of a variant for the GPUs that must take it."""
    found = row.get("variants", {}).get(variant, {}).get("engines", {})
    return {target: found[target] for target in required(row) if target in found}


def broken(row: Row) -> list[str]:
    """What must hold and does not: an engine that is not there, a promised node that is float."""
    lines: list[str] = [str(row["failure"])] if "failure" in row else []
    for variant in VARIANTS:
        found = engines(row, variant)
        missing = [target for target in required(row) if target not in found]
        if missing and "failure" not in row:
            lines.append(f"{variant}, {' '.join(missing)}: not tried")
        lines += _alike(variant, {t: e["failure"] for t, e in found.items() if "failure" in e})
        lines += _alike(variant, {t: text for t, e in found.items() if (text := _not_int8(e))})
    return lines


def remarks(row: Row) -> list[str]:
    """What is worth a look beside that: large weights, fp32 nodes, GPUs that differ."""
    lines = []
    for variant in VARIANTS:
        found = {t: e for t, e in engines(row, variant).items() if "failure" not in e}
        lines += _alike(variant, {t: e["note"] for t, e in found.items() if e["note"]})
        if variant in VARIANTS[3:]:
            lines += _alike(variant, {t: text for t, e in found.items() if (text := _fp32(e))})
            lines += _alike(variant, {t: text for t, e in found.items() if (text := _zeros(e))})
        if len({str(sorted(engine["nodes"].items())) for engine in found.values()}) > 1:
            each = (f"{target} {_nodes(engine)}" for target, engine in found.items())
            lines.append(f"{variant}: nodes differ: {', '.join(each)}")
    found = engines(row, INT8)
    shares = {t: share for t in found if (share := weight_share(row, t)) is not None}
    large = {t: share for t, share in shares.items() if share >= SHARE}
    if large:
        worst = max(large, key=lambda target: large[target])
        reason = _why_large(row["variants"][INT8], found[worst])
        lines.append(f"{INT8}, {' '.join(large)}: {large[worst]:.0%} of the fp32 weights: {reason}")
    return lines


def weight_share(row: Row, target: str) -> float | None:
    """What int8+fp16 leaves of the weight bytes of the fp32 engine; None if one is not known."""
    less, whole = (engines(row, variant).get(target, {}) for variant in (INT8, SIMPLIFIED))
    if less.get("weight_bytes") is None or not whole.get("weight_bytes"):
        return None
    return float(less["weight_bytes"] / whole["weight_bytes"])


def _alike(variant: str, texts: Mapping[str, str]) -> Iterator[str]:
    """A line for each different text, with its GPUs."""
    for text in dict.fromkeys(texts.values()):
        yield f"{variant}, {' '.join(t for t, each in texts.items() if each == text)}: {text}"


def _not_int8(engine: Row) -> str:
    wrong: Mapping[str, str] = engine.get("not_int8", {})
    return _listed([f"{name} is {precision}" for name, precision in wrong.items()])


def _fp32(engine: Row) -> str:
    names = _listed(engine["fp32_nodes"])
    return f"computes in fp32: {names}" if names else ""


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
    return ", ".join(names[:NAMES]) + more


def _why_large(variant: Row, engine: Row) -> str:
    """What the weights are: int8 in the engine and in the file, and who reads the float ones."""
    stored = engine["weight_bytes_by_type"].get("int8", 0)
    readers = [f"{name} {_mb(size)}" for name, size in variant["float_weights"].items()]
    return (
        f"int8 {_mb(stored)} MB ({_mb(variant['int8_weights'])} in the file), others "
        f"{_mb(engine['weight_bytes'] - stored)} MB (in the file: {', '.join(readers[:NAMES])})"
    )


def _zeros(engine: Row) -> str:
    if engine["padding_bytes"] <= ZEROS * (engine["weight_bytes"] or 0):
        return ""
    return f"{_mb(engine['padding_bytes'])} MB of zeros beside the weights: the batch is fixed"


def _nodes(engine: Row) -> str:
    counts = dict(engine["nodes"])
    unknown = counts.pop("unknown", 0)
    text = "/".join(str(counts.pop(kind, 0)) for kind in ("int8", "fp16", "fp32"))
    others = "".join(f" {kind} {count}" for kind, count in counts.items())
    return text + others + (f"+{unknown}" if unknown else "")


def _mb(size: float) -> str:
    return f"{size / 1e6:.2f}" if size < 1e7 else f"{size / 1e6:.1f}"


def _kernel_cell(row: Row, variant: str) -> str:
    found = engines(row, variant)
    built = [engine for engine in found.values() if "failure" not in engine]
    if not built:
        return "**none**"
    seconds = max(engine["cpu_s"] for engine in built)
    text = f"{seconds:.1f} · {sum(built[0]['kernels'].values())} · {_nodes(built[0])}"
    if len(built) < len(required(row)):
        names = [target for target, engine in found.items() if "failure" not in engine]
        text += f" ({' '.join(names)} only)"
    return text


def _reported_cell(row: Row) -> str:
    engine = row.get("variants", {}).get(INT8, {}).get("engines", {}).get(REPORTED)
    if engine is None:
        return ""
    return "no engine" if "failure" in engine else _nodes(engine)


def _byte_cell(row: Row, variant: str) -> str:
    built = [e for e in engines(row, variant).values() if "failure" not in e]
    sizes = (built[0][key] for key in ("weight_bytes", "written_bytes")) if built else ()
    return " / ".join("?" if size is None else _mb(size) for size in sizes)


def _share_cell(row: Row) -> str:
    shares = [weight_share(row, target) for target in required(row)]
    known = [share for share in shares if share is not None]
    return f"{max(known):.0%}" if known else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [list(head), ["---"] * len(head), *(list(row) for row in rows)]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |" for cells in lines]


def summary(rows: Mapping[str, Row]) -> list[str]:
    """What came of all models, in a few lines."""
    pairs = [(row, variant) for row in rows.values() for variant in VARIANTS]
    asked = sum(len(required(row)) for row, _ in pairs)
    made = [e for row, v in pairs for e in engines(row, v).values() if "failure" not in e]
    quantized = [e for row in rows.values() for v in VARIANTS[3:] for e in engines(row, v).values()]
    built = [engine for engine in quantized if "failure" not in engine]
    shares = [s for row in rows.values() for t in required(row) if (s := weight_share(row, t))]
    good = sum(not engine["not_int8"] for engine in built)
    return [
        f"- {len(made)} of {asked} engines of {len(rows)} models are built, in "
        f"{sum(engine['cpu_s'] for engine in made):.0f} CPU seconds.",
        f"- In {good} of {len(built)} int8 engines every node that `quantize` promised is in an "
        f"int8 kernel; {sum(not engine['fp32_nodes'] for engine in built)} have no fp32 node.",
        f"- {sum(share < SHARE for share in shares)} of {len(shares)} int8+fp16 engines have under "
        f"{SHARE:.0%} of the weight bytes of the fp32 engine.",
    ]


def markdown(rows: Mapping[str, Row]) -> str:
    """The page docs/engines.md."""
    targets = list(dict.fromkeys(target for row in rows.values() for target in required(row)))
    all_engines = [e for row in rows.values() for v in VARIANTS for e in engines(row, v).values()]
    builders = sorted({engine["builder"] for engine in all_engines if "builder" in engine})
    names = {"builder": ", ".join(builders) or "nothing", "targets": _joined(targets)}
    lines = [HEAD.format(**names), *summary(rows), ""]
    lines += [CELLS.format(first=targets[0] if targets else "", last=REPORTED.upper())]
    lines += _table(
        ("model", *VARIANTS, f"{INT8}, {REPORTED}"),
        [
            (name, *(_kernel_cell(row, variant) for variant in VARIANTS), _reported_cell(row))
            for name, row in rows.items()
        ],
    )
    lines += ["", BYTES]
    lines += _table(
        ("model", *VARIANTS, "share"),
        [
            (name, *(_byte_cell(row, variant) for variant in VARIANTS), _share_cell(row))
            for name, row in rows.items()
        ],
    )
    for title, judge in (("What did not hold", broken), ("Worth a look", remarks)):
        found = [f"- {name}: {line}" for name, row in rows.items() for line in judge(row)]
        lines += ["", f"## {title}", "", *(found or ["Nothing."])]
    lines += ["", f"## {REPORTED.upper()}", "", *_refusals(rows)]
    return "\n".join(lines) + "\n"


def _refusals(rows: Mapping[str, Row]) -> list[str]:
    """Why there is no engine for the GPU that is reported only, with the models of each reason."""
    models: dict[str, list[str]] = {}
    for name, row in rows.items():
        engine = row.get("variants", {}).get(INT8, {}).get("engines", {}).get(REPORTED, {})
        if "failure" in engine:
            models.setdefault(engine["failure"], []).append(name)
    lines = [f"- {', '.join(names)}: {reason}" for reason, names in models.items()]
    return lines or ["Every int8+fp16 model builds."]


def _joined(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
