"""How methods stand against each other, in words and tables computed from their runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import median

from holdfast.measures.interval import over_runs
from holdfast.measures.pareto import Point, forgetting_at, learning_levels
from holdfast.report.tables import ABSENT, Grid, duration

Run = tuple[int, str]
"""Seed and order of the skills."""
Path = list[tuple[float, float]]
"""(learning, change on held-outs) by rising learning rate."""
BASELINE = "full"
GOAL = 0.5
"""Of full tuning's loss at the same learning: what a method should not lose more than."""
LEVELS = 3


def of_methods(
    points: Sequence[Point],
    situations: Mapping[str, Sequence[str]],
    memory: Mapping[str, int] | None = None,
) -> dict[str, list[str | Grid]]:
    """The findings of a comparison of methods, by heading.

    Args:
        points: one for each run.
        situations: what a user has or wants, with the recipes that are open to them.
        memory: bytes that each recipe trains with.
    """
    paths = sweeps(points)
    return {
        "Against full tuning, at equal learning": against_baseline(paths, points),
        "Do seeds and orders agree": list(agreement(paths, points)),
        "What to take": recommended(paths, points, situations),
        "What it costs": costs(paths, points, memory or {}),
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


def against_baseline(
    paths: Mapping[str, Mapping[Run, Path]], points: Sequence[Point]
) -> list[str | Grid]:
    """Each recipe's loss beside full tuning's, seed by seed."""
    rows = []
    for recipe in (r for r in paths if r != BASELINE and BASELINE in paths):
        pair = [p for p in points if p.recipe in (BASELINE, recipe)]
        for level in learning_levels(pair, LEVELS):
            ours, full = losses(paths[recipe], level), losses(paths[BASELINE], level)
            both = sorted(ours.keys() & full.keys())
            if not both:
                continue
            gap = over_runs([full[run] - ours[run] for run in both], what="seeds")
            means = (f"{_mean(found, both):.1f}" for found in (ours, full))
            rows.append((recipe, f"{level:+.1f}", *means, f"{gap:+.1f}", _judged(ours, full, both)))
    if not rows:
        return ["Nothing reaches the learning of full tuning's sweep."]
    header = ("recipe", "learned", "lost", "full tuning lost", "kept", "of full tuning's loss")
    return [Grid("", header, tuple(rows), words=(0, 5))]


def _judged(ours: Mapping[Run, float], full: Mapping[Run, float], both: Sequence[Run]) -> str:
    gap = over_runs([full[run] - ours[run] for run in both], what="seeds")
    if math.isnan(gap.low):
        return "one run has no interval"
    if gap.low <= 0 <= gap.high:
        return "cannot be told from all of it"
    if gap.value < 0:
        return "more than all of it"
    half = over_runs([GOAL * full[run] - ours[run] for run in both], what="seeds")
    if half.low >= 0:
        return "at most half, in the whole interval"
    return "about half or less" if half.value >= 0 else "more than half"


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
) -> list[str | Grid]:
    """For each situation, the recipe that lost least at the level that most recipes reach, and
    what else cannot be told from it."""
    level = common_level(points)
    rows = []
    for situation, open_to in situations.items():
        found = {r: losses(paths[r], level) for r in open_to if r in paths}
        whole = {r: v for r, v in found.items() if len(v) == len(paths[r])}
        if not whole:
            rows.append((situation, f"none that was run learned {level:+.1f}", ABSENT, ABSENT))
            continue
        best = min(whole, key=lambda r: _mean(whole[r], list(whole[r])))
        lost = over_runs(list(whole[best].values()), what="seeds")
        level_with = [r for r in whole if r != best and _is_level(whole[best], whole[r])]
        rows.append((situation, best, f"{lost:.1f}", ", ".join(level_with) or ABSENT))
    header = ("situation", "take", f"lost at {level:+.1f} learned", "cannot be told from it")
    said = f"Of the recipes that were run: {', '.join(paths)}."
    return [said, Grid("", header, tuple(rows), words=(0, 1, 3))]


def _is_level(best: Mapping[Run, float], other: Mapping[Run, float]) -> bool:
    """Whether the runs that two recipes share leave open which of them loses less."""
    both = sorted(best.keys() & other.keys())
    gap = over_runs([other[run] - best[run] for run in both], what="seeds")
    return math.isnan(gap.low) or gap.low <= 0


def costs(
    paths: Mapping[str, Mapping[Run, Path]], points: Sequence[Point], memory: Mapping[str, int]
) -> list[str | Grid]:
    """Weights, memory and time of each recipe, the time beside full tuning's."""
    seconds = {r: _seconds(r, points) for r in paths}
    rows = []
    for recipe in paths:
        share = next(p.share for p in points if p.recipe == recipe)
        ratio = seconds[recipe] / seconds.get(BASELINE, math.nan)
        rows.append(
            (
                recipe,
                ABSENT if math.isnan(share) else f"{share:.0f}%",
                f"{memory[recipe] / 1e6:.1f} MB" if recipe in memory else ABSENT,
                duration(seconds[recipe]),
                ABSENT if math.isnan(ratio) else f"{ratio:.2f}",
            )
        )
    header = ("recipe", "weights that train", "memory", "time", "of full tuning's time")
    return [
        Grid("", header, tuple(rows)),
        "Memory is counted: weights, their gradients, the optimizer's two moments, and the copy "
        "of the base that a method compares with; not activations, examples that are kept, or "
        "importances. Time is the median of a run's training, as it was on the machine: runs "
        "beside each other take each other's.",
    ]


def _seconds(recipe: str, points: Sequence[Point]) -> float:
    known = [p.seconds for p in points if p.recipe == recipe and not math.isnan(p.seconds)]
    return median(known) if known else math.nan
