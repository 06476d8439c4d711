#!/usr/bin/env python3
"""Runs the engine on the bundle's reference inputs, and compares its outputs with the expected.

    python3 verify.py [--engine model.engine] [--json FILE]

It needs numpy, TensorRT's Python package (8.5 or newer; JetPack has both) and CUDA's runtime
library, and nothing of graphopt. An output of floats must keep a signal to quantization noise ratio
(SQNR, 10 log10(sum r^2 / sum (x - r)^2) in dB) that metadata.json states, and hold no NaN or
infinity that the reference has not; any other output must agree in 90% of its elements. Exit
status: 0 as expected, 1 not as expected, 2 it cannot be tried here.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:  # JetPack 5 has Python 3.8
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    Arrays: TypeAlias = dict[str, np.ndarray[Any, Any]]

LEAST_EQUAL = 0.9
_CUDART = (
    "libcudart.so",
    "libcudart.so.13",
    "libcudart.so.12",
    "libcudart.so.11.0",
    "/usr/local/cuda/lib64/libcudart.so",
)
# cudaMemcpyKind (CUDA runtime API).
_TO_DEVICE, _TO_HOST = 1, 2
# TensorRT's names for the types that numpy has too.
_TYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}


class CannotRunError(Exception):
    """It cannot be tried here, and why, in one line."""


class Agreement(NamedTuple):
    """How well one output agrees with its reference.

    `sqnr_db` is infinite for equal values, and -inf where only one of both is finite; None for
    what is not floating point. `equal` is the share of elements that are the same.
    """

    sqnr_db: float | None
    equal: float

    def within(self, least_sqnr_db: float) -> bool:
        if self.sqnr_db is None:
            return self.equal >= LEAST_EQUAL
        return self.sqnr_db >= least_sqnr_db

    def __str__(self) -> str:
        if self.sqnr_db is None:
            return f"{self.equal:.1%} equal"
        return f"SQNR {self.sqnr_db:.1f} dB"


class Cuda:
    """As much of CUDA's runtime library as an engine needs."""

    def __init__(self, library: Any) -> None:
        self.library = library

    def allocate(self, size: int) -> int:
        """The address of `size` bytes on the GPU."""
        pointer = ctypes.c_void_p()
        self.call("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(max(size, 1)))
        return int(pointer.value or 0)

    def free(self, address: int) -> None:
        # After an error that was told already, this one fails too.
        self.library.cudaFree(ctypes.c_void_p(address))

    def to_device(self, address: int, array: np.ndarray[Any, Any]) -> None:
        self._copy(address, array.ctypes.data, array.nbytes, _TO_DEVICE)

    def to_host(self, array: np.ndarray[Any, Any], address: int) -> None:
        self._copy(array.ctypes.data, address, array.nbytes, _TO_HOST)

    def synchronize(self) -> None:
        self.call("cudaDeviceSynchronize")

    def create_stream(self) -> int:
        pointer = ctypes.c_void_p()
        self.call("cudaStreamCreate", ctypes.byref(pointer))
        return int(pointer.value or 0)

    def call(self, name: str, *arguments: Any) -> None:
        status = getattr(self.library, name)(*arguments)
        if status != 0:
            raise CannotRunError(f"{name} fails with CUDA error {status}")

    def _copy(self, to: int, source: int, size: int, kind: int) -> None:
        pointers = ctypes.c_void_p(to), ctypes.c_void_p(source)
        self.call("cudaMemcpy", *pointers, ctypes.c_size_t(size), kind)


class Engine:
    """An engine on this GPU."""

    def __init__(self, trt: Any, cuda: Cuda, content: bytes) -> None:
        self.cuda = cuda
        errors: list[str] = []

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity.name in ("ERROR", "INTERNAL_ERROR"):
                    errors.append(" ".join(message.split()))

        self._logger, self.errors = Logger(), errors
        self._runtime = trt.Runtime(self._logger)
        self.engine = self._runtime.deserialize_cuda_engine(content)
        if self.engine is None:
            raise CannotRunError(
                f"TensorRT {trt.__version__} cannot load the engine: {self.complaint()}"
            )
        self.context = self.engine.create_execution_context()
        if self.context is None:
            raise CannotRunError(f"TensorRT cannot prepare the engine: {self.complaint()}")
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        self.inputs = [name for name in names if self._is_input(name)]
        self.outputs = [name for name in names if not self._is_input(name)]
        self.stream = cuda.create_stream()

    def complaint(self) -> str:
        """What TensorRT said last."""
        return self.errors[-1] if self.errors else "no reason given"

    def run(self, feed: Arrays) -> Arrays:
        """The outputs for `feed`, both by name."""
        addresses: list[int] = []
        try:
            outputs = self.prepare(feed, addresses)
            self.enqueue()
            self.cuda.synchronize()
            for index, array in enumerate(outputs.values(), len(self.inputs)):
                self.cuda.to_host(array, addresses[index])
            return outputs
        finally:
            for address in addresses:
                self.cuda.free(address)

    def prepare(self, feed: Arrays, addresses: list[int]) -> Arrays:
        """Puts `feed` onto the GPU, and gives empty arrays for the outputs.

        Args:
            addresses: takes the memory on the GPU, of the inputs and then of the outputs.
        """
        for name in self.inputs:
            if name not in feed:
                raise CannotRunError(f"there is nothing for the engine's input '{name}'")
            array = np.ascontiguousarray(feed[name], self._dtype(name))
            if not self.context.set_input_shape(name, tuple(feed[name].shape)):
                text = "x".join(map(str, feed[name].shape))
                raise CannotRunError(f"the engine does not take {text} for input '{name}'")
            self._place(name, array.nbytes, addresses)
            self.cuda.to_device(addresses[-1], array)
        outputs = {}
        for name in self.outputs:
            shape = tuple(self.context.get_tensor_shape(name))
            if any(size < 0 for size in shape):
                raise CannotRunError(f"the shape of output '{name}' depends on the data")
            outputs[name] = np.empty(shape, self._dtype(name))
            self._place(name, outputs[name].nbytes, addresses)
        return outputs

    def enqueue(self) -> None:
        if not self.context.execute_async_v3(self.stream):
            raise CannotRunError(f"the engine does not run: {self.complaint()}")

    def _place(self, name: str, size: int, addresses: list[int]) -> None:
        addresses.append(self.cuda.allocate(size))
        self.context.set_tensor_address(name, addresses[-1])

    def _is_input(self, name: str) -> bool:
        return bool(self.engine.get_tensor_mode(name).name == "INPUT")

    def _dtype(self, name: str) -> Any:
        told = self.engine.get_tensor_dtype(name).name
        if told not in _TYPES:
            raise CannotRunError(f"'{name}' is {told}, which numpy does not have")
        return _TYPES[told]


def load_cudart(load: Callable[[str], Any] = ctypes.CDLL) -> Cuda:
    """CUDA's runtime library, from wherever it is."""
    packages = sorted(
        str(path)
        for entry in sys.path
        if entry
        for path in Path(entry).glob("nvidia/*/lib/libcudart.so.*")
    )
    for name in (*_CUDART, *packages):
        try:
            return Cuda(load(name))
        except OSError:
            continue
    raise CannotRunError("CUDA's runtime library, libcudart.so, is not found")


def compare(expected: np.ndarray[Any, Any], found: np.ndarray[Any, Any]) -> Agreement:
    """How well `found` agrees with `expected`."""
    if expected.shape != found.shape:
        raise CannotRunError(f"an output is {found.shape}, the reference {expected.shape}")
    same = expected == found
    if expected.dtype.kind != "f":
        return Agreement(None, float(same.mean()) if same.size else 1.0)
    want, got = expected.astype(np.float64), found.astype(np.float64)
    both_nan = np.isnan(want) & np.isnan(got)
    equal = float((same | both_nan).mean()) if same.size else 1.0
    odd = ~(np.isfinite(want) & np.isfinite(got))
    if np.any(odd & ~same & ~both_nan):
        return Agreement(-math.inf, equal)
    want, got = want[~odd], got[~odd]
    signal, noise = float(np.sum(want**2)), float(np.sum((want - got) ** 2))
    if noise == 0:
        return Agreement(math.inf, equal)
    return Agreement(10 * math.log10(signal / noise) if signal else -math.inf, equal)


def read_metadata(bundle: Path) -> dict[str, Any]:
    """metadata.json, after the files of the reference were checked against it."""
    path = bundle / "metadata.json"
    try:
        metadata: dict[str, Any] = json.loads(path.read_text("utf-8"))
        for name, told in metadata["files"].items():
            if name.startswith("reference/"):
                content = (bundle / name).read_bytes()
                if hashlib.sha256(content).hexdigest() != told["sha256"]:
                    raise CannotRunError(f"{name} is not what it was; copy the bundle again")
    except OSError as error:
        raise CannotRunError(f"{error.filename}: {error.strerror}") from None
    except (ValueError, KeyError) as error:
        raise CannotRunError(f"{path}: is not a bundle's ({error})") from None
    return metadata


def check_case(engine: Engine, bundle: Path, case: dict[str, Any]) -> dict[str, Agreement]:
    """How well each output of one reference case agrees."""
    feed = {name: np.load(bundle / path) for name, path in case["inputs"].items()}
    outputs = engine.run(feed)
    agreements = {}
    for name, path in case["outputs"].items():
        if name not in outputs:
            raise CannotRunError(f"the engine has no output '{name}'")
        agreements[name] = compare(np.load(bundle / path), outputs[name])
    return agreements


def verify(bundle: Path, engine_path: Path) -> list[dict[str, Any]]:
    """One row for each output of each case: what was found, and whether it is good enough."""
    metadata = read_metadata(bundle)
    try:
        content = engine_path.read_bytes()
    except OSError as error:
        reason = f"{engine_path}: {error.strerror}; run build.sh"
        raise CannotRunError(reason) from None
    try:
        import tensorrt as trt
    except ImportError as error:
        raise CannotRunError(f"TensorRT's Python package does not load: {error}") from None
    engine = Engine(trt, load_cudart(), content)
    least = float(metadata["reference"]["least_sqnr_db"])
    rows = []
    for index, case in enumerate(metadata["reference"]["cases"]):
        for name, agreement in check_case(engine, bundle, case).items():
            row = {"case": index, "output": name, "equal": agreement.equal}
            row["sqnr_db"] = None if agreement.sqnr_db is None else str(agreement.sqnr_db)
            row["least_sqnr_db"] = least
            row["passed"] = agreement.within(least)
            rows.append(row)
            verdict = "good" if row["passed"] else "NOT GOOD"
            print(f"case {index}, output {name}: {agreement}, {verdict}")  # noqa: T201
    return rows


def main(arguments: Sequence[str]) -> int:
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", type=Path, default=here / "model.engine")
    parser.add_argument("--json", type=Path, help="write what was found there")
    options = parser.parse_args(arguments)
    try:
        rows = verify(here, options.engine)
        if options.json is not None:
            options.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    except (CannotRunError, OSError) as error:
        sys.stderr.write(f"verify.py: {error}\n")
        return 2
    return 0 if rows and all(row["passed"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
