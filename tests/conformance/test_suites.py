"""All models of ONNX's backend suites through the default pipeline, in five forms.

This runs what tools/conformance.py runs. The counts are exact, so that no model drops out unseen;
another version of onnx has other models.
"""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import pytest
from conformance import complaints, conform, count, table
from conformance_cases import FORMS, SUITES, cases

from graphopt.pipeline.presets import DEFAULT

ONNX_VERSION = "1.23"

MODELS = {"node": 1884, "simple": 26, "pytorch-converted": 82, "pytorch-operator": 35, "light": 9}

# Those that draw random numbers (4 of suite node), and those with the operator Gradient, which no
# engine has (2 of suite simple).
NOT_CHECKED = {("node", form): 4 for form in FORMS if form != "all-but-first"} | {
    ("simple", form): 2 for form in FORMS if form != "dynamic"
}

# The models that have no such form: inputs that are no tensors, one input only, or none.
ABSENT = {
    ("node", "constant-inputs"): 29,
    ("node", "all-but-first"): 523,
    ("node", "defaults"): 55,
    ("node", "dynamic"): 56,
    ("simple", "all-but-first"): 10,
    ("simple", "defaults"): 6,
    ("simple", "dynamic"): 2,
    ("simple", "constant-inputs"): 0,
    ("pytorch-converted", "all-but-first"): 39,
    ("pytorch-operator", "all-but-first"): 18,
}


def test_the_suites_are_those_that_are_counted_here() -> None:
    assert onnx.__version__.startswith(f"{ONNX_VERSION}."), "another onnx ships other models"
    found = {suite: sum(case.suite == suite for case in cases()) for suite in SUITES}
    assert found == MODELS
    assert len({(case.suite, case.name) for case in cases()}) == sum(MODELS.values()) == 2036


@pytest.mark.parametrize("form", FORMS)
def test_every_model_keeps_its_numbers(form: str, tmp_path: Path) -> None:
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    jobs = max(1, (os.cpu_count() or 1) // workers)
    rows = conform(DEFAULT, [form], jobs=jobs, limit=300, keep=tmp_path / "bad")
    text = "\n".join([*complaints(rows), table(rows), f"models kept in {tmp_path}"])
    expected = {}
    for suite, models in MODELS.items():
        statuses = {
            "not-checked": NOT_CHECKED.get((suite, form), 0),
            "absent": ABSENT.get((suite, form), 0),
        }
        statuses["ok"] = models - sum(statuses.values())
        expected[suite, form] = {name: number for name, number in statuses.items() if number}
    assert {key: dict(counts) for key, counts in count(rows).items()} == expected, text
    if form == "constant-inputs":  # the rest: random, control flow, strings, quantization
        assert sum(row.modified for row in rows) > 0.5 * sum(r.status == "ok" for r in rows)
