"""A feed that reads examples of earlier stages beside the stage's own. No torch until it keeps."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from holdfast.carried import AGAIN, MEMORY, Ended, State
from holdfast.errors import ConfigError
from holdfast.pieces.feeds import draws
from holdfast.plan import NEW, Draw

if TYPE_CHECKING:
    from torch import Tensor

Place = tuple[int, int]
"""(stage from 1, index in that stage's own data)."""
Policy = Literal["reservoir", "balanced", "uniform"]


@dataclass(frozen=True, kw_only=True)
class Rehearse:
    """Each step reads the stage's own examples and some of those that it remembers.

    What is drawn of the memory is uniform, without repetition within a step, and independent
    from step to step. The first stage remembers nothing and reads its own examples only.

    Args:
        capacity: examples that are remembered over all stages (``uniform``: of each); None:
            every one.
        share: of remembered examples, as a part of the step (``extra=False``) or beside it,
            relative to the stage's own (``extra=True``: 1 doubles the step, as experience
            replay does). Rounded, at least one.
        policy: which are remembered. ``reservoir``: each example met so far with the same
            probability (Vitter 1985); ``balanced``: as many of each stage; ``uniform``:
            ``capacity`` of each stage, drawn when it ends, so that the memory grows.
        draws: 2 for a second, independent draw of the same size, from :data:`AGAIN`.

    Raises:
        ConfigError: when read, if a share leaves no room for the stage's own data.
    """

    capacity: int | None = 500
    share: float = 1.0
    extra: bool = True
    policy: Policy = "reservoir"
    draws: Literal[1, 2] = 1
    name: str = "rehearse"
    places: tuple[Place, ...] = field(default=(), repr=False)
    met: int = field(default=0, repr=False)
    """Examples of earlier stages, remembered or not."""

    sources: tuple[str, ...] = field(default=(), init=False, repr=False)

    def counts(self, batch: int, memory: int) -> tuple[int, int]:
        """The stage's own examples in a step, and those of each draw from the memory."""
        if not memory:
            return batch, 0
        old = max(1, round(self.share * batch))
        own = batch if self.extra else batch - self.draws * old
        if own < 1:
            raise ConfigError(
                f"'{self.name}' takes {self.share:g} of a step of {batch} examples for what it "
                "remembers, which leaves none for what the stage learns; give a smaller share or "
                "a larger train.batch_size."
            )
        return own, min(old, memory)

    def steps(self, sizes: Mapping[str, int], batch: int, epochs: float) -> int:
        own, _ = self.counts(batch, sizes.get(MEMORY, 0))
        return max(1, math.floor(epochs * sizes[NEW] / own))

    def __call__(self, sizes: Mapping[str, int], step: int, batch: int, seed: int) -> list[Draw]:
        memory = sizes.get(MEMORY, 0)
        own, old = self.counts(batch, memory)
        drawn: list[Draw] = [(NEW, i) for i in draws(sizes[NEW], own, seed, step * own)]
        for source in (MEMORY, AGAIN)[: self.draws] if old else ():
            chosen = random.Random(f"{seed}-{step}-{source}").sample(range(memory), old)
            drawn += [(source, i) for i in chosen]
        return drawn

    # The memory

    def exemplars(self) -> Sequence[Place]:
        """What is remembered."""
        return self.places

    def foresee(self, sizes: Sequence[int], seed: int) -> Sequence[Place]:
        """What will be remembered after stages of ``sizes`` examples; no model is asked."""
        feed = self
        for stage, size in enumerate(sizes, 1):
            feed = feed.after(stage, size, seed)
        return feed.places

    def after(self, stage: int, size: int, seed: int) -> Rehearse:
        """The feed once a stage of ``size`` examples has ended."""
        drawn = random.Random(f"{seed}-{stage}-memory")
        choose = {"reservoir": reservoir, "balanced": balanced, "uniform": uniform}[self.policy]
        places = choose(self.places, self.met, stage, size, self.capacity, drawn)
        return replace(self, places=tuple(places), met=self.met + size)

    def keep(self, ended: Ended) -> dict[str, Tensor]:
        """The places of what is remembered from here on, [M, 2], and how many were met."""
        import torch

        feed = self.after(ended.stage, len(ended.examples), ended.seed)
        places = torch.tensor(feed.places, dtype=torch.int64).reshape(-1, 2)
        return {"places": places, "met": torch.tensor([feed.met])}

    def recall(self, state: State) -> Rehearse:
        if not state:
            return replace(self, places=(), met=0)
        places = tuple((int(s), int(i)) for s, i in state["places"].tolist())
        return replace(self, places=places, met=int(state["met"]))


def reservoir(
    places: Iterable[Place],
    met: int,
    stage: int,
    size: int,
    capacity: int | None,
    drawn: random.Random,
) -> list[Place]:
    """Example n (from 1) is kept with probability min(1, capacity / n), at a random place.

    Vitter 1985, algorithm R, over the stages' examples one after the other.
    """
    held = list(places)
    for index in range(size):
        if capacity is None or len(held) < capacity:
            held.append((stage, index))
            continue
        place = drawn.randrange(met + index + 1)
        if place < capacity:
            held[place] = (stage, index)
    return held


def balanced(
    places: Iterable[Place],
    met: int,
    stage: int,
    size: int,
    capacity: int | None,
    drawn: random.Random,
) -> list[Place]:
    """``capacity`` / stages of each stage; what earlier stages lack goes to those that have."""
    by_stage: dict[int, list[Place]] = {}
    for place in places:
        by_stage.setdefault(place[0], []).append(place)
    by_stage[stage] = [(stage, i) for i in drawn.sample(range(size), size)]
    if capacity is None:
        return [place for own in by_stage.values() for place in own]
    room = dict.fromkeys(by_stage, 0)
    for _ in range(min(capacity, sum(map(len, by_stage.values())))):
        fewest = min((s for s in room if room[s] < len(by_stage[s])), key=lambda s: (room[s], s))
        room[fewest] += 1
    return [place for s, own in by_stage.items() for place in own[: room[s]]]


def uniform(
    places: Iterable[Place],
    met: int,
    stage: int,
    size: int,
    capacity: int | None,
    drawn: random.Random,
) -> list[Place]:
    """``capacity`` of each stage, any of them alike, or all that it has."""
    count = size if capacity is None else min(capacity, size)
    return [*places, *((stage, i) for i in sorted(drawn.sample(range(size), count)))]
