"""Every weight of a model named by its role, and the language to select weights by it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.anatomy.core import Anatomy, anatomy, select
    from holdfast.anatomy.meta import load_meta
    from holdfast.anatomy.parts import Part, RowMask, Rows
    from holdfast.anatomy.selection import Selection

__all__ = [
    "Anatomy",
    "Part",
    "RowMask",
    "Rows",
    "Selection",
    "anatomy",
    "load_meta",
    "select",
]

_HOME = {
    "Anatomy": "core",
    "Part": "parts",
    "RowMask": "parts",
    "Rows": "parts",
    "Selection": "selection",
    "anatomy": "core",
    "load_meta": "meta",
    "select": "core",
}


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(f"holdfast.anatomy.{_HOME[name]}"), name)
    raise AttributeError(f"module 'holdfast.anatomy' has no attribute '{name}'")
