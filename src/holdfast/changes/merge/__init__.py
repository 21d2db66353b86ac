"""One model out of several finished runs or models, without training."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.changes.merge.combine import Merged, merge
    from holdfast.changes.merge.hows import MERGES

__all__ = ["MERGES", "Merged", "merge"]

_HOMES = {
    "MERGES": "holdfast.changes.merge.hows",
    "Merged": "holdfast.changes.merge.combine",
    "merge": "holdfast.changes.merge.combine",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'holdfast.changes.merge' has no attribute '{name}'")
