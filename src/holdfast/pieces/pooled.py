"""Feeds that add a fixed set of examples to a stage's own. No torch until an order is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from holdfast.errors import ConfigError
from holdfast.pieces.feeds import draws
from holdfast.plan import NEW, Draw, source_id


@dataclass(frozen=True)
class Pooled:
    """A source and the stage's own data as one set, in shuffled epochs of both together."""

    source: str
    name: str = "pooled"

    @property
    def sources(self) -> tuple[str, ...]:
        """What a stage must have beside its own data."""
        return (self.source,)

    def steps(self, sizes: Mapping[str, int], batch: int, epochs: float) -> int:
        """An epoch reads the stage's own data and the source once each."""
        return max(1, math.floor(epochs * (sizes[NEW] + sizes[self.source]) / batch))

    def __call__(self, sizes: Mapping[str, int], step: int, batch: int, seed: int) -> list[Draw]:
        first = sizes[self.source]
        order = draws(first + sizes[NEW], batch, seed, step * batch)
        return [(self.source, i) if i < first else (NEW, i - first) for i in order]


@dataclass(frozen=True)
class Interpolated:
    """Every step reads exactly ``count`` examples of a source and fills up with the stage's own.

    A count below 1 is a share of the step, rounded to whole examples, at least one. Both are
    read in shuffled epochs of their own. An epoch is one of the stage's own data.

    Raises:
        ConfigError: when read, if ``count`` leaves no room for the stage's own data.
    """

    source: str
    count: float
    name: str = "interpolated"

    @property
    def sources(self) -> tuple[str, ...]:
        """What a stage must have beside its own data."""
        return (self.source,)

    def steps(self, sizes: Mapping[str, int], batch: int, epochs: float) -> int:
        return max(1, math.floor(epochs * sizes[NEW] / self._own(batch)))

    def __call__(self, sizes: Mapping[str, int], step: int, batch: int, seed: int) -> list[Draw]:
        own = self._own(batch)
        count = batch - own
        kept = draws(sizes[self.source], count, seed + source_id(self.source), step * count)
        new = draws(sizes[NEW], own, seed, step * own)
        return [(self.source, i) for i in kept] + [(NEW, i) for i in new]

    def _own(self, batch: int) -> int:
        count = max(1, round(self.count * batch)) if self.count < 1 else int(self.count)
        if count >= batch:
            raise ConfigError(
                f"'{self.name}' gives {count} of the {batch} examples of a step to "
                f"'{self.source}', which leaves none for what the stage learns; give it fewer, "
                "or set a larger train.batch_size."
            )
        return batch - count
