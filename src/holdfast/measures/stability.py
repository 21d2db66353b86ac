"""What happens between the ends of stages: the stability gap, from scores at many steps.

De Lange, van de Ven, Tuytelaars, "Continual evaluation for lifelong learning: Identifying the
stability gap", ICLR 2023, arXiv 2205.13452. Scores may be in any unit; higher is better. The
official code differs in two places that are faults and are not repeated here: its windowed
plasticity prunes start values as only drops allow (0.5, 0.2, 0.6 gives 0.1 there and 0.4
here), and it draws the evaluated examples anew each time, which makes every minimum too low.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True)
class Trace:
    """One task's scores in the order of the evaluations."""

    scores: tuple[float, ...]
    learned: int = 0
    """How many of the first scores belong to the time before and while the task was learned; 0
    for one that was known all along. They do not count for the minimum."""

    @property
    def minimum(self) -> float:
        """The lowest score since the task was learned: min_i(t). NaN if there is none yet."""
        return min(self.scores[self.learned :], default=math.nan)


def min_acc(earlier: Sequence[Trace]) -> float:
    """Mean of the minima of the tasks learned earlier (average minimum accuracy).

    ``min-ACC_k(t) = 1/(k-1) sum_{i<k} min_i(t)``; NaN if no task was learned earlier.
    """
    minima = [m for m in (task.minimum for task in earlier) if not math.isnan(m)]
    return fmean(minima) if minima else math.nan


def wc_acc(current: float, earlier: Sequence[Trace]) -> float:
    """Worst-case accuracy: the task being learned as it is now, the others at their lowest.

    ``WC-ACC(t) = 1/k A(E_k, f_t) + (1 - 1/k) min-ACC_k(t)``; with one task, its score.
    """
    minima = [m for m in (task.minimum for task in earlier) if not math.isnan(m)]
    return fmean([current, *minima])


def windowed_forgetting(scores: Sequence[float], window: int) -> float:
    """The largest drop between two of ``window`` consecutive evaluations; never negative.

    ``max_{t' <= t} max { A_m - A_n : m < n }`` over the last ``window`` evaluations up to t'.

    Raises :class:`ValueError` for a window of fewer than two evaluations.
    """
    return _largest_rise([-s for s in scores], window)


def windowed_plasticity(scores: Sequence[float], window: int) -> float:
    """The largest rise between two of ``window`` consecutive evaluations; never negative.

    Raises :class:`ValueError` for a window of fewer than two evaluations.
    """
    return _largest_rise(scores, window)


def _largest_rise(scores: Sequence[float], window: int) -> float:
    if window < 2:
        raise ValueError(f"a window of {window} evaluations has no gap; give 2 or more")
    rises = [
        later - min(scores[max(0, n - window + 1) : n]) for n, later in enumerate(scores) if n > 0
    ]
    return max([0.0, *(r for r in rises if not math.isnan(r))])


def learning_curve_area(scores: Sequence[float], count: int = 10) -> float:
    """LCA: mean score of a task before its training and after each of ``count`` evaluations.

    Chaudhry et al. 2019 (A-GEM), arXiv 1812.00420: ``LCA_b = 1/(b+1) sum_{0..b} Z_b``, with the
    score before the first update included. NaN if the task has fewer evaluations.
    """
    return fmean(scores[: count + 1]) if len(scores) > count else math.nan


@dataclass(frozen=True)
class Stability:
    """The stability gap of one run, in the unit of the scores."""

    min_acc: float
    wc_acc: float
    windowed_forgetting: dict[int, float]
    """By window; mean over the tasks."""
    windowed_plasticity: dict[int, float]


def stability(
    current: Sequence[Trace], earlier: Sequence[Trace], *, windows: Sequence[int] = (10, 100)
) -> Stability:
    """All measures of a stream up to now.

    Args:
        current: the task being learned, or none.
        earlier: tasks that were learned, or known, before.
        windows: in evaluations; the paper's are 10 and 100.

    Raises ValueError: there is no task, a task was never scored, or a window is too short.
    """
    tasks = [*current, *earlier]
    if not tasks or not all(task.scores for task in tasks):
        raise ValueError("there is no task, or one that was never scored")
    if len(current) > 1:
        raise ValueError(f"one task is learned at a time, and {len(current)} were given")
    least = min_acc(earlier)
    return Stability(
        min_acc=least,
        wc_acc=wc_acc(current[0].scores[-1], earlier) if current else least,
        windowed_forgetting={
            w: fmean(windowed_forgetting(t.scores, w) for t in tasks) for w in windows
        },
        windowed_plasticity={
            w: fmean(windowed_plasticity(t.scores, w) for t in tasks) for w in windows
        },
    )
