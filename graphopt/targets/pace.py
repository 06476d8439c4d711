"""How long kernels take, where multiply-accumulates alone do not tell."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    """How long the float kernels of a CPU take for a layer, by its channels.

    The unit is the time of a multiply-accumulate in a Conv whose output channels fill the kernel.

    Attributes:
        block: how many output channels of a Conv are computed as one.
        sets: the time of a Conv of 1, 2, ... blocks in that of the last, which fill the kernel;
            more blocks are several sets, one after the other.
        depthwise: the time of a multiply-accumulate where each channel has a Conv of its own.
    """

    block: int
    sets: tuple[float, ...]
    depthwise: float


# M: AVX-512, one thread, Convs of 1x1 and 3x3 on maps of 14 to 56, batches of 1 and 8: one block to
# four do 66 to 73, 89 to 102, 101 to 113 and 107 to 117 thousand million MACs a second, depthwise
# ones 30; time is in proportion to the input channels. On maps of 7, one block takes up to 0.6.
MLAS_PACE = Pace(block=16, sets=(0.4, 0.6, 0.79, 1.0), depthwise=3.6)
