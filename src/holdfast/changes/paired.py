"""Two models on the same examples: what changed, and whether it can be told from chance.

Each model answers every example, so answers are compared pair by pair. Only the pairs that
differ carry information: ``lost`` (right before, wrong after) and ``gained``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binom, norm

from holdfast.errors import UsageError
from holdfast.measures.interval import LEVEL, Estimate, bootstrap_change, unit_name

Array = np.ndarray[Any, Any]
FLIPS = 20_000
"""Sign flips drawn where there are too many clusters to try them all."""
_ALL = 14
"""Clusters that changed, up to which every sign flip is tried."""


@dataclass(frozen=True)
class Pairs:
    """Scores in [0, 1] of the same n examples under two models."""

    before: Array
    """[n]."""
    after: Array
    """[n]."""
    clusters: tuple[str, ...] = ()
    """[n] names; examples of one non-empty name are not independent. Empty: all are."""

    def __post_init__(self) -> None:
        n = len(self.before)
        if len(self.after) != n or (self.clusters and len(self.clusters) != n):
            raise UsageError(
                f"{n} scores before, {len(self.after)} after, {len(self.clusters)} clusters: "
                "pairs need the same examples on both sides."
            )

    @property
    def difference(self) -> Array:
        """[n], after minus before."""
        found: Array = np.subtract(self.after, self.before, dtype=float)
        return found

    @property
    def lost(self) -> int:
        """Examples whose score fell."""
        return int((self.difference < 0).sum())

    @property
    def gained(self) -> int:
        """Examples whose score rose."""
        return int((self.difference > 0).sum())

    @property
    def binary(self) -> bool:
        """Whether every score is right or wrong, with nothing between."""
        both = np.concatenate([np.asarray(self.before), np.asarray(self.after)])
        return bool(np.isin(both, (0.0, 1.0)).all())

    def by_cluster(self) -> Array:
        """[C], the summed difference of each independent unit."""
        sums: dict[object, float] = {}
        names = self.clusters or ("",) * len(self.difference)
        for i, (name, change) in enumerate(zip(names, self.difference, strict=True)):
            key: object = name or i
            sums[key] = sums.get(key, 0.0) + float(change)
        return np.array(list(sums.values()))

    @property
    def clustered(self) -> bool:
        """Whether two examples share a cluster."""
        named = [c for c in self.clusters if c]
        return len(set(named)) < len(named)


def p_value(pairs: Pairs) -> float:
    """Two-sided, of the hypothesis that the change did nothing.

    Right-or-wrong answers to independent examples: the exact McNemar test (McNemar 1947), a
    sign test on the pairs that differ. Otherwise: the same idea for whole clusters, a
    randomisation test that flips the sign of each cluster's summed change (Fisher 1935), over
    all flips if few clusters changed, else over random ones drawn with a fixed seed, where the
    drawn assignment itself counts as one, so that p is never 0.
    """
    if pairs.binary and not pairs.clustered:
        return mcnemar(pairs.lost, pairs.gained)
    changed = pairs.by_cluster()
    changed = changed[np.abs(changed) > 1e-12]
    if len(changed) == 0:
        return 1.0
    seen = abs(changed.sum())
    if len(changed) <= _ALL:
        signs = (np.arange(2 ** len(changed))[:, None] >> np.arange(len(changed)) & 1) * 2 - 1
        return float((np.abs(signs @ changed) >= seen - 1e-9).mean())
    rng = np.random.default_rng(0)
    hits, chunk = 1, max(1, 4_000_000 // len(changed))
    for start in range(0, FLIPS, chunk):
        size = min(chunk, FLIPS - start)
        signs = rng.integers(0, 2, size=(size, len(changed)), dtype=np.int8) * 2 - 1
        hits += int((np.abs(signs @ changed) >= seen - 1e-9).sum())
    return hits / (FLIPS + 1)


def mcnemar(lost: int, gained: int) -> float:
    """The exact two-sided p-value of ``lost`` against ``gained`` (binomial with 1/2)."""
    n = lost + gained
    return min(1.0, 2.0 * float(binom.cdf(min(lost, gained), n, 0.5))) if n else 1.0


def change(pairs: Pairs, *, level: float = LEVEL, seed: int = 0) -> Estimate:
    """Mean change in points (percent), with an interval.

    Right-or-wrong answers: the score interval of Tango (1998, Statistics in Medicine 17), which
    keeps its coverage when few or no pairs differ, where the bootstrap would give a width of
    zero. Clusters: the same at the number of examples that would be as informative if they were
    independent (Kish 1965). Graded scores: the paired bootstrap over clusters.
    """
    difference = pairs.difference
    n = len(difference)
    if n == 0:
        return Estimate(math.nan, n=0, level=level)
    if not pairs.binary and np.any(difference != 0):
        found = bootstrap_change(
            100 * np.asarray(pairs.before, dtype=float),
            100 * np.asarray(pairs.after, dtype=float),
            pairs.clusters or None,
            level=level,
            seed=seed,
        )
        return found
    shrink = 1.0 / design_effect(pairs)
    low, high = tango(pairs.lost * shrink, pairs.gained * shrink, n * shrink, level)
    units = unit_name(pairs.clusters) if pairs.clustered else "examples"
    value = 100 * float(difference.mean())
    return Estimate(value, 100 * low, 100 * high, n, level, f"Tango's score interval over {units}")


def design_effect(pairs: Pairs) -> float:
    """Variance of the mean change with clusters, over that without; at least 1.

    Where nothing differs nothing can be estimated, and a cluster counts as one example.
    """
    if not pairs.clustered:
        return 1.0
    n, sums = len(pairs.difference), pairs.by_cluster()
    centred = pairs.difference - pairs.difference.mean()
    plain = float((centred**2).sum())
    if plain == 0:
        return n / len(sums)
    together = Pairs(np.zeros(n), centred, pairs.clusters).by_cluster()
    return max(1.0, float((together**2).sum()) / plain)


def tango(lost: float, gained: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """The score interval of the difference of two paired proportions (Tango 1998, eq. 4).

    Args:
        lost, gained: pairs that differ, either way (real numbers after a design effect).
        n: all pairs.

    Returns:
        Bounds of P(gained) - P(lost), in [-1, 1].
    """
    if n <= 0:
        return math.nan, math.nan
    z = float(norm.ppf((1 + level) / 2))
    value, edge = (gained - lost) / n, 1.0 - 1e-12

    def distance(delta: float) -> float:
        return _distance(lost, gained, n, delta)

    low = brentq(lambda d: distance(d) - z, -edge, value) if distance(-edge) > z else -1.0
    high = brentq(lambda d: distance(d) + z, value, edge) if distance(edge) < -z else 1.0
    return float(low), float(high)


def _distance(lost: float, gained: float, n: float, delta: float) -> float:
    """What was seen minus ``delta``, in standard errors where the truth is ``delta``.

    The share of lost pairs that is most likely given ``delta`` is the larger root of a quadratic.
    """
    b = -lost - gained + (2.0 * n - gained + lost) * delta
    c = -lost * delta * (1.0 - delta)
    share = (math.sqrt(max(b * b - 8.0 * n * c, 0.0)) - b) / (4.0 * n)
    variance = n * (2.0 * share + delta * (1.0 - delta))
    away = gained - lost - n * delta
    if variance <= 1e-15:
        return 0.0 if abs(away) < 1e-12 else math.copysign(math.inf, away)
    return away / math.sqrt(variance)
