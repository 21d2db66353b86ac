"""Answers paired across stages, example by example."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from holdfast.errors import UsageError
from holdfast.measures.formulas import Array
from holdfast.measures.interval import count_units
from holdfast.tasks.base import Answer

Became = Literal["lost", "gained", "kept", "missed"]
Key = tuple[str, int]
"""An example: its id, and its number among examples of that id."""


@dataclass(frozen=True)
class TaskTable:
    """One task's scores, the examples as rows and the stages as columns."""

    task: str
    scores: Array
    """[n, K+1] in percent; NaN where an example was not asked."""
    clusters: tuple[str, ...]
    """[n]; an empty name is an example on its own."""
    asked: tuple[int, ...]
    """[K+1]: answers after each stage."""
    unparsed: tuple[float, ...]
    """[K+1]: percent of replies that could not be read as an answer; NaN if none was asked."""

    @property
    def units(self) -> int:
        """Independent examples: clusters count once."""
        return count_units(len(self.scores), self.clusters)

    def means(self) -> Array:
        """[K+1]: percent; NaN where nothing was measured."""
        known = ~np.isnan(self.scores)
        count = known.sum(axis=0)
        sums = np.where(known, self.scores, 0.0).sum(axis=0)
        return np.where(count > 0, sums / np.maximum(count, 1), np.nan)

    def change(self, stage: int) -> float:
        """Points from the base to ``stage``."""
        means = self.means()
        return float(means[stage] - means[0])


@dataclass(frozen=True)
class Transition:
    """What became of a task's examples between the base model and a later stage.

    The average hides churn (Harmon et al. 2025, arXiv 2510.17776): these are counts. An answer
    is right if its score is at least one half.
    """

    task: str
    stage: int
    right_to_right: int
    right_to_wrong: int
    wrong_to_right: int
    wrong_to_wrong: int
    right_to_unparsed: int
    """Those of ``right_to_wrong`` whose new reply could not be read: lost format, not knowledge."""

    @property
    def n(self) -> int:
        """Examples that both models were asked."""
        right = self.right_to_right + self.right_to_wrong
        return right + self.wrong_to_right + self.wrong_to_wrong


def became(before: Answer, after: Answer) -> Became:
    """'lost', 'gained', 'kept' (as right as before, and right) or 'missed' (wrong both times)."""
    if after.score < before.score:
        return "lost"
    if after.score > before.score:
        return "gained"
    return "kept" if before.score > 0 else "missed"


def tables(answers: Mapping[tuple[int, str], Sequence[Answer]]) -> dict[str, TaskTable]:
    """Answers by task, every table with the same stages 0..K.

    Raises :class:`UsageError` if a stage is negative.
    """
    last = max((k for k, _ in answers), default=0)
    if any(k < 0 for k, _ in answers):
        raise UsageError("a stage is below 0; stage 0 is the base model.")
    names = dict.fromkeys(task for _, task in answers)
    return {
        name: _table(name, [keyed(answers.get((k, name), ())) for k in range(last + 1)])
        for name in names
        if any(answers.get((k, name)) for k in range(last + 1))
    }


def keyed(answers: Sequence[Answer]) -> dict[Key, Answer]:
    """Answers by example. An id that occurs again is the next example of that id."""
    seen: dict[str, int] = {}
    found: dict[Key, Answer] = {}
    for answer in answers:
        number = seen.get(answer.id, 0)
        seen[answer.id] = number + 1
        found[(answer.id, number)] = answer
    return found


def transitions(
    answers: Mapping[tuple[int, str], Sequence[Answer]], *, right: float = 0.5
) -> tuple[Transition, ...]:
    """Base against each later stage, for every task that both were asked.

    ``right``: the score in [0, 1] from which an answer counts as right.
    """
    rows = []
    for (stage, task), after in answers.items():
        before = keyed(answers.get((0, task), ()))
        if stage == 0 or not before or not after:
            continue
        now = keyed(after)
        both = [(before[k], now[k]) for k in before if k in now]
        rows.append(_transition(task, stage, _measured(both), right))
    return tuple(sorted(rows, key=lambda t: t.stage))


def _measured(pairs: Sequence[tuple[Answer, Answer]]) -> list[tuple[Answer, Answer]]:
    return [(b, a) for b, a in pairs if not (math.isnan(b.score) or math.isnan(a.score))]


def _transition(
    task: str, stage: int, pairs: Sequence[tuple[Answer, Answer]], right: float
) -> Transition:
    outcomes = [(b.score >= right, a.score >= right) for b, a in pairs]
    unread = sum(b.score >= right > a.score and a.parsed is None for b, a in pairs)
    return Transition(
        task=task,
        stage=stage,
        right_to_right=outcomes.count((True, True)),
        right_to_wrong=outcomes.count((True, False)),
        wrong_to_right=outcomes.count((False, True)),
        wrong_to_wrong=outcomes.count((False, False)),
        right_to_unparsed=unread,
    )


def _table(task: str, stages: Sequence[Mapping[Key, Answer]]) -> TaskTable:
    examples: dict[Key, str] = {}
    for stage in stages:
        for key, answer in stage.items():
            examples.setdefault(key, answer.cluster)
    scores = np.full((len(examples), len(stages)), np.nan)
    place = {key: i for i, key in enumerate(examples)}
    for k, stage in enumerate(stages):
        for key, answer in stage.items():
            scores[place[key], k] = 100.0 * answer.score
    return TaskTable(
        task=task,
        scores=scores,
        clusters=tuple(examples.values()),
        asked=tuple(len(stage) for stage in stages),
        unparsed=tuple(_unparsed(list(stage.values())) for stage in stages),
    )


def _unparsed(answers: Sequence[Answer]) -> float:
    if not answers:
        return math.nan
    return 100.0 * sum(a.parsed is None for a in answers) / len(answers)
