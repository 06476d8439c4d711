"""Files of known types, made here or found on any Debian machine, as magika's net reads them."""

from __future__ import annotations

import csv
import io
import json
import sysconfig
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

BEGIN = END = 1024
BLOCK = 4096
PADDING = 256
WORDS = (
    "north",
    "river",
    "stone",
    "market",
    "winter",
    "paper",
    "engine",
    "garden",
    "signal",
    "window",
    "copper",
    "bridge",
    "music",
    "number",
    "silver",
    "forest",
    "letter",
    "people",
    "system",
    "island",
    "yellow",
    "simple",
    "ocean",
    "doctor",
    "planet",
    "history",
)
Maker = Callable[[np.random.Generator], bytes]


def features(content: bytes) -> np.ndarray:
    """The int32 [2048] that the net reads: the first and the last bytes without outer spaces."""
    first = np.frombuffer(content[:BLOCK].lstrip()[:BEGIN], np.uint8)
    last = np.frombuffer(content[-BLOCK:].rstrip()[-END:], np.uint8)
    numbers = np.full(BEGIN + END, PADDING, np.int32)
    numbers[: len(first)] = first
    numbers[len(numbers) - len(last) :] = last
    return numbers


def files(count: int, seed: int, labels: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Files int32 [count, 2048] and the indices of their types in `labels`, int64 [count].

    Args:
        seed: of what is made; files that are found are taken from disjoint parts for even and odd
            seeds.
    """
    generator = np.random.default_rng(seed)
    makers = {name: make for name, make in _makers(seed % 2) if name in labels}
    names = sorted(makers)
    chosen = [names[index % len(names)] for index in range(count)]
    made = [features(makers[name](generator)) for name in chosen]
    return np.stack(made), np.array([labels.index(name) for name in chosen], np.int64)


def _makers(part: int) -> Iterator[tuple[str, Maker]]:
    yield from {
        "csv": _csv,
        "html": _html,
        "json": _json,
        "xml": _xml,
        "ini": _ini,
        "sql": _sql,
        "png": lambda g: _image(g, "PNG"),
        "jpeg": lambda g: _image(g, "JPEG"),
        "gif": lambda g: _image(g, "GIF"),
        "bmp": lambda g: _image(g, "BMP"),
        "zip": _zip,
        "npz": _npz,
        "npy": _npy,
    }.items()
    found = {
        "python": (Path(sysconfig.get_path("stdlib")), "*.py"),
        "elf": (Path("/usr/lib"), "*-linux-gnu/*.so.*"),
        "c": (Path("/usr/include"), "*.h"),
        "ttf": (Path("/usr/share/fonts/truetype"), "*/*.ttf"),
    }
    for name, (folder, pattern) in found.items():
        paths = sorted(file for file in folder.glob(pattern) if file.stat().st_size > 1000)[part::2]
        if paths:
            yield name, lambda g, paths=paths: paths[int(g.integers(len(paths)))].read_bytes()


def _words(generator: np.random.Generator, low: int, high: int) -> list[str]:
    return [str(word) for word in generator.choice(WORDS, int(generator.integers(low, high)))]


def _csv(generator: np.random.Generator) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    header = _words(generator, 3, 8)
    writer.writerow(header)
    for index in range(int(generator.integers(5, 200))):
        numbers = generator.normal(0, 100, len(header) - 2).round(2)
        writer.writerow([index, *map(str, _words(generator, 1, 2)), *numbers])
    return text.getvalue().encode()


def _html(generator: np.random.Generator) -> bytes:
    title = " ".join(_words(generator, 1, 5))
    parts = [f"<!DOCTYPE html>\n<html>\n<head><title>{title}</title></head>\n<body>"]
    for _ in range(int(generator.integers(2, 60))):
        tag = str(generator.choice(["p", "div", "h2", "li", "span"]))
        parts.append(f'<{tag} class="{generator.choice(WORDS)}">{_prose(generator)}</{tag}>')
    return "\n".join([*parts, "</body>\n</html>\n"]).encode()


def _json(generator: np.random.Generator) -> bytes:
    rows = [
        {word: round(float(generator.normal()), 3) for word in _words(generator, 2, 6)}
        | {"name": _prose(generator), "tags": _words(generator, 0, 4)}
        for _ in range(int(generator.integers(1, 60)))
    ]
    return json.dumps({"items": rows}, indent=int(generator.integers(1, 5))).encode()


def _xml(generator: np.random.Generator) -> bytes:
    rows = [
        f'  <{word} id="{generator.integers(1000)}">{_prose(generator)}</{word}>'
        for word in _words(generator, 3, 60)
    ]
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<catalog>'
    return "\n".join([head, *rows, "</catalog>\n"]).encode()


def _ini(generator: np.random.Generator) -> bytes:
    lines = []
    for section in _words(generator, 2, 10):
        lines.append(f"[{section}]")
        lines += [f"{word} = {generator.integers(1000)}" for word in _words(generator, 2, 10)]
        lines.append("")
    return "\n".join(lines).encode()


def _sql(generator: np.random.Generator) -> bytes:
    table = str(generator.choice(WORDS))
    lines = [f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, name VARCHAR(40), price NUMERIC);"]
    lines += [
        f"INSERT INTO {table} (id, name, price) VALUES ({index}, '{_prose(generator)}', "
        f"{generator.integers(10000) / 100});"
        for index in range(int(generator.integers(5, 60)))
    ]
    return "\n".join([*lines, f"SELECT name FROM {table} WHERE price > 10 ORDER BY id;\n"]).encode()


def _prose(generator: np.random.Generator) -> str:
    return " ".join(_words(generator, 3, 12)).capitalize() + "."


def _image(generator: np.random.Generator, form: str) -> bytes:
    height, width = (int(v) for v in generator.integers(16, 96, 2))
    slope = np.add.outer(np.arange(height), np.arange(width))[..., None]
    noise = generator.integers(0, 60, (height, width, 3))
    pixels = ((slope * generator.integers(1, 5, 3) + noise) % 256).astype(np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, form)
    return data.getvalue()


def _zip(generator: np.random.Generator) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for word in _words(generator, 2, 8):
            entry = zipfile.ZipInfo(f"{word}{generator.integers(100)}.txt", (2020, 1, 1, 0, 0, 0))
            archive.writestr(entry, "\n".join(_prose(generator) for _ in range(40)))
    return data.getvalue()


def _npz(generator: np.random.Generator) -> bytes:
    data = io.BytesIO()
    np.savez(data, **{word: generator.normal(size=(9, 9)) for word in _words(generator, 1, 5)})
    return data.getvalue()


def _npy(generator: np.random.Generator) -> bytes:
    data = io.BytesIO()
    np.save(data, generator.normal(size=tuple(generator.integers(3, 40, 2))))
    return data.getvalue()
