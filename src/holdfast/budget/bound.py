"""How much of the kept tasks may have been lost at most: a one-sided bound on paired answers.

The loss is the mean over tasks of P(lost) - P(gained). Two bounds are formed and the larger one
counts, so that neither many tasks with few examples nor one small task among large ones is
trusted too far:

* all tasks together, by Tango's score interval (1998, Statistics in Medicine 17, equation 4) at
  the number of independent examples that is as informative (Kish 1965: the weights of tasks of
  different size, and clusters);
* for each task, what that task alone may hide beyond what was seen, over the number of tasks.

Half an answer counts as lost beside what was seen (a continuity correction): without it a score
bound is too small by up to a third of its level where hardly any answer changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from holdfast.changes.paired import Pairs, tango
from holdfast.errors import UsageError
from holdfast.measures.interval import LEVEL, finite

MOST = 100_000_000
"""Examples beyond which nobody looks for an answer to how many are needed."""


@dataclass(frozen=True)
class Bound:
    """A loss and what it may be at most."""

    value: float
    """Points lost on the mean over tasks (negative: gained)."""
    high: float
    """One-sided: the true loss is below with a chance of ``level``."""
    n: int
    """Examples of all tasks."""
    level: float = LEVEL

    def keeps(self, budget: float) -> bool:
        """Whether the loss is inside ``budget`` points."""
        return self.high <= budget

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "value": finite(self.value),
            "high": finite(self.high),
            "n": self.n,
            "level": self.level,
        }


def bound(pairs: Mapping[str, Pairs], level: float = LEVEL) -> Bound:
    """The bound on the mean loss over tasks.

    A graded score between right and wrong counts as if it had been rounded at random, which has
    the same mean and no smaller variance.

    Args:
        pairs: of each task, the base's scores and the other model's, in [0, 1].
        level: one-sided.

    Returns:
        A bound of 100 points where a task has no example.

    Raises:
        UsageError: no task, or a level that is none.
    """
    if not pairs:
        raise UsageError("a loss needs at least one task.")
    if not 0.5 <= level < 1:
        raise UsageError(f"level={level}: give a share between 0.5 and 1, such as 0.95.")
    n = sum(len(p.difference) for p in pairs.values())
    if any(len(p.difference) == 0 for p in pairs.values()):
        return Bound(math.nan, 100.0, n, level)
    value = float(np.mean([-p.difference.mean() for p in pairs.values()]))
    together = _high(list(pairs.values()), level)
    alone = [value + (_high([p], level) + p.difference.mean()) / len(pairs) for p in pairs.values()]
    return Bound(100 * value, 100 * float(min(1.0, max(together, *alone))), n, level)


def smallest(sizes: Sequence[int], level: float = LEVEL) -> float:
    """The bound, in points, of a model that answers as the base does.

    Args:
        sizes: examples of each task.
    """
    same = {str(i): Pairs(np.zeros(n), np.zeros(n)) for i, n in enumerate(sizes)}
    return bound(same, level).high


def needed(tasks: int, budget: float, level: float = LEVEL) -> int:
    """Examples of each of ``tasks`` tasks at which a model that answers as the base does can be
    shown to keep ``budget`` points; 0 if no number is enough."""
    if budget <= 0:
        return 0
    low, high = 0, 1
    while smallest([high] * tasks, level) > budget:
        low, high = high, 2 * high
        if high > MOST:
            return 0
    while high - low > 1:
        middle = (low + high) // 2
        if smallest([middle] * tasks, level) > budget:
            low = middle
        else:
            high = middle
    return high


def _high(tasks: Sequence[Pairs], level: float) -> float:
    """The upper end of the mean loss over tasks, in [-1, 1]."""
    share = 1.0 / len(tasks)
    differences = [p.difference for p in tasks]
    lost = share * sum(float(-d[d < 0].sum()) / len(d) for d in differences)
    gained = share * sum(float(d[d > 0].sum()) / len(d) for d in differences)
    n = _informative(tasks, lost, gained)
    low, _ = tango(n * lost + 0.5, n * gained, n + 0.5, 2 * level - 1)
    return -low


def _informative(tasks: Sequence[Pairs], lost: float, gained: float) -> float:
    """Independent examples of one task that would tell as much about the mean."""
    count = len(tasks)
    if lost + gained == 0:  # nothing to estimate from: a cluster counts as one example
        return 1.0 / sum(float((_sizes(p) ** 2).sum()) / (count * len(p.difference)) ** 2
                         for p in tasks)  # fmt: skip
    plain = 1.0 / sum(1.0 / (count**2 * len(p.difference)) for p in tasks)
    variance = sum(_variance(p) / count**2 for p in tasks)
    if variance <= 0:
        return plain
    return min(plain, (lost + gained - (gained - lost) ** 2) / variance)


def _variance(pairs: Pairs) -> float:
    """Of a task's mean change, from its clusters; an example alone is one."""
    n = len(pairs.difference)
    absolute = np.abs(pairs.difference)
    # a change of half a point counts as half a chance of a whole one, see bound()
    rounding = float((absolute - absolute**2).sum())
    centred = Pairs(np.zeros(n), pairs.difference - pairs.difference.mean(), pairs.clusters)
    sums = centred.by_cluster()
    return (float((sums**2).sum()) + rounding) / n**2


def _sizes(pairs: Pairs) -> np.ndarray[Any, Any]:
    """[C], examples of each independent unit."""
    n = len(pairs.difference)
    return Pairs(np.zeros(n), np.ones(n), pairs.clusters).by_cluster()
