"""What did a change do? Two models on the same examples, compared, diagnosed, repaired."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Comparison": "compare",
    "compare": "compare",
    "compare_models": "compare",
    "Pairs": "paired",
    "judge": "verdict",
    "gate": "verdict",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
