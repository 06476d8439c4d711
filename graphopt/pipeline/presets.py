"""Named pipelines: all of them, in one table. A preset may use those above it."""

from __future__ import annotations

PRESETS: dict[str, str] = {
    "simplify": "repeat(inline,fold-constants,eliminate-noops,collapse-chains,push-transposes,"
    "merge-duplicates,eliminate-dead)",
    "fuse": "repeat(fuse-normalizations,fuse-activations,fuse-affine,fuse-pad,"
    "fuse-layout,fuse-gemm)",
    "lossless": "repeat(simplify,fuse)",
    "fp16": "lossless,cast-precision",
    "int8": "lossless,quantize",
    "int8-fp16": "int8,cast-precision",
    "pruned-int8": "lossless,prune-channels,quantize",
}

DEFAULT = "lossless"
