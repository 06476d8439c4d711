"""The sensitivity of layers as a drawing: SVG, by itself or in a page of HTML."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from graphopt.ir import writing
from graphopt.report.model import LayerSensitivity, Sensitivity

ROW = 18
"""Pixels from one bar to the next: text of 11 pixels stays legible."""
BARS = 460
"""Pixels of the longest bar."""
CHARACTER = 6.7
"""Pixels that a character takes, about."""
LONGEST_LABEL = 56
TOP, BOTTOM, LEFT, RIGHT = 64, 48, 16, 64
MOST_TICKS = 8
QUANTIZED, FLOAT = "#3b6fb6", "#d9822b"
AXIS_TITLE = "SQNR of the outputs with this layer alone quantized, dB (short: sensitive)"


def write_plot(sensitivity: Sensitivity, path: str | Path) -> None:
    """Draws the layers, from input to output, into an .svg or .html file, whole or not at all."""
    path = Path(path)
    text = to_svg(sensitivity)
    if path.suffix.lower() == ".html":
        title = escape(_printable(f"Sensitivity of {sensitivity.source}"))
        head = f'<meta charset="utf-8"><title>{title}</title>'
        text = f"<!doctype html>\n<html><head>{head}</head>\n<body>\n{text}</body></html>\n"
    with writing(path) as folder:
        (folder / path.name).write_text(text, encoding="utf-8", errors="replace")


def to_svg(sensitivity: Sensitivity) -> str:
    """A bar for each layer, with its figure, on an axis in dB."""
    layers = sensitivity.layers
    labels = [_label(layer) for layer in layers]
    left = LEFT + CHARACTER * max(map(len, labels), default=0)
    axis = _Axis.over([layer.sqnr_db for layer in layers] + [sensitivity.everywhere_db], left)
    bottom = TOP + ROW * len(layers)
    width, height = left + BARS + RIGHT, bottom + BOTTOM
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width:.0f}" '
        f'height="{height}" viewBox="0 0 {width:.0f} {height}" '
        'font-family="ui-monospace, Menlo, Consolas, monospace" font-size="11" fill="#222">',
        '<rect width="100%" height="100%" fill="white"/>',
        _text(LEFT, 18, f"{sensitivity.source}: {sensitivity.pipeline}", size=13),
        *_legend(layers),
        *axis.drawn(bottom),
        *_everywhere(sensitivity.everywhere_db, axis, bottom),
    ]
    for index, (layer, label) in enumerate(zip(layers, labels, strict=True)):
        lines += _bar(layer, label, TOP + ROW * index, axis)
    return "\n".join([*lines, "</svg>\n"])


@dataclass(frozen=True)
class _Axis:
    """Decibels from `low` to `high`, whose places in pixels start at `left`."""

    low: float
    high: float
    step: float
    left: float

    @staticmethod
    def over(values: list[float], left: float) -> _Axis:
        """An axis from 0 (or less) that covers all finite `values`."""
        finite = [value for value in values if math.isfinite(value)]
        low, high = min([0.0, *finite]), max([1.0, *finite])
        rough = (high - low) / MOST_TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
        return _Axis(math.floor(low / step) * step, math.ceil(high / step) * step, step, left)

    def place(self, value: float) -> float:
        """Where `value` is; infinite ones at the ends."""
        within = min(max(value, self.low), self.high)
        return self.left + BARS * (within - self.low) / (self.high - self.low)

    def drawn(self, bottom: float) -> list[str]:
        lines = []
        for index in range(round((self.high - self.low) / self.step) + 1):
            value = self.low + index * self.step
            x = self.place(value)
            lines.append(_line(x, TOP - 4, x, bottom + 4, "#ddd"))
            for y in (TOP - 8, bottom + 16):
                lines.append(_text(x, y, f"{value:g}", anchor="middle"))
        return [*lines, _text(self.left + BARS / 2, bottom + 34, AXIS_TITLE, anchor="middle")]


def _bar(layer: LayerSensitivity, label: str, top: float, axis: _Axis) -> list[str]:
    start, end = sorted((axis.place(0.0), axis.place(layer.sqnr_db)))
    macs = "unknown" if layer.macs is None else f"{layer.macs:,}"
    told = f"{layer.node}: {layer.op_type}, {macs} MACs, {layer.sqnr_db:.1f} dB, {layer.precision}"
    colour = FLOAT if layer.precision == "float" else QUANTIZED
    return [
        f"<g><title>{escape(_printable(told))}</title>",
        _text(axis.left - 6, top + 13, label, anchor="end"),
        f'<rect x="{start:.1f}" y="{top + 3}" width="{end - start:.1f}" height="{ROW - 6}" '
        f'fill="{colour}"/>',
        _text(end + 4, top + 13, f"{layer.sqnr_db:.1f}"),
        "</g>",
    ]


def _everywhere(value: float, axis: _Axis, bottom: float) -> list[str]:
    x = axis.place(value)
    return [
        _line(x, TOP - 4, x, bottom, "#222", dashes="4 3"),
        _text(x, TOP - 24, f"all layers quantized: {value:.1f} dB", anchor="middle"),
    ]


def _legend(layers: tuple[LayerSensitivity, ...]) -> list[str]:
    """The colours, where there are two."""
    lines, x = [], float(LEFT)
    precisions = sorted({layer.precision for layer in layers}, key="float".__eq__)
    for name in precisions if len(precisions) > 1 else ():
        colour = FLOAT if name == "float" else QUANTIZED
        lines.append(f'<rect x="{x}" y="28" width="10" height="10" fill="{colour}"/>')
        lines.append(_text(x + 16, 37, f"stays {name}" if name == "float" else name))
        x += 40 + CHARACTER * len(name)
    return lines


def _label(layer: LayerSensitivity) -> str:
    """Its name, the end of it where it is long, with its operator."""
    name = layer.node
    if not name.endswith(layer.op_type):
        name += f" ({layer.op_type})"
    return _printable(name if len(name) <= LONGEST_LABEL else "…" + name[1 - LONGEST_LABEL :])


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 11) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor={quoteattr(anchor)} font-size="{size}">'
        f"{escape(_printable(text))}</text>"
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, dashes: str = "none") -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        f'stroke-dasharray="{dashes}"/>'
    )


def _printable(text: str) -> str:
    """`text` without what XML cannot hold."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
