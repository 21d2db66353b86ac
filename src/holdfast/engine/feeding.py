"""What a stage reads: its sources, the examples of each optimizer step, and their passes.

A schedule is a pure function of the data's lengths, the settings and the seed. Every rank
makes the same one, and a run that was killed finds the passes that were left in it.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset

from holdfast.carried import AGAIN, MEMORY, Rehearses
from holdfast.data.aligned import count_tokens
from holdfast.data.bucketing import even_cuts, like_lengths, like_totals, padded, regroup
from holdfast.engine.calibrating import calibration
from holdfast.errors import ConfigError
from holdfast.pieces.feeds import Fitted, Shuffled, draws
from holdfast.plan import NEW, VIEWS, Draw, Viewing, source_id, viewed

if TYPE_CHECKING:
    from holdfast.config import Train
    from holdfast.plan import Plan

ENOUGH = {"cpu": 256, "cuda": 16_384}
"""Tokens that keep a device of a type busy: passes are not cut smaller on our own account."""

WORTH = 0.95
"""A step is cut further on our own account if it then reads less than this share of tokens."""


class Sources:
    """The examples that a stage may read, by the name of their source.

    Args:
        own: the stage's own data, encoded (:data:`holdfast.plan.NEW`).
        others: further sources by name.
    """

    def __init__(
        self, own: Sequence[Any], others: Mapping[str, Sequence[Any]] | None = None
    ) -> None:
        self._all: dict[str, Sequence[Any]] = {NEW: own, **(others or {})}
        self._sizes: dict[Draw, tuple[int, int]] = {}

    @property
    def sizes(self) -> dict[str, int]:
        """Examples of each source."""
        return {name: len(examples) for name, examples in self._all.items()}

    def read(self, draw: Draw) -> Mapping[str, Any]:
        """An example's features."""
        source, index = draw
        features: Mapping[str, Any] = self._all[source][index]
        return features

    def tokens(self, draw: Draw) -> int:
        """An example's length."""
        return self._size(draw)[0]

    def supervised(self, draw: Draw) -> int:
        """Tokens of an example that the loss reads."""
        return self._size(draw)[1]

    @property
    def encoder(self) -> Any:
        """What encoded the stage's own data, or None where that is not known."""
        return getattr(self._all[NEW], "encoder", None)

    def show(self, feed: Viewing, seed: int) -> None:
        """Have changed views of the stage's own data as a source."""
        self._all[VIEWS] = feed.show(self._all[NEW], seed)

    def name(self, draw: Draw) -> str:
        """What the user calls an example: its id, or its number from 0."""
        source, index = draw
        if source == VIEWS:
            example, number = viewed(index)
            return f"{self.name((NEW, example))} (view {number})"
        records = getattr(self._all[source], "records", None)
        name = str(index) if records is None else str(records[index].id)
        return name if source == NEW else f"{source}: {name}"

    def _size(self, draw: Draw) -> tuple[int, int]:
        source, index = draw
        counted = getattr(self._all[source], "size", None)
        if counted is not None:
            size: tuple[int, int] = counted(index)
            return size
        if draw not in self._sizes:
            self._sizes[draw] = count_tokens(self.read(draw))
        return self._sizes[draw]


@dataclass(frozen=True)
class Schedule:
    """Which examples each forward pass of a stage reads. Made by :func:`schedule`."""

    sources: Sources
    steps: Sequence[Sequence[Draw]]
    """The draws of each optimizer step."""
    passes: int
    """Forward passes of each device in a step."""
    world: int = 1
    """Devices that share a step."""
    packed: bool = False
    """Whether passes are read without padding."""
    together: int = 1
    """So many draws of a step behind each other share a pass."""
    _last: dict[int, list[list[Draw]]] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        """Passes of all devices in all steps."""
        return len(self.steps) * self.passes * self.world

    def __getitem__(self, index: int) -> list[Draw]:
        """The draws of a pass. Within a step those of one moment follow each other by device."""
        step, place = divmod(range(len(self))[index], self.passes * self.world)
        if step not in self._last:
            self._last.clear()
            self._last[step] = self.groups(step)
        return self._last[step][place]

    @property
    def largest(self) -> int:
        """Examples in a pass, at most."""
        units = -(-max(map(len, self.steps)) // self.together)
        return -(-units // (self.passes * self.world)) * self.together

    @property
    def widest(self) -> int:
        """Tokens in a pass, at most, with padding."""
        return self.largest * max(self.sources.tokens(d) for step in self.steps for d in step)

    def groups(self, step: int) -> list[list[Draw]]:
        """The passes of an optimizer step: like lengths together, or like totals if packed."""
        units = self._units(self.steps[step])
        add = sum if self.packed else max
        lengths = [add(self.sources.tokens(d) for d in unit) for unit in units]
        split = like_totals if self.packed else like_lengths
        groups = split(lengths, self.passes * self.world)
        return [[d for i in g for d in units[i]] for g in groups]

    def _units(self, drawn: Sequence[Draw]) -> list[Sequence[Draw]]:
        size = self.together
        return [drawn[k : k + size] for k in range(0, len(drawn), size)]

    def tokens(self) -> tuple[int, int]:
        """Tokens of all examples read, and tokens that the model works on: padding is between."""
        real = sum(self.sources.tokens(d) for step in self.steps for d in step)
        if self.packed:
            return real, real
        read = 0
        for step in range(len(self.steps)):
            for group in self.groups(step):
                read += len(group) * max(self.sources.tokens(d) for d in group)
        return real, read

    @property
    def padding(self) -> float:
        """Share of the tokens that the model works on which are padding, 0 to 1."""
        real, read = self.tokens()
        return 1 - real / read


def schedule(
    plan: Plan,
    sources: Sources,
    train: Train,
    *,
    seed: int,
    device: str = "cpu",
    packed: bool = False,
    world: int | None = None,
) -> Schedule:
    """What a stage reads under a plan and its settings.

    A step is cut into passes of ``train.micro_batch_size`` examples; where that is None, into
    as few as a device can do with, but further while it saves padding and a pass still keeps
    the device busy. How a step is cut changes no number beyond rounding.

    Args:
        device: the type of the devices, ``cpu`` or ``cuda``.
        packed: passes are read without padding.
        world: devices that share a step; by default the processes that the launcher started.

    Raises:
        ConfigError: the plan's feed reads a source that the stage does not have, nobody reads
            one that it has, a setting contradicts the feed, or there are more devices than
            examples in a step.
    """
    feed = plan.feed or Shuffled()
    sizes = sources.sizes
    together = feed.together if isinstance(feed, Viewing) else 1
    if isinstance(feed, Viewing):
        sources.show(feed, seed)
    _check_sources(plan, (*feed.sources, *calibration(plan)), sizes)
    count = train.steps or feed.steps(sizes, train.batch_size, train.epochs)
    if isinstance(feed, Fitted):
        feed = feed.fit(count, train.schedule)
    if plan.feed is None:
        own = _own_order(sources, train, count, seed)
        steps: list[list[Draw]] = [[(NEW, i) for i in step] for step in own]
    else:
        _check_free(plan.feed.name, train)
        steps = [list(feed(sizes, s, train.batch_size, seed)) for s in range(count)]
    world = world or int(os.environ.get("WORLD_SIZE", "1"))
    fewest = min(len(step) for step in steps) // together
    if fewest < world:
        raise ConfigError(
            f"an optimizer step of {fewest * together} examples cannot be shared by {world} "
            f"devices; give train.batch_size={world * together} or more."
        )
    whole = Schedule(sources, steps, 1, world, packed, together)
    passes = _passes(whole, train, fewest, device)
    return Schedule(sources, steps, passes, world, packed, together)


def _check_sources(plan: Plan, wanted: Sequence[str], sizes: Mapping[str, int]) -> None:
    own: tuple[str, ...] = (NEW, MEMORY, AGAIN) if isinstance(plan.feed, Rehearses) else (NEW,)
    own += (VIEWS,) if isinstance(plan.feed, Viewing) else ()
    given = [name for name in sizes if name not in own]
    for name in wanted:
        if not sizes.get(name):
            slot = "adapt" if name in calibration(plan) else "feed"
            raise ConfigError(
                f"'{plan.owners.get(slot, plan.name)}' reads the source '{name}', which the "
                f"stage {'has no examples of' if name in sizes else 'does not have'}; there is: "
                f"{', '.join(given) or 'none'}. Give it in the stage's sources "
                f"(data: [{{data: ..., sources: {{{name}: FILE}}}}])."
            )
    unread = [name for name in given if name not in wanted]
    if unread:
        raise ConfigError(
            f"the stage has the source '{unread[0]}', and '{plan.name}' does not read it; "
            "combine it with a method that does, or leave the source out."
        )


def _check_free(feed: str, train: Train) -> None:
    for name, plain in (("batch_by", "examples"), ("bucket_steps", 1)):
        value = getattr(train, name)
        if value != plain:
            raise ConfigError(
                f"train.{name}={value} sets which examples share a step, and so does '{feed}'; "
                f"leave out train.{name}."
            )


def _own_order(sources: Sources, train: Train, count: int, seed: int) -> list[list[int]]:
    """The stage's own data in shuffled epochs, cut into ``count`` steps as the settings say."""
    n, by_tokens = sources.sizes[NEW], train.batch_by == "tokens"
    weights = [sources.supervised((NEW, i)) for i in range(n)] if by_tokens else None
    if weights is None:
        order = draws(n, count * train.batch_size, seed)
        bounds = [s * train.batch_size for s in range(count + 1)]
    else:
        target = train.batch_size * sum(weights) / n
        epochs = math.ceil(count * target / sum(weights))
        order = draws(n, epochs * n, seed)
        bounds = even_cuts([weights[i] for i in order], count, target)
    steps = [order[a:b] for a, b in itertools.pairwise(bounds)]
    if train.bucket_steps == 1:
        return steps
    lengths = [sources.tokens((NEW, i)) for i in range(n)]
    windows = enumerate(_windows(steps, n, train.bucket_steps))
    return [s for k, window in windows for s in regroup(window, lengths, weights, f"{seed}-{k}")]


def _windows(steps: Sequence[list[int]], n: int, size: int) -> Iterator[list[list[int]]]:
    """``size`` steps at a time; a window does not reach from one epoch into the next."""
    starts = itertools.accumulate((len(s) for s in steps), initial=0)
    for _, epoch in itertools.groupby(zip(starts, steps, strict=False), key=lambda x: x[0] // n):
        own = [step for _, step in epoch]
        yield from (own[k : k + size] for k in range(0, len(own), size))


def _passes(whole: Schedule, train: Train, fewest: int, device: str) -> int:
    """How many passes each device makes in a step."""
    most = fewest // whole.world
    if train.micro_batch_size is not None:
        largest = max(len(step) for step in whole.steps)
        return min(most, math.ceil(largest / (train.micro_batch_size * whole.world)))
    passes = 1
    if whole.packed:
        return passes
    seen = [[whole.sources.tokens(d) for d in step] for step in whole.steps[:64]]
    busy = len(seen) * whole.world * ENOUGH.get(device, ENOUGH["cuda"])

    def read(passes: int) -> int:
        return sum(padded(x, like_lengths(x, passes * whole.world)) for x in seen)

    while 2 * passes <= most:
        further = read(2 * passes)
        if further < 2 * passes * busy or further > WORTH * read(passes):
            break
        passes *= 2
    return passes


class Passes(Dataset[Any]):
    """A schedule's passes as a data set: item k is a list of (draw, features)."""

    def __init__(self, planned: Schedule) -> None:
        self.planned = planned

    def __len__(self) -> int:
        return len(self.planned)

    def __getitem__(self, index: int) -> list[tuple[Draw, Mapping[str, Any]]]:
        return [(draw, self.planned.sources.read(draw)) for draw in self.planned[index]]


class Collate:
    """One pass as a batch, with what :data:`holdfast.plan.TAGS` names added to it."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, items: Sequence[list[tuple[Draw, Mapping[str, Any]]]]) -> dict[str, Any]:
        (rows,) = items
        batch = dict(self.collate([features for _, features in rows]))
        batch["source"] = torch.tensor([source_id(source) for (source, _), _ in rows])
        batch["example"] = torch.tensor([index for (_, index), _ in rows])
        return batch
