"""Weights times a factor for each channel, in their own type."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.rewriting import DeclinedError


@dataclass(frozen=True)
class Layout:
    """Where the channels of a weight are.

    `view` is the shape in which it is looked at: [lead, one kind of channels, the other, rest].
    """

    view: tuple[int, int, int, int]
    outputs: int
    """The axis of `view`, 1 or 2, on which the output channels are."""
    grouped: bool = True
    """Whether `lead` are groups, each with channels of its own; else it is a batch."""

    @property
    def inputs(self) -> int:
        """The axis of `view` on which the input channels are."""
        return 3 - self.outputs

    def channels(self, axis: int) -> int:
        return (self.view[0] if self.grouped else 1) * self.view[axis]

    def spread(self, factor: np.ndarray, axis: int) -> np.ndarray:
        """`factor`, [channels of `axis`] or [1], in a shape that broadcasts to `view`."""
        if factor.size == 1:
            return factor.reshape(1, 1, 1, 1)
        lead, rest = self.view[0] if self.grouped else 1, self.view[3]
        if axis == 1:
            return factor.reshape(lead, -1, 1, 1)
        # As long as the innermost axes, which numpy then walks along in one go.
        return np.repeat(factor.reshape(lead, 1, -1, 1), rest, axis=3)

    def peaks(self, weight: np.ndarray) -> np.ndarray:
        """The largest magnitude in each output channel; NaN where there is one."""
        lead, one, other, rest = self.view
        rows = weight.reshape(lead, one, other * rest)
        axis = 3 - self.outputs
        peaks = np.maximum(rows.max(axis=axis, initial=0), -rows.min(axis=axis, initial=0))
        if self.outputs == 2:
            peaks = peaks.reshape(lead, other, rest).max(axis=2, initial=0)
        return np.asarray(peaks if self.grouped else peaks.max(axis=0, initial=0))


def scaled(weight: np.ndarray, layout: Layout, factor: np.ndarray, axis: int) -> np.ndarray:
    """`weight` times `factor` ([channels] or [1], float64) along `axis` of the layout.

    Raises:
        DeclinedError: if a product overflows, or a channel comes so near to zero that its weights
            lose digits.
    """
    # float16 is slow and short: it is rounded once, at the end.
    work = np.dtype(np.float32) if weight.dtype == np.float16 else weight.dtype
    with np.errstate(all="ignore"):
        spread = layout.spread(factor, axis)
        product = weight.reshape(layout.view) * spread.astype(work)
        result = product.astype(weight.dtype, copy=False)
        peaks = layout.peaks(result)
    if not np.isfinite(peaks).all():
        raise DeclinedError(f"the folded weights would not be finite in {weight.dtype}")
    if (peaks < np.finfo(weight.dtype).tiny).any():
        _require_digits(weight.reshape(layout.view), spread, result, layout)
    return result.reshape(weight.shape)


def _require_digits(
    weight: np.ndarray, factor: np.ndarray, result: np.ndarray, layout: Layout
) -> None:
    """Declines if a channel's error is more than rounding: one of zeros only has none."""
    exact = weight.astype(np.float64) * factor
    error = layout.peaks(np.abs(result - exact))
    if (error > layout.peaks(exact) * float(np.finfo(weight.dtype).eps)).any():
        raise DeclinedError(f"the folded weights would be too small for {weight.dtype}")


def contracted(weight: np.ndarray, layout: Layout, shift: np.ndarray) -> np.ndarray:
    """What adding `shift` ([input channels] or [1]) to the input adds to each output channel.

    float64, [output channels]. The layout is grouped, or has a batch of 1.
    """
    with np.errstate(all="ignore"):
        sums = weight.reshape(layout.view).sum(axis=3, dtype=np.float64)
        lead = layout.view[0]
        each = np.broadcast_to(shift, (layout.channels(layout.inputs),)).reshape(lead, -1)
        product = np.einsum("gio,gi->go" if layout.inputs == 1 else "goi,gi->go", sums, each)
    return np.asarray(product.reshape(-1))


def cast(exact: np.ndarray, dtype: np.dtype, what: str = "the folded weights") -> np.ndarray:
    """`exact` in `dtype`.

    Raises:
        DeclinedError: that `what` would not be finite there.
    """
    with np.errstate(all="ignore"):
        rounded = np.asarray(exact, dtype)  # of scalars, too
    if not np.isfinite(rounded).all():
        raise DeclinedError(f"{what} would not be finite in {dtype}")
    return rounded
