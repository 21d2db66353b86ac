"""Feeds: which examples of which source an optimizer step reads.

No torch until an order is drawn. A feed is a pure function of the step, so a run that was
killed goes on with exactly the examples that were left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from holdfast.errors import ConfigError
from holdfast.plan import NEW, Draw, Feed, source_id

if TYPE_CHECKING:
    import torch


@runtime_checkable
class Fitted(Protocol):
    """What a :class:`holdfast.plan.Feed` may have beside: its order depends on the whole stage."""

    def fit(self, steps: int, schedule: str) -> Feed:
        """The feed of a stage of ``steps`` optimizer steps, asked before any draw.

        Args:
            schedule: of the learning rate (``train.schedule``).

        Raises:
            ConfigError: the feed does not go together with these.
        """
        ...


def draws(examples: int, count: int, seed: int, start: int = 0) -> list[int]:
    """Indices ``start`` to ``start + count`` of an endless run of shuffled epochs."""
    return _epochs(examples, seed).read(start, start + count)


@dataclass(frozen=True)
class Shuffled:
    """The stage's own data in shuffled epochs: what a plan without a feed reads."""

    name: str = "shuffled"
    sources: tuple[str, ...] = field(default=(), init=False)

    def steps(self, sizes: Mapping[str, int], batch: int, epochs: float) -> int:
        """An epoch leaves out an incomplete last batch, if it can."""
        return max(1, math.floor(epochs * sizes[NEW] / batch))

    def __call__(self, sizes: Mapping[str, int], step: int, batch: int, seed: int) -> list[Draw]:
        return [(NEW, i) for i in draws(sizes[NEW], batch, seed, step * batch)]


@dataclass(frozen=True)
class Mixed:
    """Every step reads the same number of examples of each source.

    Each source is read in shuffled epochs of its own, so a small one comes round again
    before a large one was read once. An epoch is one of the stage's own data.

    Args:
        shares: of a step, by the name of the source; what they leave is the stage's own data.
            A share is rounded to examples, at least one.

    Raises:
        ConfigError: when read, if the shares leave no room for the stage's own data.
    """

    shares: Mapping[str, float]
    name: str = "mixed"

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources that a stage must have beside its own data."""
        return tuple(self.shares)

    def counts(self, batch: int) -> dict[str, int]:
        """Examples of each source in a step of ``batch``."""
        others = {name: max(1, round(share * batch)) for name, share in self.shares.items()}
        own = batch - sum(others.values())
        if own < 1:
            given = ", ".join(f"{name} {share:g}" for name, share in self.shares.items())
            raise ConfigError(
                f"'{self.name}' shares a step of {batch} examples as {given}, which leaves none "
                "for what the stage learns; give smaller shares or a larger train.batch_size."
            )
        return {NEW: own, **others}

    def steps(self, sizes: Mapping[str, int], batch: int, epochs: float) -> int:
        return max(1, math.floor(epochs * sizes[NEW] / self.counts(batch)[NEW]))

    def __call__(self, sizes: Mapping[str, int], step: int, batch: int, seed: int) -> list[Draw]:
        return [
            (name, i)
            for name, count in self.counts(batch).items()
            for i in draws(sizes[name], count, seed + source_id(name), step * count)
        ]


class _Epochs:
    """An endless run of permutations of ``examples`` indices, made as far as it was read."""

    def __init__(self, examples: int, seed: int) -> None:
        import torch

        self.examples = examples
        self._generator = torch.Generator().manual_seed(seed)
        self._made: list[torch.Tensor] = []

    def read(self, start: int, stop: int) -> list[int]:
        import torch

        while len(self._made) * self.examples < stop:
            self._made.append(torch.randperm(self.examples, generator=self._generator))
        first, last = start // self.examples, -(-stop // self.examples)
        offset = first * self.examples
        part = torch.cat(self._made[first:last]) if last > first else torch.empty(0)
        order: list[int] = part[start - offset : stop - offset].tolist()
        return order


@lru_cache(maxsize=16)
def _epochs(examples: int, seed: int) -> _Epochs:
    return _Epochs(examples, seed)
