"""Feeds with a schedule of their own: data as it stands, two stages with a share of the first."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from holdfast.carried import MEMORY, Ended, State
from holdfast.data.orders import Order
from holdfast.pieces.feeds import draws
from holdfast.plan import NEW, Draw, source_id

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class InOrder:
    """The stage's own data in the order in which it stands, epoch after epoch.

    Args:
        order: laid over the places, as if their numbers were scores: ``fold:3`` folds data that
            stands sorted.
    """

    order: Order = field(default_factory=lambda: Order("as-is"))
    name: str = "in-order"
    sources: tuple[str, ...] = field(default=(), init=False)

    def steps(self, sizes: Mapping[str, int], batch: int, epochs: float) -> int:
        return max(1, math.floor(epochs * sizes[NEW] / batch))

    def __call__(self, sizes: Mapping[str, int], step: int, batch: int, seed: int) -> list[Draw]:
        count = sizes[NEW]
        places = _places(self.order, count, seed)
        return [(NEW, places[k % count]) for k in range(step * batch, (step + 1) * batch)]


@lru_cache(maxsize=8)
def _places(order: Order, count: int, seed: int) -> list[int]:
    return order(range(count), seed)


Place = tuple[int, int]
"""(stage from 1, index in that stage's own data)."""


@lru_cache(maxsize=32)
def portion(size: int, share: float, seed: str) -> tuple[int, ...]:
    """round(share * size) indices, drawn without replacement, in their own order."""
    return tuple(sorted(random.Random(seed).sample(range(size), round(share * size))))


@dataclass(frozen=True, kw_only=True)
class DualStage:
    """Specialised stages first; then general data with a small share of the specialised.

    The share is drawn once, without replacement, and shuffled into the general data: an epoch
    reads every example of both once. Dong et al. 2024 (DMT).

    Args:
        share: k, of each specialised set.
        specialised: how many stages are specialised; those after them are general.
        beside: sources of specialised data, for a run that begins with the general stage.
    """

    share: float
    specialised: int = 1
    beside: tuple[str, ...] = ()
    name: str = "dual-stage"
    places: tuple[Place, ...] = field(default=(), repr=False)
    """(stage, index) of what is drawn of the specialised stages so far."""
    ended: int = field(default=0, repr=False)
    """How many stages have ended."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Specialised sources that a stage must have."""
        return self.beside

    def epoch(self, sizes: Mapping[str, int], seed: int) -> dict[str, Sequence[int]]:
        """What an epoch reads of each source: the stage's own data, and the share."""
        drawn = {n: portion(sizes[n], self.share, f"{seed}-{source_id(n)}") for n in self.beside}
        return {NEW: range(sizes[NEW]), MEMORY: range(sizes.get(MEMORY, 0)), **drawn}

    def steps(self, sizes: Mapping[str, int], batch: int, epochs: float) -> int:
        read = sum(len(indices) for indices in self.epoch(sizes, 0).values())
        return max(1, math.floor(epochs * read / batch))

    def __call__(self, sizes: Mapping[str, int], step: int, batch: int, seed: int) -> list[Draw]:
        parts = self.epoch(sizes, seed)
        read = sum(len(indices) for indices in parts.values())
        found = []
        for place in draws(read, batch, seed, step * batch):
            for name, indices in parts.items():
                if place < len(indices):
                    found.append((name, indices[place]))
                    break
                place -= len(indices)
        return found

    # From stage to stage

    def exemplars(self) -> Sequence[Place]:
        """What the stage that begins reads of the specialised ones: nothing while one is."""
        return self.places if self.ended >= self.specialised else ()

    def foresee(self, sizes: Sequence[int], seed: int) -> Sequence[Place]:
        feed = self
        for stage, size in enumerate(sizes, 1):
            feed = feed.after(stage, size, seed)
        return feed.exemplars()

    def after(self, stage: int, size: int, seed: int) -> DualStage:
        """The feed once a stage of ``size`` examples has ended."""
        if stage > self.specialised or self.beside:
            return replace(self, ended=stage)
        drawn = portion(size, self.share, f"{seed}-stage-{stage}")
        places = (*self.places, *((stage, i) for i in drawn))
        return replace(self, places=places, ended=stage)

    def keep(self, ended: Ended) -> dict[str, Tensor]:
        """The places drawn of the specialised stages, [M, 2], and how many stages ended."""
        import torch

        feed = self.after(ended.stage, len(ended.examples), ended.seed)
        places = torch.tensor(feed.places, dtype=torch.int64).reshape(-1, 2)
        return {"places": places, "ended": torch.tensor([feed.ended])}

    def recall(self, state: State) -> DualStage:
        if not state:
            return replace(self, places=(), ended=0)
        places = tuple((int(s), int(i)) for s, i in state["places"].tolist())
        return replace(self, places=places, ended=int(state["ended"]))
