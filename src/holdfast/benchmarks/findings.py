"""What a comparison says in words, computed from its numbers: also where it goes against us.

The claims that are checked are those of Zhu et al. 2025 (arXiv 2510.08564): the abstract's
averages (attention projections +24.9 learned, -0.6 held out; gate and up +30.5, -2.1; the full
language model +31.8, -23.3) and the shape of figure 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from holdfast.measures.interval import over_runs
from holdfast.measures.pareto import Point, Setting, forgetting_at, learning_levels, over_seeds
from holdfast.report.rows import RecipeRow

LEARNED = 5.0
"""Points below which a skill does not count as learned."""
WIDE, NARROW = ("full", "full-llm", "mlp"), ("gate-up", "sa-proj")


def of_plane(points: Sequence[Point]) -> dict[str, list[str]]:
    """Findings of a sweep over learning rates on one skill."""
    return {
        "At one learning rate": _one_rate(points),
        "What a lower learning rate does alone": _lower_rate(points),
        "At equal learning": _equal_learning(points),
    }


def _one_rate(points: Sequence[Point]) -> list[str]:
    settings = {(s.recipe, s.lr): s for s in over_seeds(points)}
    lines = []
    for rate in sorted({lr for _, lr in settings}):
        wide, narrow = settings.get(("full", rate)), [settings.get((r, rate)) for r in NARROW]
        if wide is None or any(s is None for s in narrow):
            continue
        parts = [f"{s.recipe} learned {s.learning:+.1f} and lost {-s.forgetting:.1f}"
                 for s in (wide, *narrow) if s is not None]  # fmt: skip
        less = all(s is not None and s.forgetting.value > wide.forgetting.value for s in narrow)
        verdict = (
            "as in the paper, both narrow recipes lost less than full tuning"
            if less
            else "against the paper, not both narrow recipes lost less than full tuning"
        )
        lines.append(f"At {rate:g}: {'; '.join(parts)}: {verdict}.")
    return lines


def _lower_rate(points: Sequence[Point]) -> list[str]:
    full = [s for s in over_seeds(points) if s.recipe == "full"]
    if len(full) < 2:
        return []
    low, high = full[0], full[-1]
    return [
        f"Full tuning at {low.lr:g} instead of {high.lr:g} learned {low.learning:+.1f} instead of "
        f"{high.learning:+.1f} and lost {-low.forgetting:.1f} instead of {-high.forgetting:.1f}: "
        "so much of the difference between recipes at one rate can be had by the rate alone."
    ]


def _equal_learning(points: Sequence[Point]) -> list[str]:
    """Full tuning against each other recipe where both have learned the same, seed by seed."""
    lines = []
    paths = _paths(points)
    for recipe in dict.fromkeys(p.recipe for p in points if p.recipe != "full"):
        pair = [p for p in points if p.recipe in ("full", recipe)]
        for level in learning_levels(pair, 3):
            differences = [
                forgetting_at(paths[recipe, seed], level) - forgetting_at(path, level)
                for (name, seed), path in paths.items()
                if name == "full" and (recipe, seed) in paths
            ]
            gap = over_runs(differences, what="seeds")
            if math.isnan(gap.value) or gap.n < 2:
                continue
            decided = not gap.low <= 0 <= gap.high
            better = "less" if gap.value > 0 else "more"
            verdict = f"lost {better} than full tuning" if decided else "cannot be told apart"
            lines.append(
                f"Where both learned {level:+.1f}, {recipe} kept {gap:+.1f} points more than full "
                f"tuning ({gap.n} seeds): {verdict}."
            )
    return [_reach(points), *lines]


def _reach(points: Sequence[Point]) -> str:
    """How far each recipe gets at its best rate: beyond that there is nothing to compare."""
    best: dict[str, Setting] = {}
    for s in over_seeds(points):
        if s.recipe not in best or s.learning.value > best[s.recipe].learning.value:
            best[s.recipe] = s
    reached = ", ".join(f"{name} {s.learning:+.1f} at {s.lr:g}" for name, s in best.items())
    return f"The most that each recipe learned in these steps: {reached}."


def _paths(points: Sequence[Point]) -> dict[tuple[str, int], list[tuple[float, float]]]:
    """Each seed's sweep in the order of its learning rates."""
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for p in sorted((p for p in points if p.measured), key=lambda p: p.lr):
        found.setdefault((p.recipe, p.seed), []).append((p.learning, p.forgetting))
    return found


def of_sequence(
    rows: Sequence[RecipeRow], learned: Mapping[str, Sequence[float]]
) -> dict[str, list[str]]:
    """Findings of five skills in a row.

    Args:
        learned: what each skill gained in its own stage, one number per run.
    """
    return {
        "What was learned at all": _learned_at_all(learned),
        "Against the paper's figure 1": [*_ranking(rows), *_dips(rows)],
    }


def _learned_at_all(learned: Mapping[str, Sequence[float]]) -> list[str]:
    lines = []
    for skill, gains in learned.items():
        low, high = min(gains), max(gains)
        if high < LEARNED:
            lines.append(
                f"{skill} was not learned by any recipe in these steps ({low:+.1f} to "
                f"{high:+.1f}): its stage shows what trying costs, not a trade of one ability "
                "for another."
            )
        else:
            lines.append(f"{skill}: {low:+.1f} to {high:+.1f} points, depending on the recipe.")
    return lines


def _ranking(rows: Sequence[RecipeRow]) -> list[str]:
    by_name = {r.recipe: r for r in rows}
    if "full" not in by_name:
        return []
    full = by_name["full"]
    lines = []
    for name in (n for n in NARROW if n in by_name):
        row = by_name[name]
        share = row.learned.value / full.learned.value if full.learned.value else math.nan
        kept = row.forgetting.value > full.forgetting.value
        lines.append(
            f"{name} learned {100 * share:.0f}% of what full tuning did ({row.learned:+.1f} "
            f"against {full.learned:+.1f}) and lost {-row.forgetting:.1f} against "
            f"{-full.forgetting:.1f}: "
            + ("less, as the paper says." if kept else "not less, against the paper.")
        )
    if "projector" in by_name:
        row = by_name["projector"]
        small = row.learned.value < 0.5 * full.learned.value
        lines.append(
            f"The projector alone learned {row.learned:+.1f} and lost {-row.forgetting:.1f}: "
            + ("little, as the paper says." if small else "not little, against the paper.")
        )
    return lines


def _dips(rows: Sequence[RecipeRow]) -> list[str]:
    """The deep dip after counting and the recovery after the skill behind it."""
    lines = []
    for row in rows:
        steps = {stage: after - before for stage, (before, after) in _changes(row)}
        place = next((i for i, s in enumerate(row.stages) if "count" in s), None)
        if place is None or place + 1 >= len(row.stages) or row.recipe not in WIDE:
            continue
        dip, back = steps[row.stages[place]], steps[row.stages[place + 1]]
        shape = "a dip and a recovery, as in the paper" if dip < -1 and back > 1 else (
            "not the paper's dip and recovery"
        )  # fmt: skip
        lines.append(
            f"{row.recipe}: the held-out mean changed by {dip:+.1f} with counting and by "
            f"{back:+.1f} with the skill after it: {shape}."
        )
    return lines


def _changes(row: RecipeRow) -> list[tuple[str, tuple[float, float]]]:
    return list(zip(row.stages, pairwise(row.curve), strict=True))
