"""Whether a probe goes with forgetting, over the runs of a sweep: correlation, n, interval."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from holdfast.errors import UsageError
from holdfast.measures.formulas import Array
from holdfast.measures.interval import RESAMPLES, Estimate, percentile
from holdfast.probes._rows import ProbeResult, ProbeRow

FEWEST = 4
"""Runs below which a correlation is not computed: with three, almost any order is a line."""
Key = tuple[str, str, str, str, str, str, int | None, str]


@dataclass(frozen=True)
class Related:
    """One number of one probe against the forgetting of the same runs."""

    probe: str
    measure: str
    side: str
    data: str
    token_class: str
    tower: str
    block: int | None
    part: str
    n: int
    """Runs in which both were measured."""
    pearson: Estimate
    """Of the values; NaN if either is the same in all runs."""
    spearman: Estimate
    """Of their ranks: does more of the one go with more of the other at all?"""
    points: tuple[tuple[str, float, float], ...]
    """Run, probe's value, points forgotten."""

    @property
    def name(self) -> str:
        """For a line of a table."""
        where = (self.token_class, self.tower, self.block, self.part, self.data)
        more = ", ".join(str(w) for w in where if w not in ("", None))
        side = "" if self.side == "pair" else f" ({self.side})"
        return f"{self.probe} {self.measure}{side}{f' [{more}]' if more else ''}"

    def to_json(self) -> dict[str, Any]:
        """Plain values; NaN becomes None."""
        plain = {**asdict(self), "points": [list(p) for p in self.points]}
        return {**plain, "pearson": self.pearson.to_json(), "spearman": self.spearman.to_json()}


def relate(
    results: Mapping[str, Sequence[ProbeResult]],
    forgetting: Mapping[str, float],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Related]:
    """Correlate every comparing row of some probes with forgetting, run by run.

    Rows of the sides ``change`` and ``pair`` are taken, not readings of one model. The interval
    is a percentile bootstrap over runs, which are few: it is wide, and says so. Runs of one
    recipe that differ by the seed count as runs of their own. Sorted by the size of Spearman's
    coefficient; the first of many is larger than one chosen beforehand would be.

    Args:
        results: by run.
        forgetting: points lost on held-out tasks, by run (positive: lost).

    Raises:
        UsageError: fewer than four runs were measured by both.
    """
    runs = [r for r in results if r in forgetting and not math.isnan(forgetting[r])]
    if len(runs) < FEWEST:
        raise UsageError(
            f"{len(runs)} runs have both a probe and a measured forgetting; a correlation needs "
            f"at least {FEWEST}, and means little below ten. Give more runs of the sweep."
        )
    series: dict[Key, dict[str, float]] = {}
    for run in runs:
        for row in _comparing(results[run]):
            series.setdefault(_key(row), {})[run] = row.value
    rng = np.random.default_rng(seed)
    found = [
        _related(key, {r: v for r, v in values.items() if math.isfinite(v)}, forgetting, rng,
                 resamples)
        for key, values in series.items()
    ]  # fmt: skip
    return sorted(found, key=lambda r: (-_size(r.spearman.value), r.name))


def _comparing(results: Sequence[ProbeResult]) -> Iterator[ProbeRow]:
    return (r for result in results for r in result.rows if r.side in ("change", "pair"))


def _key(row: ProbeRow) -> Key:
    return (row.probe, row.measure, row.side, row.data, row.token_class, row.tower, row.block,
            row.part)  # fmt: skip


def _size(value: float) -> float:
    return -1.0 if math.isnan(value) else abs(value)


def _related(
    key: Key,
    values: Mapping[str, float],
    forgetting: Mapping[str, float],
    rng: np.random.Generator,
    resamples: int,
) -> Related:
    pairs = np.array([[v, forgetting[r]] for r, v in values.items()]).reshape(-1, 2)
    n = len(pairs)
    drawn = rng.integers(0, n, size=(resamples, n)) if n else np.zeros((0, 0), dtype=int)
    estimates = []
    for ranked in (False, True):
        whole = ranks(pairs.T).T if ranked else pairs
        value = float(correlation(whole[None, :, 0], whole[None, :, 1])[0]) if n else math.nan
        value = value if n >= FEWEST else math.nan
        sample = pairs[drawn]
        x, y = sample[..., 0], sample[..., 1]
        again = correlation(ranks(x), ranks(y)) if ranked else correlation(x, y)
        estimates.append(percentile(value, again, n=n, method="percentile bootstrap over runs"))
    points = tuple((r, v, forgetting[r]) for r, v in values.items())
    return Related(*key, n, estimates[0], estimates[1], points)


def correlation(x: Array, y: Array) -> Array:
    """[R] Pearson's coefficient of each row of [R, n]; NaN where one is constant."""
    x, y = (v - v.mean(-1, keepdims=True) for v in (x, y))
    size = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    floor = 1e-12 * (np.abs(x).max(-1, initial=0.0) * np.abs(y).max(-1, initial=0.0) + 1e-300)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (x * y).sum(-1) / size
    return np.where(size > floor, np.clip(found, -1, 1), np.nan)


def ranks(values: Array) -> Array:
    """Ranks within each row of [R, n]; ties share their mean rank."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(values, axis=-1), dtype=float)


def page(found: Sequence[Related], forgetting: Mapping[str, float], *, most: int = 30) -> str:
    """The relation as Markdown: what was asked, the table, how to read it."""
    lines = [
        "# Which probe goes with forgetting?",
        "",
        f"{len(forgetting)} runs; forgetting is the points lost on the held-out tasks, from "
        f"{min(forgetting.values()):.1f} to {max(forgetting.values()):.1f}. Each line is one "
        "number of a probe, measured on the same runs, with Spearman's and Pearson's coefficient "
        "and a 95% bootstrap interval over runs.",
        "",
        "| probe | n | Spearman | Pearson |",
        "|---|---:|---:|---:|",
    ]
    lines += [
        f"| {r.name} | {r.n} | {_cell(r.spearman)} | {_cell(r.pearson)} |" for r in found[:most]
    ]
    left = f", of which the {most} strongest are shown" if len(found) > most else ""
    lines += [
        "",
        f"{len(found)} numbers were tried{left}, so the strongest of them is stronger than one "
        "that was chosen beforehand would be. A correlation over the runs of one sweep says that "
        "two things go together there, not that one is the cause.",
        "",
    ]
    return "\n".join(lines)


def _cell(estimate: Estimate) -> str:
    return "constant" if math.isnan(estimate.value) else format(estimate, "+.2f")
