"""Data in an order: a score for every example, a selection, an order. A step of preparation.

Dai et al., "Data Efficacy for Language Model Training", 2025 (arXiv 2506.21545): scoring, then
selection, then ordering on one shared score. Nothing here imports torch before a scorer runs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from holdfast.data.orders import Order, arrange, fold, read_order, selected, zigzag

if TYPE_CHECKING:
    from holdfast.ordering._registry import RANKERS, Work, scorer
    from holdfast.ordering.prepare import Ordered, order
    from holdfast.ordering.rank_correlation import agreement

_LAZY = {
    "RANKERS": "holdfast.ordering._registry",
    "Work": "holdfast.ordering._registry",
    "scorer": "holdfast.ordering._registry",
    "agreement": "holdfast.ordering.rank_correlation",
    "Ordered": "holdfast.ordering.prepare",
    "order": "holdfast.ordering.prepare",
}

__all__ = [
    "RANKERS",
    "Order",
    "Ordered",
    "Work",
    "agreement",
    "arrange",
    "fold",
    "order",
    "read_order",
    "scorer",
    "selected",
    "zigzag",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
