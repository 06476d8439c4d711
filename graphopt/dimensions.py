"""What exporters write for a dimension: known without any library for models."""

from __future__ import annotations

UNKNOWN_DIMENSIONS = frozenset({"", "?", "-1", "None", "none", "unk", "unknown", "dynamic"})
"""What exporters call a dimension that they do not know: two of one such name may differ."""
