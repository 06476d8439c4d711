"""What the pages of eliminate-noops share: models of one value that goes or stays."""

from __future__ import annotations

import numpy as np
from rewriting import Outcome, apply, both, held

from graphopt_passes.eliminate_noops import EliminateNoops

F32 = np.float32([0.0, -0.0, 1.5, -2.25, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3.4e38])


KINDS = {
    "float": F32.reshape(2, 5),
    "double": F32.astype(np.float64).reshape(2, 5),
    "float16": F32[:9].astype(np.float16).reshape(3, 3),
    "int64": np.array([[0, 1, -1], [2**63 - 1, -(2**63), 2**53 + 1]]),
    "int32": np.array([[0, 1, -1], [2**31 - 1, -(2**31), 2**24 + 1]], np.int32),
    "bool": np.array([[True, False, True]]),
    "uint8": np.array([[0, 1, 255]], np.uint8),
}


def eliminate(
    body: str,
    *,
    kind: str = "float",
    dims: str = "N, M",
    result: str = "A, B",
    opset: int = 18,
    **constants: np.ndarray,
) -> Outcome:
    """A model in which `m` is made of the input x; its output is a Transpose of m."""
    return apply(
        EliminateNoops(),
        f'<ir_version: 8, opset_import: ["" : {opset}]> '
        f"g ({kind}[{dims}] x) => ({kind}[{result}] y) {{ {body} \n y = Transpose (m) }}",
        both(*(held(name, array) for name, array in constants.items())),
    )


def goes(outcome: Outcome, x: np.ndarray) -> bool:
    """Whether only the Transpose is left, with the same numbers to the bit."""
    return outcome.operators == ["Transpose"] and outcome.agrees({"x": x})


def stays(outcome: Outcome, x: np.ndarray) -> bool:
    return not outcome.result.modified and outcome.agrees({"x": x})
