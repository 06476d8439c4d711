"""A stand-in for CUDA's runtime library."""

from __future__ import annotations

import ctypes
from typing import Any


class FakeCudart:
    """CUDA's runtime library, with the memory of this process for the GPU's.

    Attributes:
        memory: what is allocated, by address.
        broken: the name of a function that fails.
    """

    def __init__(self, broken: str = "") -> None:
        self.memory: dict[int, Any] = {}
        self.broken = broken
        self.ticks = 0

    def cudaMalloc(self, pointer: Any, size: Any) -> int:  # noqa: N802
        buffer = ctypes.create_string_buffer(size.value)
        address = ctypes.addressof(buffer)
        self.memory[address] = buffer
        pointer._obj.value = address
        return self._status("cudaMalloc")

    def cudaFree(self, pointer: Any) -> int:  # noqa: N802
        del self.memory[pointer.value]
        return 0

    def cudaMemcpy(self, to: Any, source: Any, size: Any, kind: int) -> int:  # noqa: N802
        assert (to if kind == 1 else source).value in self.memory
        ctypes.memmove(to, source, size.value)
        return self._status("cudaMemcpy")

    def cudaStreamCreate(self, pointer: Any) -> int:  # noqa: N802
        pointer._obj.value = 7
        return self._status("cudaStreamCreate")

    def cudaDeviceSynchronize(self) -> int:  # noqa: N802
        return self._status("cudaDeviceSynchronize")

    def cudaEventCreate(self, pointer: Any) -> int:  # noqa: N802
        pointer._obj.value = 8
        return self._status("cudaEventCreate")

    def cudaEventRecord(self, event: Any, stream: Any) -> int:  # noqa: N802
        return self._status("cudaEventRecord")

    def cudaEventSynchronize(self, event: Any) -> int:  # noqa: N802
        return self._status("cudaEventSynchronize")

    def cudaEventElapsedTime(self, milliseconds: Any, start: Any, end: Any) -> int:  # noqa: N802
        self.ticks += 1
        milliseconds._obj.value = 2.0 + self.ticks % 3  # 2, 3 or 4
        return self._status("cudaEventElapsedTime")

    def _status(self, name: str) -> int:
        return 999 if name == self.broken else 0
