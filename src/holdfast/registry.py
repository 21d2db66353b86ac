"""Things that are found by name: methods, tasks, models, data sets, probes.

A registry knows its built-in entries by the modules that register them, and a third
party's by an entry-point group ``holdfast.<kind>s``. Nothing is imported before the
first look-up, so ``import holdfast`` stays light.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from holdfast.errors import UnknownName, UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One named thing: what it is, one line about it, and the paper that it comes from."""

    name: str
    value: T
    summary: str
    paper: str = ""


class Registry(Generic[T]):
    """Named entries of one kind.

    Args:
        kind: singular noun used in errors and in the entry-point group, e.g. ``"method"``.
        modules: modules whose import registers the built-in entries.
    """

    def __init__(self, kind: str, *modules: str) -> None:
        self.kind = kind
        self._modules = modules
        self._entries: dict[str, Entry[T]] = {}
        self._loaded = False

    def register(self, name: str, *, summary: str, paper: str = "") -> Callable[[T], T]:
        """Decorator that adds ``value`` under ``name``; a second one of that name is an error."""

        def add(value: T) -> T:
            if name in self._entries:
                raise UsageError(f"there are two {self.kind}s named '{name}'")
            self._entries[name] = Entry(name, value, summary, paper)
            return value

        return add

    def __getitem__(self, name: str) -> Entry[T]:
        """Raises :class:`holdfast.errors.UnknownName` with the nearest match."""
        self._load()
        try:
            return self._entries[name]
        except KeyError:
            raise UnknownName(self.kind, name, self._entries) from None

    def __contains__(self, name: str) -> bool:
        self._load()
        return name in self._entries

    def __iter__(self) -> Iterator[Entry[T]]:
        self._load()
        return iter(list(self._entries.values()))

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        for module in self._modules:
            importlib.import_module(module)
        for point in entry_points(group=f"holdfast.{self.kind}s"):
            point.load()
