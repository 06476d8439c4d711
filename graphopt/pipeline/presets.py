"""Named pipelines: all of them, in one table. A preset may use those above it."""

from __future__ import annotations

PRESETS: dict[str, str] = {
    "simplify": "repeat(inline,fold-constants,eliminate-noops,collapse-chains,push-transposes,"
    "merge-duplicates,eliminate-dead)",
    "fuse": "repeat(fuse-normalizations,fuse-activations,fuse-affine,fuse-pad,"
    "fuse-layout,fuse-gemm)",
    "lossless": "repeat(simplify,fuse)",
    "int8": "lossless,quantize",
    "pruned-int8": "lossless,prune-channels,quantize",
}

DEFAULT = "lossless"
