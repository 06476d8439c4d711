"""The rules, in the order in which they are tried."""

from __future__ import annotations

from functools import partial

from graphopt.rewriting import Rule
from graphopt_passes.fuse_affine.affine import ARITHMETIC
from graphopt_passes.fuse_affine.ahead import fold_ahead
from graphopt_passes.fuse_affine.behind import fold_norm, fold_step
from graphopt_passes.fuse_affine.chains import drop_zero, join
from graphopt_passes.fuse_affine.hosts import HOSTS
from graphopt_passes.fuse_affine.norm import NORM


def rules(max_growth: int) -> tuple[Rule, ...]:
    """The rules; a copy of a weight that nodes share may add `max_growth` bytes."""
    return (
        Rule("batch-norm", (NORM,), partial(fold_norm, max_growth=max_growth)),
        Rule("add-zero", ("Add", "Sub"), drop_zero),
        Rule("scale-or-shift", ARITHMETIC, partial(fold_step, max_growth=max_growth)),
        Rule("affine-chain", ARITHMETIC, partial(join, max_growth=max_growth)),
        Rule("affine-ahead", HOSTS, partial(fold_ahead, max_growth=max_growth)),
    )
