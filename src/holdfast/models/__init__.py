"""Models by name: finding, loading, and saving what changed."""

from __future__ import annotations

from typing import Any

__all__ = ["Loaded", "export", "load", "load_all", "save_delta"]


def __getattr__(name: str) -> Any:
    from holdfast.models import loading, saving

    for module in (loading, saving):
        if name in __all__ and hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(name)
