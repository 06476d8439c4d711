"""The conformance tests use the library of tools/conformance.py; its checks have one home."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "tools"))
