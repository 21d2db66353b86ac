"""The straight path from the base to the tuned model."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.changes.repair.attempts import Attempts
from holdfast.changes.repair.blend import Blend
from holdfast.changes.repair.candidates import Candidate

GRID = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
HALVINGS = 3
"""Points that are tried between the last one inside the budget and the first one outside."""


def try_path(
    attempts: Attempts, *, grid: Sequence[float] = GRID, halvings: int = HALVINGS
) -> list[Candidate]:
    """Interpolate: theta(a) = (1 - a) base + a tuned (Wortsman et al. 2022, equation 1).

    First a grid, then the step in which the budget is crossed is halved a few times. Loss need
    not grow with a: what counts is the largest a that is inside.
    """
    with attempts.progress.bar("path") as advance:
        points = {0.0: attempts.base, 1.0: attempts.tuned}
        for i, a in enumerate(sorted(set(grid) - {0.0, 1.0})):
            points[a] = _at(attempts, a)
            advance(i + 1, len(grid) + halvings)
        for i in range(halvings):
            middle = _middle(points)
            if middle is None:
                break
            points[middle] = _at(attempts, middle)
            advance(len(grid) + i + 1, len(grid) + halvings)
    return [points[a] for a in sorted(points)]


def _middle(points: dict[float, Candidate]) -> float | None:
    """Between the largest a inside the budget and the next one outside; None if 1 is inside."""
    inside = [a for a, c in points.items() if c.inside or a == 0]
    low = max(inside)
    above = [a for a in points if a > low]
    return round((low + min(above)) / 2, 6) if above else None


def _at(attempts: Attempts, a: float) -> Candidate:
    return attempts.try_(f"path {a:g}", "path", Blend(rest=a))
