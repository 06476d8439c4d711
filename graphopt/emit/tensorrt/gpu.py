"""Which GPU is here: asked of the CUDA driver, which every machine with a GPU has."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

# CUdevice_attribute (CUDA driver API): COMPUTE_CAPABILITY_MAJOR and _MINOR.
_MAJOR, _MINOR = 75, 76


def compute_capability(load: Callable[[str], Any] = ctypes.CDLL) -> str | None:
    """The compute capability of the first GPU, such as "8.6"; None if there is none.

    Args:
        load: opens the driver's library.
    """
    try:
        driver = load("libcuda.so.1")
    except OSError:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if (
        driver.cuInit(0) != 0
        or driver.cuDeviceGet(ctypes.byref(device), 0) != 0
        or driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device) != 0
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device) != 0
    ):
        return None
    return f"{major.value}.{minor.value}"
