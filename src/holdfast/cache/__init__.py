"""What is computed once and looked up afterwards: tensors on disk, keyed by their content."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.cache.place import open_store
    from holdfast.cache.store import Store

__all__ = ["Store", "open_store"]

_HOME = {"Store": "store", "open_store": "place"}


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(f"holdfast.cache.{_HOME[name]}"), name)
    raise AttributeError(f"module 'holdfast.cache' has no attribute '{name}'")
