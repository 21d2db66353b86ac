"""Models by name: finding, loading, and saving what changed."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Loaded": "loading",
    "export": "saving",
    "load": "loading",
    "load_all": "loading",
    "save_delta": "saving",
}

__all__ = ["Loaded", "export", "load", "load_all", "save_delta"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"holdfast.models.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'holdfast.models' has no attribute '{name}'")
