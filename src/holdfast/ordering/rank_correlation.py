"""How far scorers put the same examples in the same order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from holdfast.errors import UnknownName, UsageError
from holdfast.measures.interval import RESAMPLES, Estimate, percentile


def agreement(
    scores: Mapping[str, Sequence[float]],
    *,
    reference: str = "lqs",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Spearman's rank correlation of every scorer with one of them, from -1 to 1.

    Args:
        scores: by scorer, one number for each example of the same pool in the same order.
        reference: the scorer that the others are compared with.
        resamples: bootstrap samples of the pool, of which the 95% interval is taken.

    Returns:
        By scorer, without the reference; NaN where all scores of one are equal.

    Raises:
        UnknownName: there are no scores of the reference.
        UsageError: two scorers do not have as many scores.
    """
    if reference not in scores:
        raise UnknownName("scorer", reference, scores)
    wanted = np.asarray(scores[reference], dtype=float)
    found = {}
    for name, values in scores.items():
        if len(values) != len(wanted):
            raise UsageError(
                f"'{name}' has {len(values)} scores and '{reference}' has {len(wanted)}; score the "
                "same pool with both."
            )
        if name != reference:
            found[name] = _estimate(np.asarray(values, dtype=float), wanted, resamples, seed)
    return found


def _estimate(
    x: np.ndarray[tuple[int], np.dtype[np.float64]],
    y: np.ndarray[tuple[int], np.dtype[np.float64]],
    resamples: int,
    seed: int,
) -> Estimate:
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, max(1, len(x)), size=(resamples, len(x)))
    again = np.array([spearman(x[i], y[i]) for i in drawn])
    method = "percentile bootstrap over examples"
    return percentile(spearman(x, y), again, n=len(x), method=method)


def spearman(
    x: np.ndarray[tuple[int], np.dtype[np.float64]],
    y: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> float:
    """Pearson's coefficient of the ranks of [n] and [n]; ties share their mean rank."""
    from scipy.stats import rankdata

    a, b = (rankdata(v) - (len(v) + 1) / 2 for v in (x, y))
    size = math.sqrt(float((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / size if size > 0 else math.nan
