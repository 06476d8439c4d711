"""What the user wants: which of the options that exclude one another is given, and how much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from graphopt_passes.prune_channels.budget import Quantity

if TYPE_CHECKING:
    from graphopt_passes.prune_channels import PruneChannels

Kind: TypeAlias = Literal["ratio", "params", "macs", "bytes", "latency", "max_drop"]


@dataclass(frozen=True)
class Target:
    """One of the options `TARGETS`, with its value."""

    kind: Kind
    value: float

    @staticmethod
    def of(options: PruneChannels) -> Target:
        values: dict[Kind, float | None] = {
            "ratio": options.ratio,
            "params": options.params,
            "macs": options.macs,
            "bytes": options.bytes,
            "latency": options.latency,
            "max_drop": options.max_drop,
        }
        given = [Target(kind, value) for kind, value in values.items() if value is not None]
        return given[0] if given else Target("ratio", DEFAULT_RATIO)

    def __str__(self) -> str:
        return f"{self.kind}={self.value:.12g}"

    @property
    def quantity(self) -> Quantity:
        """What channels are weighed by."""
        return self.kind if self.kind in ("params", "bytes") else "macs"

    def goal(self, whole: int) -> float:
        """How much of `whole` may be left: for params, macs, bytes."""
        return whole * (1 - self.value) if self.value < 1 else self.value

    def perhaps_meant(self) -> str:
        """The hint that a number that looks like per cent is none, for the end of a sentence."""
        if not 1 <= self.value < 100:
            return ""
        return f"; to cut {self.value:g}% write {self.kind}={self.value / 100:g}"


DEFAULT_RATIO = 0.3
