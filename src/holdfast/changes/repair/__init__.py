"""Taking back part of what a tuning changed: search without training, and write the result."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Blend": "blend",
    "Candidate": "candidates",
    "Repair": "result",
    "interpolate": "stream",
    "repair": "search",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
