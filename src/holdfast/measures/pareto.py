"""The learning-forgetting plane: which recipe holds on to more at the same learning?

A recipe that forgets less may only have learned less. So every recipe is swept over learning
rates and compared where it has learned the same amount: a low learning rate alone removes much
forgetting (arXiv 2603.14493, 2509.20758), and is not a recipe.

Both axes are better when larger: ``learning`` is the gain on targets, ``forgetting`` the change
on held-outs as HF has it (negative is loss). Points with a NaN on either axis are runs that were
not measured; they are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from holdfast.errors import UsageError
from holdfast.measures.interval import LEVEL, Estimate, finite, over_runs

NAN = math.nan


@dataclass(frozen=True)
class Point:
    """One run."""

    recipe: str
    lr: float
    """NaN if the recipe has none."""
    seed: int
    learning: float
    """Points gained on the targets."""
    forgetting: float
    """Points of change on the held-outs; negative is loss."""
    seconds: float = NAN
    trained: int | None = None
    """Parameters that were trained."""
    share: float = NAN
    """Of all parameters, in percent."""
    order: str = ""
    """The order of the skills, where there are several."""

    @property
    def measured(self) -> bool:
        return not (math.isnan(self.learning) or math.isnan(self.forgetting))

    def to_json(self) -> dict[str, Any]:
        """Plain values; NaN becomes None."""
        return {k: finite(v) for k, v in asdict(self).items()}


@dataclass(frozen=True)
class Setting:
    """One recipe at one learning rate: the mean over its runs (seeds and orders)."""

    recipe: str
    lr: float
    learning: Estimate
    forgetting: Estimate
    seconds: Estimate
    trained: int | None = None
    share: float = NAN

    @property
    def name(self) -> str:
        return self.recipe if math.isnan(self.lr) else f"{self.recipe} @ {self.lr:g}"

    def to_json(self) -> dict[str, Any]:
        """Plain values; NaN becomes None."""
        return {
            "recipe": self.recipe,
            "lr": finite(self.lr),
            "learning": self.learning.to_json(),
            "forgetting": self.forgetting.to_json(),
            "seconds": self.seconds.to_json(),
            "trained": self.trained,
            "share": finite(self.share),
        }


@dataclass(frozen=True)
class Matched:
    """A recipe's held-out change where it has learned ``level`` points."""

    recipe: str
    level: float
    forgetting: Estimate
    """NaN if the level is outside the measured range of a seed: nothing is extrapolated."""


def over_seeds(points: Iterable[Point], *, level: float = LEVEL) -> list[Setting]:
    """The mean of each (recipe, learning rate), with Student's t intervals over its runs.

    Recipes stand in the order of their first point, learning rates rise. A setting without a
    measured run is left out.
    """
    groups: dict[str, dict[float | None, list[Point]]] = {}
    for p in points:
        if p.measured:
            groups.setdefault(p.recipe, {}).setdefault(finite_or_none(p.lr), []).append(p)
    return [
        _setting(groups[recipe][lr], level)
        for recipe in groups
        for lr in sorted(groups[recipe], key=lambda v: -math.inf if v is None else v)
    ]


def pareto_front(settings: Iterable[Setting]) -> list[Setting]:
    """The settings that no other one beats, by rising learning.

    One beats another if it is at least as good on both axes and better on one; settings that
    are equal on both do not beat each other, so ties stay.
    """
    known = [s for s in settings if not math.isnan(s.learning.value + s.forgetting.value)]
    front = [s for s in known if not any(_beats(other, s) for other in known)]
    return sorted(front, key=lambda s: (s.learning.value, -s.forgetting.value, s.recipe, s.lr))


def learning_levels(points: Sequence[Point], count: int = 4) -> list[float]:
    """``count`` evenly spaced levels of learning that at least two recipes reach with every seed.

    [] if no two recipes overlap.
    """
    if count < 1:
        raise UsageError(f"{count} levels of learning were asked for; ask for at least 1.")
    ranges = sorted((r for r in _ranges(points).values() if r is not None), key=lambda r: r[0])
    low, high = math.inf, -math.inf
    for i, a in enumerate(ranges):
        for b in ranges[i + 1 :]:
            start, end = max(a[0], b[0]), min(a[1], b[1])
            if start <= end:
                low, high = min(low, start), max(high, end)
    if low > high:
        return []
    if count == 1 or low == high:
        return [(low + high) / 2]
    return [float(v) for v in np.linspace(low, high, count)]


def matched_learning(
    points: Sequence[Point], levels: Sequence[float], *, level: float = LEVEL
) -> list[Matched]:
    """The held-out change of each recipe at equal learning.

    Each seed's sweep is a path through the plane in the order of its learning rates. The path is
    followed in straight lines to where it has learned ``levels[i]``; where it passes there more
    than once, the place that lost least counts, as a user would choose it. The mean and interval
    are over seeds, and only where every seed of the recipe reaches the level.
    """
    return [
        Matched(recipe, at, _mean_of_all([forgetting_at(run, at) for run in runs], level))
        for recipe, runs in _sweeps(points).items()
        for at in levels
    ]


def forgetting_at(path: Sequence[tuple[float, float]], learning: float) -> float:
    """The best held-out change where a path of (learning, forgetting) has ``learning``.

    Straight lines between neighbours; NaN outside the path's range.
    """
    found = [f for x, f in path if x == learning]
    for (x0, f0), (x1, f1) in pairwise(path):
        if min(x0, x1) < learning < max(x0, x1):
            found.append(f0 + (f1 - f0) * (learning - x0) / (x1 - x0))
    return max(found, default=NAN)


def dominated_area(
    settings: Iterable[Setting], reference: tuple[float, float] = (0.0, -100.0)
) -> float:
    """The area of the plane that the settings beat, in points squared (larger is better).

    The hypervolume indicator (Zitzler & Thiele 1999) in two dimensions, against ``reference``:
    by default a model that learned nothing and lost everything. Settings that do not beat the
    reference on both axes add nothing. NaN if there is no setting.
    """
    front = pareto_front(settings)
    if not front:
        return NAN
    area, done = 0.0, reference[0]
    for s in front:  # learning rises, so forgetting falls: a staircase
        width, height = s.learning.value - done, s.forgetting.value - reference[1]
        if width > 0 and height > 0:
            area += width * height
            done = s.learning.value
    return area


def _setting(points: Sequence[Point], level: float) -> Setting:
    def estimate(values: list[float]) -> Estimate:
        return over_runs(values, level=level, what="seeds" if one_order else "runs")

    one_order = len({p.order for p in points}) == 1
    first = points[0]
    return Setting(
        recipe=first.recipe,
        lr=first.lr,
        learning=estimate([p.learning for p in points]),
        forgetting=estimate([p.forgetting for p in points]),
        seconds=estimate([p.seconds for p in points]),
        trained=first.trained,
        share=first.share,
    )


def finite_or_none(value: float) -> float | None:
    """NaN does not equal itself and cannot name a group; None can."""
    return None if math.isnan(value) else value


def _beats(a: Setting, b: Setting) -> bool:
    better = (a.learning.value - b.learning.value, a.forgetting.value - b.forgetting.value)
    return bool(min(better) >= 0 and max(better) > 0)


def _sweeps(points: Sequence[Point]) -> dict[str, list[list[tuple[float, float]]]]:
    """Recipe -> one path per (seed, order), by rising learning rate."""
    runs: dict[str, dict[tuple[int, str], list[Point]]] = {}
    for p in points:
        if p.measured:
            runs.setdefault(p.recipe, {}).setdefault((p.seed, p.order), []).append(p)
    return {recipe: [_path(sweep) for sweep in seeds.values()] for recipe, seeds in runs.items()}


def _path(points: Sequence[Point]) -> list[tuple[float, float]]:
    if any(math.isnan(p.lr) for p in points):
        ordered = sorted(points, key=lambda p: (p.learning, p.forgetting))
    else:
        ordered = sorted(points, key=lambda p: p.lr)
    return [(p.learning, p.forgetting) for p in ordered]


def _ranges(points: Sequence[Point]) -> dict[str, tuple[float, float] | None]:
    """The learning that every seed of a recipe reaches; None if its seeds do not overlap."""
    found: dict[str, tuple[float, float] | None] = {}
    for recipe, runs in _sweeps(points).items():
        low = max(min(x for x, _ in run) for run in runs)
        high = min(max(x for x, _ in run) for run in runs)
        found[recipe] = (low, high) if low <= high else None
    return found


def _mean_of_all(values: Sequence[float], level: float) -> Estimate:
    if any(math.isnan(v) for v in values):
        return over_runs([], level=level, what="seeds")
    return over_runs(values, level=level, what="seeds")
