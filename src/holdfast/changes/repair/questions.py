"""What a repair is searched on and what it is tested on: two halves of each task's examples."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from holdfast.changes.paired import Pairs
from holdfast.changes.verdict import mean_loss
from holdfast.errors import UsageError
from holdfast.measures.interval import LEVEL, Estimate
from holdfast.progress import Progress
from holdfast.tasks import Example, Task, TaskResult, evaluate
from holdfast.tasks.ask import checked
from holdfast.tasks.harness import HarnessTask
from holdfast.tasks.room import BatchSize

Half = Literal["select", "test"]
Role = Literal["learned", "held_out"]
HALVES: tuple[Half, ...] = ("select", "test")


@dataclass(frozen=True)
class Scored:
    """The scores of one model on one half: for each task of each role, example by example."""

    learned: Mapping[str, tuple[float, ...]]
    held_out: Mapping[str, tuple[float, ...]]

    def to_json(self) -> dict[str, Any]:
        """The inverse of :meth:`from_json`."""
        return {
            role: {task: [None if math.isnan(v) else v for v in scores] for task, scores in t}
            for role, t in (("learned", self.learned.items()), ("held_out", self.held_out.items()))
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Scored:
        """The inverse of :meth:`to_json`."""
        read = {
            role: {
                str(task): tuple(math.nan if v is None else float(v) for v in scores)
                for task, scores in data[role].items()
            }
            for role in ("learned", "held_out")
        }
        return cls(**read)


Clusters = Mapping[Half, Mapping[str, tuple[str, ...]]]
"""By task: the cluster of each example."""


class Questions:
    """The tasks, split.

    Half of the examples of each task choose, the other half is asked at the end. The halves are
    drawn with ``seed``, and examples of one cluster (an image, a document) stay together. What
    lm-eval asks cannot be asked in part: there the whole task is asked and half of it is looked
    at.

    Args:
        learned: tasks that measure the skill.
        held_out: tasks that must not be lost.
        share: of the examples, how many choose. lm-eval's are halved whatever it is.

    Raises:
        UsageError: no task on one of the sides, one on both, or too few examples to split.
        DataError: a task that cannot be asked.
    """

    def __init__(
        self,
        learned: Sequence[Task],
        held_out: Sequence[Task],
        *,
        seed: int = 0,
        share: float = 0.5,
    ) -> None:
        for tasks, option in ((learned, "--learned"), (held_out, "--tasks")):
            if not tasks:
                raise UsageError(f"name at least one task with {option}.")
        both = {t.name for t in learned} & {t.name for t in held_out}
        if both:
            raise UsageError(
                f"'{min(both)}' is named as what was learned and as what must not be lost; "
                "it can be one of them."
            )
        self.seed = seed
        self.tasks: Mapping[Role, tuple[Task, ...]] = {
            "learned": tuple(checked(t) for t in learned),
            "held_out": tuple(checked(t) for t in held_out),
        }
        self._halves = {
            t.name: split(t.examples, seed, t.name, share)
            for tasks in self.tasks.values()
            for t in tasks
            if not isinstance(t, HarnessTask)
        }
        self.clusters: dict[Half, dict[str, tuple[str, ...]]] = {"select": {}, "test": {}}

    def examples(self, role: Role, half: Half) -> dict[str, list[Example]]:
        """By task; lm-eval's are not known here and are left out."""
        return {
            t.name: self._halves[t.name][HALVES.index(half)]
            for t in self.tasks[role]
            if t.name in self._halves
        }

    def ask(
        self,
        model: Any,
        processor: Any,
        half: Half,
        *,
        batch_size: BatchSize = "auto",
        progress: Progress | None = None,
    ) -> Scored:
        """A model's scores on one half."""
        found: dict[Role, dict[str, tuple[float, ...]]] = {"learned": {}, "held_out": {}}
        for role, tasks in self.tasks.items():
            asked = [self._of(t, half) for t in tasks]
            for result in evaluate(
                model, processor, asked, batch_size=batch_size, progress=progress
            ):
                found[role][result.task] = self._scores(result, half)
        return Scored(**found)

    def _of(self, task: Task, half: Half) -> Task:
        if task.name not in self._halves:
            return task
        return replace(task, examples=self._halves[task.name][HALVES.index(half)])

    def _scores(self, result: TaskResult, half: Half) -> tuple[float, ...]:
        answers = result.answers
        if result.task not in self._halves:
            wanted = HALVES.index(half)
            answers = tuple(
                a
                for a in answers
                if _order(self.seed, result.task, a.cluster or a.id) % 2 == wanted
            )
        self.clusters[half][result.task] = tuple(a.cluster for a in answers)
        return tuple(a.score for a in answers)


def split(
    examples: Sequence[Example], seed: int, name: str, share: float = 0.5
) -> tuple[list[Example], list[Example]]:
    """Two parts that no example or cluster shares, the first with ``share`` of the examples as
    nearly as whole clusters allow.

    Raises :class:`UsageError` if one of them would be empty.
    """
    groups: dict[str, list[int]] = {}
    for i, example in enumerate(examples):
        groups.setdefault(example.cluster or f"\0{example.id}", []).append(i)
    halves: tuple[list[int], list[int]] = ([], [])
    for group in sorted(groups, key=lambda g: _order(seed, name, g)):
        fuller = len(halves[0]) * (1 - share) > len(halves[1]) * share
        halves[1 if fuller else 0].extend(groups[group])
    if not halves[1]:
        raise UsageError(
            f"'{name}' has {len(examples)} examples in {len(groups)} independent groups; at least "
            "two are needed, to choose on one half and to test on the other."
        )
    first, second = ([examples[i] for i in sorted(half)] for half in halves)
    return first, second


def _order(seed: int, task: str, group: str) -> int:
    digest = hashlib.sha256(f"{seed}\n{task}\n{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def lost(
    before: Mapping[str, Sequence[float]],
    after: Mapping[str, Sequence[float]],
    clusters: Mapping[str, Sequence[str]],
    level: float = LEVEL,
) -> Estimate:
    """Points lost on the mean over tasks, example by example (negative: gained)."""
    return mean_loss(paired_scores(before, after, clusters), level)


def paired_scores(
    before: Mapping[str, Sequence[float]],
    after: Mapping[str, Sequence[float]],
    clusters: Mapping[str, Sequence[str]],
) -> dict[str, Pairs]:
    """By task, the examples that both models were scored on."""
    pairs = {}
    for task, scores in before.items():
        one, two = np.asarray(scores, float), np.asarray(after[task], float)
        known = ~(np.isnan(one) | np.isnan(two))
        names = clusters.get(task, ())
        kept = tuple(n for n, k in zip(names, known, strict=True) if k) if any(names) else ()
        pairs[task] = Pairs(one[known], two[known], kept)
    return pairs
