"""How methods stand against each other, in words and tables computed from their runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

from holdfast.measures.interval import Estimate, over_runs
from holdfast.measures.pareto import Point, forgetting_at, learning_levels

Run = tuple[int, str]
"""Seed and order of the skills."""
Path = list[tuple[float, float]]
"""(learning, change on held-outs) by rising learning rate."""
BASELINE = "full"
GOAL = 0.5
"""Of full tuning's loss at the same learning: what a method should not lose more than."""
LEVELS = 3


def of_methods(
    points: Sequence[Point], situations: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """The findings of a comparison of methods, by heading.

    Args:
        points: one for each run.
        situations: what a user has or wants, with the recipes that are open to them.
    """
    paths = sweeps(points)
    return {
        "Against full tuning, at equal learning": against_baseline(paths, points),
        "Do seeds and orders agree": agreement(paths, points),
        "What to take": recommended(paths, points, situations),
    }


def sweeps(points: Sequence[Point]) -> dict[str, dict[Run, Path]]:
    """Recipe -> its path through the plane for every seed and order."""
    found: dict[str, dict[Run, Path]] = {}
    for p in sorted((p for p in points if p.measured), key=lambda p: p.lr):
        runs = found.setdefault(p.recipe, {})
        runs.setdefault((p.seed, p.order), []).append((p.learning, p.forgetting))
    return found


def losses(runs: Mapping[Run, Path], level: float) -> dict[Run, float]:
    """Points lost where each run has learned ``level``; runs that do not reach it are left out.

    Where a sweep passes the level more than once, the place that lost least counts: the best
    learning rate of those that learn as much.
    """
    found = {run: -forgetting_at(path, level) for run, path in runs.items()}
    return {run: loss for run, loss in found.items() if not math.isnan(loss)}


def against_baseline(paths: Mapping[str, Mapping[Run, Path]], points: Sequence[Point]) -> list[str]:
    """Each recipe's loss beside full tuning's, seed by seed."""
    lines = []
    for recipe in (r for r in paths if r != BASELINE and BASELINE in paths):
        pair = [p for p in points if p.recipe in (BASELINE, recipe)]
        for level in learning_levels(pair, LEVELS):
            ours, full = losses(paths[recipe], level), losses(paths[BASELINE], level)
            both = sorted(ours.keys() & full.keys())
            if not both:
                continue
            gap = over_runs([full[run] - ours[run] for run in both], what="seeds")
            lines.append(
                f"{recipe}, at {level:+.1f} learned: lost {_mean(ours, both):.1f} where full "
                f"tuning lost {_mean(full, both):.1f}: {_judged(ours, full, both, gap)}."
            )
    return lines or ["Nothing reaches the learning of full tuning's sweep."]


def _judged(
    ours: Mapping[Run, float], full: Mapping[Run, float], both: Sequence[Run], gap: Estimate
) -> str:
    kept = f"{gap:+.1f} points kept over {gap.n} runs"
    if math.isnan(gap.low):
        return f"{kept}, which has no interval"
    if gap.low <= 0 <= gap.high:
        return f"{kept}, which cannot be told from none"
    if gap.value < 0:
        return f"{kept}: more is lost than by full tuning"
    half = over_runs([GOAL * full[run] - ours[run] for run in both], what="seeds")
    if half.low >= 0:
        return f"{kept}: at most half is lost, in the whole interval"
    return (
        f"{kept}: {'about half is lost or less' if half.value >= 0 else 'more than half is lost'}"
    )


def _mean(found: Mapping[Run, float], runs: Sequence[Run]) -> float:
    return sum(found[run] for run in runs) / len(runs)


def agreement(paths: Mapping[str, Mapping[Run, Path]], points: Sequence[Point]) -> list[str]:
    """Of all pairs of recipes, how many stand in the same order in every seed and order."""
    level = common_level(points)
    if math.isnan(level):
        return ["No level of learning is reached by enough recipes to rank them."]
    reached = {recipe: losses(runs, level) for recipe, runs in paths.items()}
    same, split = 0, []
    for a, b in combinations(reached, 2):
        both = reached[a].keys() & reached[b].keys()
        if len(both) < 2:
            continue
        signs = {reached[a][run] < reached[b][run] for run in both}
        if len(signs) == 1:
            same += 1
        else:
            split.append(f"{a} and {b}")
    if not same + len(split):
        return ["Every recipe has one seed and one order: there is nothing to agree."]
    line = (
        f"At {level:+.1f} learned, {same} of {same + len(split)} pairs of recipes stand in the "
        "same order in every seed and order of skills."
    )
    return [line, *([f"Not in the same order: {', '.join(split)}."] if split else [])]


def common_level(points: Sequence[Point]) -> float:
    """The level of learning that most recipes reach with every seed, the highest of those."""
    ranges = []
    for runs in sweeps(points).values():
        low = max(min(x for x, _ in path) for path in runs.values())
        high = min(max(x for x, _ in path) for path in runs.values())
        ranges.append((low, high))
    levels = sorted({high for low, high in ranges if low <= high})
    return max(
        levels, key=lambda v: (sum(low <= v <= high for low, high in ranges), v), default=math.nan
    )


def recommended(
    paths: Mapping[str, Mapping[Run, Path]],
    points: Sequence[Point],
    situations: Mapping[str, Sequence[str]],
) -> list[str]:
    """For each situation, the recipe that lost least at the level that most recipes reach."""
    level = common_level(points)
    lines = [f"Of the recipes that were run: {', '.join(paths)}."]
    for situation, open_to in situations.items():
        found = {r: losses(paths[r], level) for r in open_to if r in paths}
        whole = {r: v for r, v in found.items() if len(v) == len(paths[r])}
        if not whole:
            lines.append(f"{situation}: no recipe that was run learned {level:+.1f}.")
            continue
        best = min(whole, key=lambda r: _mean(whole[r], list(whole[r])))
        lost = over_runs(list(whole[best].values()), what="seeds")
        taken = [p.seconds for p in points if p.recipe == best and not math.isnan(p.seconds)]
        share = next(p.share for p in points if p.recipe == best)
        minutes = sum(taken) / len(taken) / 60 if taken else math.nan
        lines.append(
            f"{situation}: {best}. At {level:+.1f} learned it lost {lost:.1f} points; it trains "
            f"{share:.0f}% of the weights and took {minutes:.1f} minutes."
        )
    return lines
