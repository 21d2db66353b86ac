"""The examples that a stage reads more than once, in the groups in which they are computed once.

What is looked up must not depend on what happens to be in the cache: a run that was killed, or
that follows another, has to give the same bits. A kernel rounds a row differently in another
batch, so each value is computed in one batch only, its group, which follows from the data alone
and is part of its key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from holdfast.cache.keys import content, digest
from holdfast.engine.feeding import Schedule
from holdfast.plan import TAGS, Draw, source_id


class Drawn:
    """A schedule's examples by group.

    Args:
        planned: what the stage reads.
        collate: encoded examples to a padded batch.
        device: where batches go.
    """

    def __init__(
        self, planned: Schedule, collate: Callable[[list[Any]], Any], device: torch.device
    ) -> None:
        self.sources, self.collate, self.device = planned.sources, collate, device
        self.steps = planned.steps
        every = [draw for step in planned.steps for draw in step]
        distinct = sorted(set(every), key=lambda d: (self.sources.tokens(d), d))
        size = planned.largest
        self.groups = [distinct[i : i + size] for i in range(0, len(distinct), size)]
        self.repeats = len(every) / len(distinct)
        """How often an example is read, on average."""
        self._group = {d: g for g, group in enumerate(self.groups) for d in group}
        self._ids = {source_id(name): name for name in self.sources.sizes}
        self._keys: dict[int, dict[Draw, str]] = {}

    @property
    def tokens(self) -> int:
        """Tokens of all examples, each counted once."""
        return sum(self.sources.tokens(d) for group in self.groups for d in group)

    def sees(self) -> bool:
        """Whether any example of the first groups has an image."""
        return any("pixel_values" in self.sources.read(g[0]) for g in self.groups[:64])

    def draws(self, batch: Mapping[str, Any]) -> list[Draw]:
        """Which examples a batch holds, by the tags that the feed gave it."""
        source, example = (batch[tag].tolist() for tag in TAGS)
        return [(self._ids[s], e) for s, e in zip(source, example, strict=True)]

    def keys(self, draws: Sequence[Draw]) -> list[str]:
        """What each example is, and in which group it is computed."""
        return [self.group_keys(self._group[d])[d] for d in draws]

    def group_keys(self, group: int) -> dict[Draw, str]:
        """The keys of one group's examples."""
        if group not in self._keys:
            draws = self.groups[group]
            each = [content(self.sources.read(d)) for d in draws]
            together = digest(*each)
            self._keys[group] = {d: digest(together, str(i)) for i, d in enumerate(draws)}
        return self._keys[group]

    def group_of(self, draw: Draw) -> int:
        return self._group[draw]

    def batch(self, group: int) -> dict[str, Any]:
        """A group as a batch on the device, with labels and :data:`holdfast.plan.TAGS`."""
        draws = self.groups[group]
        batch = dict(self.collate([self.sources.read(d) for d in draws]))
        batch["source"] = torch.tensor([source_id(source) for source, _ in draws])
        batch["example"] = torch.tensor([index for _, index in draws])
        return {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in batch.items()}
