"""Recurring streams: hundreds of small tasks, each of a few classes, which come again and again.

Lesort et al. 2022, "Challenging common assumptions about catastrophic forgetting" (SCoLe).
No torch until a loss is computed.
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from holdfast.errors import ConfigError
from holdfast.pieces.distill import CrossEntropy
from holdfast.plan import NEW, Draw, Outputs

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.carried import Ahead

Scenario = Literal["random", "forgetting", "incremental", "cyclic"]


def probabilities(classes: int, skew: float, seed: int) -> list[float]:
    """With which each class is drawn: alike for ``skew=0``, else in a seeded order proportional
    to (1 - c f)^skew with c = 0, 1, ... and f = 0.05, or 1 / classes if that is less."""
    factor = min(0.05, 1 / classes)
    weights = [(1 - c * factor) ** skew for c in range(classes)]
    random.Random(f"{seed}-classes").shuffle(weights)
    total = sum(weights)
    return [w / total for w in weights]


@dataclass(frozen=True, kw_only=True)
class Stream:
    """The classes of each task, as a pure function of its number.

        random       drawn without repetition, with :func:`probabilities`
        forgetting   the same; in the second half of the stream of the first half of the classes
        incremental  two periods, each of one half of the classes
        cyclic       all combinations in turn; a class gives way to a random one with
                     probability ``change``

    Args:
        classes: C.
        at_once: k, of a task.
        tasks: of the stream; what comes after them goes on as they ended.
        skew: 0: every class as often; larger: some ever less often.
        combinations: of all combinations of k classes, the share that may occur.

    Raises:
        ConfigError: there are fewer classes than a task has, or options exclude each other.
    """

    classes: int
    at_once: int = 2
    tasks: int = 500
    scenario: Scenario = "random"
    skew: float = 0.0
    combinations: float = 1.0
    change: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        halved = self.scenario in ("forgetting", "incremental")
        smallest = self.classes // 2 if halved else self.classes
        if not 1 <= self.at_once <= smallest:
            raise ConfigError(
                f"a task of {self.at_once} classes cannot be drawn from {smallest}"
                f"{', half of them' if halved else ''}; give fewer at once or more sources."
            )
        if self.combinations < 1 and (self.scenario != "random" or self.skew):
            raise ConfigError(
                "combinations below 1 fixes which classes meet, and so does "
                f"{'skew' if self.skew else self.scenario}; give one of them."
            )

    def __call__(self, number: int) -> tuple[int, ...]:
        """The classes of task ``number`` (from 0)."""
        draw = random.Random(f"{self.seed}-{number}-task")
        if self.scenario == "cyclic":
            every = _combinations(self.classes, self.at_once)
            return self._changed(every[number % len(every)], draw)
        if self.combinations < 1:
            return draw.choice(_some(self.classes, self.at_once, self.combinations, self.seed))
        within = range(*self._span(number))
        weights = probabilities(self.classes, self.skew, self.seed)
        return _without_repetition(within, [weights[c] for c in within], self.at_once, draw)

    def _span(self, number: int) -> tuple[int, int]:
        """The classes that may come: from, and up to without."""
        half, late = self.classes // 2, number >= self.tasks / 2
        if self.scenario == "forgetting" and late:
            return 0, half
        if self.scenario == "incremental":
            return (half, self.classes) if late else (0, half)
        return 0, self.classes

    def _changed(self, classes: Sequence[int], draw: random.Random) -> tuple[int, ...]:
        kept = [c for c in classes if draw.random() >= self.change]
        others = [c for c in range(self.classes) if c not in kept]
        return (*kept, *draw.sample(others, self.at_once - len(kept)))


def _without_repetition(
    among: Sequence[int], weights: Sequence[float], count: int, draw: random.Random
) -> tuple[int, ...]:
    left = dict(zip(among, weights, strict=True))
    chosen: list[int] = []
    for _ in range(count):
        one = draw.choices(list(left), list(left.values()))[0]
        chosen.append(one)
        del left[one]
    return tuple(chosen)


@lru_cache(maxsize=8)
def _combinations(classes: int, at_once: int) -> list[tuple[int, ...]]:
    return list(itertools.combinations(range(classes), at_once))


@lru_cache(maxsize=8)
def _some(classes: int, at_once: int, share: float, seed: int) -> list[tuple[int, ...]]:
    every = _combinations(classes, at_once)
    count = max(1, int(share * len(every)))
    return random.Random(f"{seed}-combinations").sample(every, count)


@dataclass(frozen=True, kw_only=True)
class Recurring:
    """A stage as a recurring stream: its own data and each source are the classes.

    A task is ``repeats`` epochs of all examples of its classes. A step does not reach from one
    epoch into the next: each epoch is cut into as few steps as the batch size allows, whose
    sizes differ by one at most. An epoch of the stage is the whole stream; further ones go on
    with further tasks.

    Args:
        stream: its ``classes`` are 1 + the number of ``others``.
        others: the sources that are classes beside the stage's own data, class 0.
    """

    stream: Stream
    others: tuple[str, ...]
    repeats: int = 1
    name: str = "recurring"

    @property
    def sources(self) -> tuple[str, ...]:
        return self.others

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return (NEW, *self.others)

    def steps(self, sizes: Mapping[str, int], batch: int, epochs: float) -> int:
        return self.begin(sizes, batch, max(1, round(epochs * self.stream.tasks)))

    def begin(self, sizes: Mapping[str, int], batch: int, task: int) -> int:
        """The first step (from 0) of a task; where the tasks before it end."""
        return _starts(self, tuple(sizes[c] for c in self.classes), batch).upto(task)[task]

    def task(self, sizes: Mapping[str, int], batch: int, step: int) -> int:
        """The number of the task that a step belongs to."""
        return _starts(self, tuple(sizes[c] for c in self.classes), batch).find(step)

    def __call__(self, sizes: Mapping[str, int], step: int, batch: int, seed: int) -> list[Draw]:
        task = self.task(sizes, batch, step)
        every = [
            (self.classes[c], i)
            for c in sorted(self.stream(task))
            for i in range(sizes[self.classes[c]])
        ]
        steps = -(-len(every) // batch)
        epoch, part = divmod(step - self.begin(sizes, batch, task), steps)
        order = random.Random(f"{seed}-{task}-{epoch}-order").sample(every, len(every))
        return order[part * len(every) // steps : (part + 1) * len(every) // steps]


class _Starts:
    """The first step of each task, made as far as it was asked for."""

    def __init__(self, feed: Recurring, sizes: tuple[int, ...], batch: int) -> None:
        self.feed, self.sizes, self.batch = feed, sizes, batch
        self.firsts = [0]

    def upto(self, task: int) -> list[int]:
        while len(self.firsts) <= task:
            read = sum(self.sizes[c] for c in self.feed.stream(len(self.firsts) - 1))
            self.firsts.append(self.firsts[-1] + self.feed.repeats * -(-read // self.batch))
        return self.firsts

    def find(self, step: int) -> int:
        while self.firsts[-1] <= step:
            self.upto(2 * len(self.firsts))
        return bisect.bisect_right(self.firsts, step) - 1


@lru_cache(maxsize=8)
def _starts(feed: Recurring, sizes: tuple[int, ...], batch: int) -> _Starts:
    return _Starts(feed, sizes, batch)


@dataclass(kw_only=True)
class GroupMasked(CrossEntropy):
    """Cross-entropy among the words that occur in an answer of the step; all others are masked.

    SCoLe's "group" masking: in the loss, never in an evaluation, the logits of classes that the
    mini-batch does not have are -1e9, so that a task pushes nothing down that is absent from it.
    For a language model the classes are the words of its answers.
    """

    name: str = "group-masked"
    _present: Tensor | None = field(default=None, init=False, repr=False, compare=False)
    """The words of the step, some of them several times."""

    def look_ahead(self, step: Ahead) -> None:
        """Notes the words of the whole step, so that cutting it into passes changes nothing."""
        import torch

        words = [batch["labels"][self._answers(batch["labels"])] for batch in step.batches]
        self._present = torch.cat(words)

    def _answers(self, labels: Tensor) -> Tensor:
        answers = labels != -100
        answers[:, 0] = False  # no token predicts the first
        return answers

    def __call__(self, outputs: Outputs) -> Tensor:
        import torch

        from holdfast.pieces.objectives import cross_entropy

        present = outputs.targets if self._present is None else self._present
        absent = torch.ones(outputs.logits.shape[-1], dtype=torch.bool, device=present.device)
        absent[present] = False
        masked = outputs.logits.float().masked_fill(absent.to(outputs.logits.device), -1e9)
        return cross_entropy(masked, outputs.targets)
