"""What may be said about a change: better, worse, unchanged, or that nobody can tell yet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import betabinom, binom, norm

from holdfast.changes.paired import Pairs, change, design_effect, mcnemar, p_value
from holdfast.errors import UsageError
from holdfast.measures.interval import LEVEL, Estimate

Verdict = Literal["worse", "better", "unchanged", "undecided"]
Gate = Literal["pass", "fail", "undecided"]
GATE_CODES: Mapping[Gate, int] = {"pass": 0, "fail": 10, "undecided": 11}
"""Exit codes of ``holdfast compare --max-forgetting``."""
MARGIN = 1.0
"""Points within which a change counts as none."""
SURER = 5
"""How many times less probable noise must be before its explanation is given up altogether, so
that a noisy evaluation of one model is called unchanged in 95 of 100 cases, all errors counted."""


@dataclass(frozen=True)
class Judged:
    """A task's change and what may be said about it."""

    task: str
    n: int
    before: float
    """Percent."""
    after: float
    change: Estimate
    """Points, after minus before."""
    lost: int
    gained: int
    p: float
    """Two-sided, for this task alone."""
    p_adjusted: float
    """After Holm's correction over all tasks of the comparison."""
    noise: int | None
    """Answers that flipped when one model was asked twice in other batches; None: not asked."""
    verdict: Verdict
    why: str
    needed: int | None
    """Examples that would probably decide, where these do not."""


def judge(
    pairs: Mapping[str, Pairs],
    *,
    noise: Mapping[str, int] | None = None,
    margin: float = MARGIN,
    level: float = LEVEL,
) -> list[Judged]:
    """A verdict for each task.

    *worse*, *better*: the two-sided p-value stays under ``1 - level`` after Holm's correction
    over the tasks (Holm 1979), asking one model twice would hardly do it, and the interval does
    not lie within ``margin`` points. *unchanged*: no answer flipped; or the whole interval lies
    within the margin; or asking one model twice flips as many (:func:`by_repeating`); or hardly
    an answer flipped (:func:`hardly_any`). *undecided*: neither, with the number of examples
    that would do.

    A lean to one side is not put down to noise that flips as many answers, but either way.
    """
    if not margin > 0:
        raise UsageError(f"margin={margin}: give the points within which a change counts as none.")
    raw = {task: p_value(p) for task, p in pairs.items()}
    adjusted = dict(zip(raw, holm(list(raw.values())), strict=True))
    judged = []
    for task, p in pairs.items():
        found = change(p, level=level)
        floor = (noise or {}).get(task)
        least = (1 - level) / len(pairs)
        verdict, why, needed = _decide(p, found, adjusted[task], floor, margin, level, least)
        judged.append(
            Judged(
                task=task,
                n=len(p.difference),
                before=_percent(p.before),
                after=_percent(p.after),
                change=found,
                lost=p.lost,
                gained=p.gained,
                p=raw[task],
                p_adjusted=adjusted[task],
                noise=floor,
                verdict=verdict,
                why=why,
                needed=needed,
            )
        )
    return judged


def _percent(scores: object) -> float:
    import numpy as np

    values = np.asarray(scores, dtype=float)
    return 100 * float(values.mean()) if len(values) else math.nan


def _decide(
    pairs: Pairs,
    found: Estimate,
    p: float,
    noise: int | None,
    margin: float,
    level: float,
    least: float,
) -> tuple[Verdict, str, int | None]:
    """``least``: the chance below which noise alone is doubted, shared by all tasks."""
    flips, n = pairs.lost + pairs.gained, len(pairs.difference)
    both = f"{pairs.lost} lost and {pairs.gained} gained of {n}"
    if n == 0:
        return "undecided", "no example was asked", None
    if flips == 0:
        return "unchanged", f"all {n} answers are as right or wrong as before", None
    if -margin <= found.low and found.high <= margin:
        return "unchanged", f"the interval lies within {margin:g} points of no change", None
    repeated = by_repeating(pairs, noise or 0)
    if p < 1 - level and repeated < least:
        return ("worse" if found.value < 0 else "better"), f"{both} (p {p:.2g})", None
    if repeated >= least / SURER:
        return "unchanged", f"{both}; {noise} flip when one model is asked twice", None
    if hardly_any(pairs, margin, level):
        return "unchanged", f"{both}: hardly more than one in {100 / margin:.0f}, either way", None
    needed = examples_to_detect(pairs, level)
    return (
        "undecided",
        f"cannot be decided with these {n} examples; about {needed:,} would be needed",
        needed,
    )


def by_repeating(pairs: Pairs, noise: int) -> float:
    """How probable it is that asking one model once more flips so many answers, or moves the
    score so far, if ``noise`` flipped when that was tried once.

    The smaller of the two probabilities, doubled. The share of answers that flip by themselves
    has a Jeffreys prior, so that the next count is beta-binomial; each flip goes either way
    with equal chance. Where none flipped, asking is taken to be deterministic.
    """
    flips, n = pairs.lost + pairs.gained, len(pairs.difference)
    if noise == 0 or (flips <= noise and pairs.lost == pairs.gained):
        return float(noise > 0 or flips == 0)
    count = np.arange(n + 1)
    chance = betabinom.pmf(count, n, noise + 0.5, n - noise + 0.5)
    net = abs(pairs.lost - pairs.gained)
    leaning = np.minimum(1.0, 2 * binom.sf(np.ceil((count + net) / 2) - 1, count, 0.5))
    so_far = float((chance * leaning)[net:].sum()) if net else 1.0
    return min(1.0, 2 * min(float(chance[flips:].sum()), so_far))


def hardly_any(pairs: Pairs, margin: float, level: float = LEVEL) -> bool:
    """Whether the change seen is within ``margin`` points, and no more answers flipped, either
    way together, than may where that share of them flips (exact binomial test).

    It says of these examples that they are answered alike, not that no change of ``margin``
    points can hide among others: for that the interval is there.
    """
    flips, n = pairs.lost + pairs.gained, len(pairs.difference)
    seen = 100 * abs(float(pairs.difference.mean()))
    return seen <= margin and float(binom.sf(flips - 1, n, margin / 100)) >= 1 - level


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down p-values (1979): the chance of any false alarm over all is kept."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    adjusted, worst = [0.0] * len(values), 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, (len(values) - rank) * values[i]))
        adjusted[i] = worst
    return adjusted


def examples_to_detect(pairs: Pairs, level: float = LEVEL, power: float = 0.8) -> int:
    """Examples at which a change as large as the one seen would be found in 8 of 10 cases.

    The normal approximation to McNemar's test (Connor 1987). Where nothing changed on balance,
    the change is taken to be as large as the margin of one point.
    """
    n = len(pairs.difference)
    share = (float((pairs.difference**2).sum()) + 1.0) / (n + 2.0)
    moved = max(abs(float(pairs.difference.mean())), MARGIN / 100)
    return _examples(share, moved, level, power, design_effect(pairs), n)


def _examples(share: float, away: float, level: float, power: float, effect: float, n: int) -> int:
    reach = float(norm.ppf((1 + level) / 2)) + float(norm.ppf(power))
    needed = reach**2 * max(share, away) / away**2 * effect
    return max(n + 1, _rounded(needed))


def _rounded(value: float) -> int:
    """Up, to two figures: an estimate should not look exact."""
    size = 10 ** max(0, math.floor(math.log10(value)) - 1)
    return int(math.ceil(value / size) * size)


@dataclass(frozen=True)
class Gated:
    """Whether the forgetting stays under a limit."""

    limit: float
    """Points that may be lost, on the mean over tasks."""
    loss: Estimate
    """Points lost on the mean over tasks."""
    gate: Gate
    why: str
    needed: int | None = None


def gate(
    pairs: Mapping[str, Pairs], limit: float, *, noise: Mapping[str, int] | None = None,
    level: float = LEVEL,
) -> Gated:  # fmt: skip
    """Hold the mean loss over tasks against ``limit`` points.

    pass: the interval's upper end does not exceed the limit. fail: its lower end does. In
    between nobody can say with these examples. Where no more answers flipped than do when one
    model is asked twice, and not to one side, the gate passes: no number of examples would
    show more.
    """
    if not 0 <= limit <= 100:
        raise UsageError(f"the limit {limit:g} is not between 0 and 100 points.")
    loss = mean_loss(pairs, level)
    lost, gained = sum(p.lost for p in pairs.values()), sum(p.gained for p in pairs.values())
    repeated = sum((noise or {}).values())
    if math.isnan(loss.value):
        return Gated(limit, loss, "undecided", "no example was asked")
    if lost + gained == 0:
        return Gated(limit, loss, "pass", "no answer is more right or wrong than before")
    if lost + gained <= repeated and mcnemar(lost, gained) >= 1 - level:
        return Gated(
            limit,
            loss,
            "pass",
            f"{lost + gained} answers flipped, and {repeated} when one model is asked twice",
        )
    shown = f"lost {loss:+.1f} points; the limit is {limit:g}"
    if loss.high <= limit:
        return Gated(limit, loss, "pass", shown)
    if loss.low > limit:
        return Gated(limit, loss, "fail", shown)
    needed = _examples_to_gate(pairs, loss, limit, level)
    return Gated(
        limit,
        loss,
        "undecided",
        f"{shown}, which lies inside the interval; about {needed:,} examples of each task "
        "would be needed",
        needed,
    )


def mean_loss(pairs: Mapping[str, Pairs], level: float = LEVEL) -> Estimate:
    """Points lost on the mean over tasks; the tasks' half-widths add up as independent errors.

    Each side of the interval is built from the tasks' own sides (Newcombe 1998, method 10),
    so that a task where nothing differs still counts with what it cannot exclude.
    """
    found = [-change(p, level=level) for p in pairs.values() if len(p.difference)]
    if not found:
        return Estimate(math.nan, level=level)
    value = sum(e.value for e in found) / len(found)
    below = math.sqrt(sum((e.value - e.low) ** 2 for e in found)) / len(found)
    above = math.sqrt(sum((e.high - e.value) ** 2 for e in found)) / len(found)
    n = sum(e.n for e in found)
    return Estimate(value, value - below, value + above, n, level, "over tasks and examples")


def _examples_to_gate(
    pairs: Mapping[str, Pairs], loss: Estimate, limit: float, level: float
) -> int:
    n = max(len(p.difference) for p in pairs.values())
    away = max(abs(loss.value - limit), 0.1)
    half = (loss.high - loss.value) if loss.value < limit else (loss.value - loss.low)
    return max(n + 1, _rounded(n * (half / away) ** 2))
