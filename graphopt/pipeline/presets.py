"""Named pipelines: all of them, in one table. A preset may use those above it."""

from __future__ import annotations

PRESETS: dict[str, str] = {
    "simplify": "repeat(fold-constants,eliminate-dead)",
    "fuse": "fuse-conv-bn",
    "lossless": "simplify,fuse",
    "int8": "lossless,quantize",
    "pruned-int8": "lossless,prune-channels,quantize",
}

DEFAULT = "lossless"
