#!/bin/sh
# Builds model.engine from model.onnx with the trtexec of this device's own TensorRT.
#
#   ./build.sh [OPTION OF TRTEXEC ...]
#
# TRTEXEC=path names another trtexec. The engine appears when it is whole; an older one stays
# until then. Exit status: 0 built, 1 TensorRT could not build it, 2 it cannot be tried here.
set -eu

@SETTINGS@

fail() {
    printf 'build.sh: %s\n' "$2" >&2
    exit "$1"
}

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P) || fail 2 'cannot find its own folder'
cd -- "$here"

# What arrived must be what was sent.
command -v sha256sum >/dev/null 2>&1 || fail 2 'sha256sum is not installed'
printf '%s\n' "$checksums" | sha256sum -c - >/dev/null 2>&1 ||
    fail 2 'model.onnx or its data differs from what the bundle was made with; copy it again'

# JetPack puts trtexec where no PATH leads.
trtexec=${TRTEXEC:-$(command -v trtexec || printf '/usr/src/tensorrt/bin/trtexec')}
[ -x "$trtexec" ] || fail 2 "there is no trtexec at $trtexec; install TensorRT or set TRTEXEC"

# The first line is "&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # trtexec --help";
# before TensorRT 10 it was v8503 for 8.5.3.
help=$("$trtexec" --help 2>&1) || :
digits=$(printf '%s\n' "$help" | sed -n 's/^.*\[TensorRT v\([0-9][0-9]*\)\].*$/\1/p' | head -n 1)
[ -n "$digits" ] ||
    fail 2 "$trtexec does not say its version but: $(printf '%s\n' "$help" | head -n 1)"
if [ "$digits" -ge 10000 ]; then
    major=$((digits / 10000)) minor=$((digits / 100 % 100))
else
    major=$((digits / 1000)) minor=$((digits / 100 % 10))
fi
version=$major.$minor
number=$((major * 100 + minor))

has() {
    printf '%s\n' "$help" | grep -E -e "--$1([^A-Za-z]|\$)" >/dev/null
}

needs() {
    has "$1" || fail 2 "TensorRT $version has no --$1, which this bundle asks for"
}

if [ "$number" -lt "$least" ] || [ "$number" -gt "$greatest" ]; then
    fail 2 "this is TensorRT $version; the model needs $range"
fi

# DLA came back after these.
if [ -n "$dla_core" ] && { [ "$version" = 11.0 ] || [ "$version" = 11.1 ]; }; then
    fail 2 "TensorRT $version supports no DLA; make the bundle without --dla-core"
fi

# Precision is in the model. TensorRT 8 wants to be allowed what it finds there, TensorRT 10 to be
# told that nothing else is wanted, and TensorRT 11 knows no other way.
if [ "$major" -eq 8 ]; then
    [ "$fp16" -eq 0 ] || set -- --fp16 "$@"
    [ "$int8" -eq 0 ] || set -- --int8 "$@"
elif [ "$number" -ge 1003 ] && [ "$major" -eq 10 ]; then
    set -- --stronglyTyped "$@"
elif [ "$major" -lt 11 ]; then
    fail 2 "TensorRT $version cannot take the types from the model; 8.5, 8.6 and 10.3 or newer can"
fi

# Only the engine is wanted, not a measurement.
if has skipInference; then
    set -- --skipInference "$@"
else
    set -- --buildOnly "$@"
fi

[ -z "$min_shapes" ] ||
    set -- "--minShapes=$min_shapes" "--optShapes=$opt_shapes" "--maxShapes=$max_shapes" "$@"
[ -z "$workspace_mib" ] || set -- "--memPoolSize=workspace:$workspace_mib" "$@"
[ "$sparsity" -eq 0 ] || set -- --sparsity=enable "$@"
[ -z "$dla_core" ] || set -- "--useDLACore=$dla_core" "$@"
[ "$gpu_fallback" -eq 0 ] || set -- --allowGPUFallback "$@"
for option in $more; do
    needs "$option"
    set -- "--$option" "$@"
done

scratch=$(mktemp -d ./.build.XXXXXX) || fail 2 "nothing can be written to $here"
trap 'rm -rf -- "$scratch"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

printf 'building for TensorRT %s; this takes minutes, its log is build.log\n' "$version"
if "$trtexec" --onnx=model.onnx "--saveEngine=$scratch/model.engine" \
    --profilingVerbosity=detailed "--exportLayerInfo=$scratch/layers.json" \
    "--timingCacheFile=timing-$version.cache" "$@" >build.log 2>&1; then
    :
else
    status=$?
    reason=$(grep -e '\[E\]' build.log | tail -n 3 | tr '\n' ' ') || :
    fail 1 "trtexec ended with status $status; ${reason:-$(tail -n 1 build.log)}"
fi
[ -s "$scratch/model.engine" ] || fail 1 'trtexec wrote no engine; see build.log'
[ ! -f "$scratch/layers.json" ] || mv -f -- "$scratch/layers.json" layers.json
mv -f -- "$scratch/model.engine" model.engine
printf 'wrote model.engine; compare it with the reference: python3 verify.py\n'
