"""Roll-back: which parts carry the harm, which the skill, and which to take back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.changes.repair.attempts import Allowance, Attempts
from holdfast.changes.repair.blend import Blend
from holdfast.changes.repair.candidates import Candidate
from holdfast.changes.repair.groups import Group, cells, rollback_groups
from holdfast.changes.repair.ranking import ranking
from holdfast.measures.interval import finite

WIDTH = 3
"""Cells that are tried at each greedy step: the first ones of the ranking."""
STEPS = 16
"""Greedy steps at most; in a deep model a step takes several cells."""


@dataclass(frozen=True)
class PartEffect:
    """What one group of weights carries: the tuned model with that group rolled back."""

    selector: str
    kind: str
    harm: float
    """Points of the held-out tasks that come back without it (negative: it protected them)."""
    skill: float
    """Points of the learned tasks that go away without it."""
    candidate: str
    """Name of the candidate, which has the intervals."""

    def to_json(self) -> dict[str, Any]:
        return {k: finite(v) for k, v in vars(self).items()}


def try_rollback(
    attempts: Attempts, *, tuned: str, evaluations: int
) -> tuple[list[PartEffect], dict[str, float]]:
    """Roll parts back alone, then together.

    One at a time: every role over all blocks, and every block. Then cells (attention or MLP of a
    block) greedily, in both directions: *backward* takes cells back from the tuned model until
    the loss is inside the budget, *forward* gives cells to the base while it stays inside. A
    step tries the first ``WIDTH`` cells of a ranking by the layer probe, so that the number of
    evaluations grows with the number of blocks and not with its square.

    Args:
        tuned: the tuned model's name, for the probe.
        evaluations: candidates at most: one half for single parts, the other for the two walks.

    Returns:
        The single parts' effects, the largest harm first, and the ranking of the cells.
    """
    parts = attempts.live.ends.changed_parts
    singles = rollback_groups(parts)
    allowance = Allowance(max(1, evaluations // 2))
    effects = []
    with attempts.progress.bar("parts, one at a time") as advance:
        for i, group in enumerate(singles):
            if not allowance.take():
                break
            effects.append(_effect(attempts, group))
            advance(i + 1, min(len(singles), evaluations // 2))
    found = cells(parts)
    ranks: dict[str, float] = {}
    if len(found) > 1:
        ranks = ranking(attempts, found, tuned)
        ordered = sorted(found, key=lambda g: -ranks[g.selector])
        _walk(attempts, ordered, Allowance(max(1, evaluations // 4)), backward=True)
        _walk(attempts, ordered[::-1], Allowance(max(1, evaluations // 4)), backward=False)
    return sorted(effects, key=lambda e: (-e.harm, e.skill)), ranks


def _effect(attempts: Attempts, group: Group) -> PartEffect:
    found = _without(attempts, [group])
    return PartEffect(
        selector=group.selector,
        kind=group.kind,
        harm=attempts.tuned.lost.value - found.lost.value,
        skill=attempts.tuned.learned.value - found.learned.value,
        candidate=found.name,
    )


def _walk(
    attempts: Attempts, ordered: Sequence[Group], allowance: Allowance, *, backward: bool
) -> None:
    """Move cells one step at a time, those first that stand first, and keep the best of each.

    ``backward``: moved cells go back to the base, and the walk ends inside the budget.
    Otherwise: moved cells are kept, all others are the base's, and it ends where none fits.
    """
    moved: list[Group] = []
    left = list(ordered)
    size = max(1, math.ceil(len(ordered) / STEPS))
    best: Candidate | None = None
    with attempts.progress.bar("backward" if backward else "forward") as advance:
        while len(left) > size:
            tries: list[tuple[Candidate, list[Group]]] = []
            for first in range(0, min(WIDTH * size, len(left)), size):
                if not allowance.take():
                    break
                chosen = left[first : first + size]
                ask = _without if backward else _only
                tries.append((ask(attempts, [*moved, *chosen]), chosen))
            if not tries:
                return
            found, chosen = max(tries, key=lambda t: _worth(t[0]))
            if not backward and (not found.inside or (best and _worth(found) <= _worth(best))):
                return
            best = found
            moved += chosen
            left = [g for g in left if g not in chosen]
            advance(len(moved), len(ordered))
            if backward and found.inside:
                return


def _worth(candidate: Candidate) -> tuple[bool, float, float]:
    """Inside the budget what was learned counts, outside it what was learned less what was lost."""
    learned, lost = candidate.learned.value, candidate.lost.value
    return candidate.inside, learned if candidate.inside else learned - lost, -lost


def _without(attempts: Attempts, groups: Sequence[Group]) -> Candidate:
    return _asked(attempts, "without", groups, Blend(1.0, _set(groups, 0.0)))


def _only(attempts: Attempts, groups: Sequence[Group]) -> Candidate:
    return _asked(attempts, "only", groups, Blend(0.0, _set(groups, 1.0)))


def _asked(attempts: Attempts, how: str, groups: Sequence[Group], blend: Blend) -> Candidate:
    selectors = sorted(g.selector for g in groups)
    name = f"{how} {', '.join(selectors)}"
    return attempts.try_(name, "rollback", blend, {how: selectors})


def _set(groups: Sequence[Group], share: float) -> dict[str, float]:
    return dict.fromkeys(sorted(key for g in groups for key in g.keys), share)
