"""What a recurring stream leaves: knowledge that accumulates while every task forgets a little.

Lesort et al. 2022, arXiv 2207.04543.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True)
class Accumulation:
    """Scores of all classes after each task of a stream. Higher is better; units are kept."""

    means: tuple[float, ...]
    """Over all classes, after each task: the curve that the paper draws."""
    smoothed: tuple[float, ...]
    """The same, each value the mean of the last ``window``."""
    gained: float
    """What a task changes on average for a class that it has; NaN if none can be seen."""
    lost: float
    """What a task takes on average from a class that it lacks: positive when scores fall."""

    @property
    def rise(self) -> float:
        """From the first to the last smoothed value."""
        return self.smoothed[-1] - self.smoothed[0]


def accumulation(
    scores: Sequence[Sequence[float]], present: Sequence[Collection[int]], *, window: int = 10
) -> Accumulation:
    """Read a recurring stream's scores.

    Args:
        scores: [N][C], of each class after each task, on its whole test set.
        present: [N], the classes of each task (:class:`holdfast.pieces.recurring.Stream`).
        window: tasks that are averaged for ``smoothed``.

    Raises:
        ValueError: there is no task, the lengths differ, or the window is not positive.
    """
    if not scores or len(scores) != len(present) or len({len(row) for row in scores}) != 1:
        raise ValueError(
            f"{len(scores)} rows of scores for {len(present)} tasks; give one row per task, with "
            "one score for each class"
        )
    if window < 1:
        raise ValueError(f"a window of {window} tasks has nothing to average")
    means = [fmean(row) for row in scores]
    smoothed = [fmean(means[max(0, n + 1 - window) : n + 1]) for n in range(len(means))]
    changes: dict[bool, list[float]] = {True: [], False: []}
    for n in range(1, len(scores)):
        for c, (before, after) in enumerate(zip(scores[n - 1], scores[n], strict=True)):
            changes[c in present[n]].append(after - before)
    gained, lost = (fmean(changes[k]) if changes[k] else math.nan for k in (True, False))
    return Accumulation(tuple(means), tuple(smoothed), gained, -lost)
