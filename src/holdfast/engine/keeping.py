"""Values kept by row of a batch: what a row is called, and where its values come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from holdfast.cache.keys import digest
from holdfast.cache.store import Store
from holdfast.engine.rowkeys import row_keys
from holdfast.plan import TAGS

if TYPE_CHECKING:
    from holdfast.engine.drawn import Drawn

LABELS = ("labels", "num_items_in_batch", *TAGS)
"""What a batch has beside the model's inputs."""


class Kind(Protocol):
    """One kind of value that a row of a batch has."""

    scope: str
    """A hash of all that the value depends on beside the row."""

    def marks(self, batch: Mapping[str, Any]) -> list[bytes]:
        """For each row what else the value depends on."""
        ...

    def compute(self, batch: Mapping[str, Any]) -> list[Tensor]:
        """The value of each row."""
        ...


@dataclass(frozen=True)
class Names:
    """What the rows of a batch are called."""

    keys: list[str]
    groups: list[int] | None
    """The group in which each row's values are computed, where the examples are known."""


class Rows:
    """Looks up values of rows, and computes those that are known to be needed.

    Args:
        store: where they are kept.
        config: the model's, which knows the placeholders of images.
        drawn: the examples that will be read, if that is known.
    """

    def __init__(self, store: Store, config: Any, drawn: Drawn | None) -> None:
        self.store, self.config, self.drawn = store, config, drawn

    def names(self, inputs: Mapping[str, Any], tags: Mapping[str, Any]) -> Names | str:
        """Names of the rows of a padded batch, or why they have none.

        Args:
            tags: what :data:`holdfast.plan.TAGS` names, where the feed gave it.
        """
        if self.drawn is not None and all(tag in tags for tag in TAGS):
            draws = self.drawn.draws(tags)
            return Names(self.drawn.keys(draws), [self.drawn.group_of(d) for d in draws])
        keys = row_keys(inputs, self.config)
        return keys if isinstance(keys, str) else Names(keys, None)

    def get(self, kind: Kind, names: Names, batch: Mapping[str, Any]) -> list[Tensor] | None:
        """The value of each row; None if one is not known and cannot be computed ahead."""
        keys = _keys(kind, names.keys, batch)
        rows = [self.store.get(k) for k in keys]
        if names.groups is not None:
            lost = {g for g, row in zip(names.groups, rows, strict=True) if row is None}
            made: dict[str, Tensor] = {}
            for group in sorted(lost):
                made |= self.fill(kind, group)
            rows = [made.get(k, row) for k, row in zip(keys, rows, strict=True)]
        found = [row for row in rows if row is not None]
        return found if len(found) == len(rows) else None

    def put(
        self, kind: Kind, names: Names, batch: Mapping[str, Any], values: Sequence[Tensor]
    ) -> None:
        """Keep the values that a pass over ``batch`` showed."""
        for key, value in zip(_keys(kind, names.keys, batch), values, strict=True):
            self.store.put(key, value)

    def fill(self, kind: Kind, group: int) -> dict[str, Tensor]:
        """Compute and keep the values of a group, if one of them is missing."""
        assert self.drawn is not None
        each = list(self.drawn.group_keys(group).values())
        batch = self.drawn.batch(group)
        keys = _keys(kind, each, batch)
        if all(key in self.store for key in keys):
            held = {key: self.store.get(key) for key in keys}
            if all(value is not None for value in held.values()):
                return {k: v for k, v in held.items() if v is not None}
        made = dict(zip(keys, (v.cpu() for v in kind.compute(batch)), strict=True))
        for key, value in made.items():
            self.store.put(key, value)
        return made


def model_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """What of a batch the model reads."""
    return {k: v for k, v in batch.items() if k not in (*LABELS, "use_cache")}


def _keys(kind: Kind, names: Sequence[str], batch: Mapping[str, Any]) -> list[str]:
    marks = kind.marks(batch)
    return [digest(kind.scope, name, mark) for name, mark in zip(names, marks, strict=True)]
