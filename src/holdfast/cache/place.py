"""Where the cache is."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.cache.store import Store

VARIABLE = "HOLDFAST_CACHE"
"""Environment variable: a folder, or ``off``."""


def default_folder() -> Path:
    """``holdfast/tensors`` in the user's cache folder (``XDG_CACHE_HOME``, else ``~/.cache``)."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "holdfast" / "tensors"


def open_store(
    cache: str = "auto", *, limit: int | None = None, small: bool = False
) -> Store | None:
    """The store that a setting means; the same object for the same folder of one process.

    Args:
        cache: ``off``; a folder; or ``auto``, which is what the variable ``HOLDFAST_CACHE`` says,
            else the user's cache folder.
        limit: bytes on disk; None: 20 GiB.
        small: the values are cheap to compute again: ``auto`` then keeps them in memory only,
            unless ``HOLDFAST_CACHE`` names a folder.

    Returns:
        None if nothing is to be kept.
    """
    said = os.environ.get(VARIABLE, "") if cache == "auto" else cache
    if said == "off":
        return None
    folder = Path(said) if said else (None if small else default_folder())
    return _opened(str(folder.expanduser().absolute()) if folder else None, limit)


@lru_cache(maxsize=8)
def _opened(folder: str | None, limit: int | None) -> Store:
    from holdfast.cache.store import DISK, Store

    return Store(Path(folder) if folder else None, limit=limit or DISK)
