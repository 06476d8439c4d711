"""What the pages on calibration share: arrays, a net, samples that count how they are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields

import numpy as np
import onnx_ir as ir
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graphopt.data.arrays import ArraySamples
from graphopt.data.feeds import Feed, input_specs

floats32 = hnp.arrays(
    np.float32,
    st.integers(0, 40),
    elements=st.floats(allow_nan=False, allow_infinity=False, width=32),
)
floats64 = hnp.arrays(
    np.float64, st.integers(0, 40), elements=st.floats(allow_nan=False, allow_infinity=False)
)
arrays = st.one_of(floats32, floats64)


def state(statistic: object) -> tuple[object, ...]:
    """All that a histogram, or what is known of channels, is, to the bit."""
    values = (getattr(statistic, f.name) for f in fields(statistic))
    return tuple((np.asarray(v).dtype.str, np.asarray(v).tobytes()) for v in values)


NET = """
<ir_version: 9, opset_import: ["" : 17]>
g (float[batch, 4] x) => (float[batch, 4] y) <float[1] two = {2}>
{
    a = Mul (x, two)
    b = Relu (a)
    c = Neg (b)
    y = Add (c, x)
}
"""
NAMES = ["x", "a", "b", "c", "y"]


@dataclass
class Counted:
    """Samples that count how often they are read from the start."""

    inner: ArraySamples
    is_random: bool = False
    description: str = "counted"
    starts: list[int] = field(default_factory=list)

    def __iter__(self) -> Iterator[Feed]:
        self.starts.append(1)
        return iter(self.inner)

    def count(self) -> int:
        return self.inner.count()


def samples(of: ir.Model, data: np.ndarray) -> Counted:
    return Counted(ArraySamples("test", {"x": data}, input_specs(of)))


@dataclass(frozen=True)
class Noise:
    """Images that are made as they are read; nobody keeps them."""

    number: int
    is_random: bool = True
    description: str = "noise"

    def __iter__(self) -> Iterator[Feed]:
        generator = np.random.default_rng(0)
        for _ in range(self.number):
            yield {"x": generator.standard_normal((1, 3, 256, 256), np.float32)}

    def count(self) -> int:
        return self.number
