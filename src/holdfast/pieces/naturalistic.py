"""Rehearsal as it happens in the world: what was not met for long comes back less and less.

No torch until it keeps.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from holdfast.carried import MEMORY, Ended, State
from holdfast.pieces.feeds import draws
from holdfast.pieces.rehearse import Policy, Rehearse
from holdfast.plan import NEW, Draw

if TYPE_CHECKING:
    from torch import Tensor

World = Literal["power", "exponential", "uniform", "recent"]


def shares(ages: Sequence[int], world: World, decay: float) -> list[float]:
    """Of what is rehearsed, the share of each earlier stage; they sum to 1.

        power        age^-decay
        exponential  exp(-decay * age)
        uniform      1
        recent       the youngest alone

    Args:
        ages: in stages, 1 for the one before.
    """
    youngest = min(ages, default=1)
    values = [weight(age, world, decay, youngest) for age in ages]
    total = math.fsum(values)
    return [v / total for v in values]


def weight(age: int, world: World, decay: float, youngest: int = 1) -> float:
    """Of an earlier stage; 1 for the youngest of age 1."""
    if world == "power":
        return math.pow(age, -decay)
    if world == "exponential":
        return math.exp(-decay * (age - youngest))
    return float(world == "uniform" or age == youngest)


def apportion(parts: Sequence[float], total: int) -> list[int]:
    """Whole numbers in the proportion of ``parts`` (which sum to 1) whose sum is ``total``.

    By largest remainders; of equal ones the first.
    """
    exact = [total * part for part in parts]
    counts = [math.floor(x + 1e-9) for x in exact]
    left = sorted(range(len(parts)), key=lambda i: (counts[i] - exact[i], i))
    for i in left[: total - sum(counts)]:
        counts[i] += 1
    return counts


@dataclass(frozen=True, kw_only=True)
class Naturalistic(Rehearse):
    """An epoch reads the stage's own data once, and ``share`` times as many of earlier stages.

    Of the B rehearsed examples stage i gets B w_i / sum_j w_j (:func:`shares`,
    :func:`apportion`), drawn anew for each epoch, each as often as the others of its stage.

    Args:
        share: B for each of the stage's own examples; the same for every ``world``.
        world: how a stage's weight falls with its age.
        decay: the exponent, or the rate of the exponential world.
        mix: ``interleave``: shuffled into the stage's own data; ``after``: read behind it.
        meet: ``share``: every earlier stage, by its age. ``event``: each with probability
            min(1, chance * weight), by the time since it was last met; those that are met get
            equal parts of B, and where none is, the likeliest.
    """

    capacity: int | None = None
    policy: Policy = "balanced"
    share: float = 0.5
    world: World = "power"
    decay: float = 1.0
    mix: Literal["interleave", "after"] = "interleave"
    meet: Literal["share", "event"] = "share"
    chance: float = 1.0
    name: str = "naturalistic"
    run: int = field(default=0, repr=False)
    """The run's seed, of what is met."""

    def budget(self, sizes: Mapping[str, int]) -> int:
        """B, in an epoch."""
        return round(self.share * sizes[NEW]) if sizes.get(MEMORY) else 0

    def steps(self, sizes: Mapping[str, int], batch: int, epochs: float) -> int:
        return max(1, math.floor(epochs * (sizes[NEW] + self.budget(sizes)) / batch))

    def __call__(self, sizes: Mapping[str, int], step: int, batch: int, seed: int) -> list[Draw]:
        length = sizes[NEW] + self.budget(sizes)
        found: list[Draw] = []
        place = step * batch
        while len(found) < batch:
            epoch, first = divmod(place + len(found), length)
            order = self._epoch(sizes[NEW], sizes.get(MEMORY, 0), epoch, seed)
            found += order[first : first + batch - len(found)]
        return found

    def rehearsed(self, own: int, memory: int) -> dict[int, int]:
        """By earlier stage, how many of its examples an epoch reads."""
        by_stage = self._by_stage(memory)
        now = max(by_stage) + 1 if by_stage else 1
        if self.meet == "event":
            met = self.met_in(now)
            parts = [float(stage in met) / len(met) for stage in by_stage]
        else:
            parts = shares([now - stage for stage in by_stage], self.world, self.decay)
        counts = apportion(parts, self.budget({NEW: own, MEMORY: memory})) if by_stage else []
        return dict(zip(by_stage, counts, strict=True))

    def met_in(self, now: int) -> list[int]:
        """The earlier stages that stage ``now`` meets, of ``meet="event"``."""
        last: dict[int, int] = {}
        for stage in range(1, now + 1):
            likely = {
                i: self.chance * weight(stage - at, self.world, self.decay)
                for i, at in last.items()
            }
            found = [
                i for i, p in likely.items()
                if random.Random(f"{self.run}-{stage}-{i}-met").random() < p
            ]  # fmt: skip
            if likely and not found:
                found = [max(likely, key=lambda i: (likely[i], i))]
            last |= dict.fromkeys((*found, stage), stage)
        return found

    def after(self, stage: int, size: int, seed: int) -> Naturalistic:
        feed = super().after(stage, size, seed)
        assert isinstance(feed, Naturalistic)
        return replace(feed, run=seed)

    def keep(self, ended: Ended) -> dict[str, Tensor]:
        import torch

        return {**super().keep(ended), "run": torch.tensor([ended.seed])}

    def recall(self, state: State) -> Naturalistic:
        known = super().recall(state)
        assert isinstance(known, Naturalistic)
        return replace(known, run=int(state["run"]) if state else 0)

    def _epoch(self, own: int, memory: int, epoch: int, seed: int) -> Sequence[Draw]:
        return _order(self, own, memory, epoch, seed)

    def _by_stage(self, memory: int) -> dict[int, list[int]]:
        """Places in the memory; taken for one stage's where they are not known (a preview)."""
        if len(self.places) != memory:
            return {1: list(range(memory))} if memory else {}
        found: dict[int, list[int]] = {}
        for i, (stage, _) in enumerate(self.places):
            found.setdefault(stage, []).append(i)
        return dict(sorted(found.items()))


@lru_cache(maxsize=4)
def _order(feed: Naturalistic, own: int, memory: int, epoch: int, seed: int) -> tuple[Draw, ...]:
    draw = random.Random(f"{seed}-{epoch}-naturalistic")
    old: list[Draw] = []
    by_stage = feed._by_stage(memory)
    for stage, count in feed.rehearsed(own, memory).items():
        whole, rest = divmod(count, len(by_stage[stage]))
        chosen = by_stage[stage] * whole + draw.sample(by_stage[stage], rest)
        old += [(MEMORY, i) for i in chosen]
    draw.shuffle(old)
    turns = [True] * own + [False] * len(old)
    if feed.mix == "interleave":
        draw.shuffle(turns)
    # the stage's own data in the order of a plan without a memory
    mine, others = iter(draws(own, own, seed, epoch * own)), iter(old)
    return tuple((NEW, next(mine)) if turn else next(others) for turn in turns)
