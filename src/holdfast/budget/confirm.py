"""From what a search found to what may be promised: fixed-sequence testing on unseen examples.

The candidates are put into an order before any unseen example is looked at: from the safest to
the one that learned most. Each is held against the budget with the whole level, and the first one
that is not shown to keep it ends the sequence. The chance that any candidate is accepted that does
not keep the budget is then no larger than ``1 - level``, however many there are (Maurer, Hothorn
and Lehmacher 1995; Angelopoulos, Bates, Candes, Jordan and Lei 2021, arXiv 2110.01052, section
2.3): to accept one wrongly, the first of those must be accepted wrongly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from holdfast.budget.bound import Bound, bound
from holdfast.changes.paired import Pairs
from holdfast.measures.interval import LEVEL

SEQUENCE = 8
"""Candidates that are asked the unseen examples, at most."""


class Point(Protocol):
    """A candidate as the search saw it."""

    @property
    def gain(self) -> float:
        """Points learned, on the examples of the search."""

    @property
    def loss(self) -> float:
        """Points lost on the mean over the kept tasks, on the examples of the search."""


P = TypeVar("P", bound=Point)


@dataclass(frozen=True)
class Checked(Generic[P]):
    """A candidate on the unseen examples."""

    point: P
    bound: Bound
    pairs: Mapping[str, Pairs]
    """Of each kept task, the base's scores and the candidate's."""
    kept: bool
    """Whether it was shown to keep the budget."""


def in_order(points: Sequence[P], budget: float, most: int = SEQUENCE) -> list[P]:
    """The candidates to confirm, from the safest to the one that learned most.

    Those that learned something and that no other beats on both sides; up to the budget, and one
    beyond it, since a search errs on both sides. Of many, some that lie evenly in the order: the
    first and the last among them.
    """
    front: list[P] = []
    for p in sorted(points, key=lambda p: (-p.gain, p.loss)):
        if p.gain > 0 and (not front or p.loss < front[-1].loss):
            front.append(p)
    front.reverse()
    inside = sum(p.loss <= budget for p in front)
    front = front[: inside + 1]
    if len(front) <= most:
        return front
    places = {round(i * (len(front) - 1) / (most - 1)) for i in range(most)}
    return [front[i] for i in sorted(places)]


def confirm(
    sequence: Sequence[P],
    ask: Callable[[P], Mapping[str, Pairs]],
    budget: float,
    level: float = LEVEL,
) -> list[Checked[P]]:
    """Ask the unseen examples of one candidate after the other, until one is not shown to keep
    the budget.

    Args:
        sequence: :func:`in_order`'s, made before this.
        ask: a candidate's scores beside the base's, on examples that the search did not see.

    Returns:
        Those that were asked. All but perhaps the last are kept; the last kept one is the choice.
    """
    done: list[Checked[P]] = []
    for point in sequence:
        pairs = ask(point)
        found = bound(pairs, level)
        done.append(Checked(point, found, pairs, found.keeps(budget)))
        if not done[-1].kept:
            break
    return done


def choice(checked: Sequence[Checked[P]]) -> Checked[P] | None:
    """The one that learned most of those that keep the budget; None if there is none."""
    kept = [c for c in checked if c.kept]
    return kept[-1] if kept else None
