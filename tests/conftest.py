"""What all tests share."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[1]

# How long a shared machine takes says nothing of the code: speed is for the benchmarks.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of trained models and their data."""
    return ROOT / "fixtures"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if platform.machine() != "x86_64":
        terminalreporter.write_line(
            f"NOT RUN on {platform.machine()}: the engine tests; TensorRT-RTX is for x86_64 only"
        )
