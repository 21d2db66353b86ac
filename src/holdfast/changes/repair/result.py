"""What a repair found: typed rows, the front, and one sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from scipy.stats import norm

from holdfast.changes.repair.candidates import Candidate, front
from holdfast.changes.repair.rollback import PartEffect
from holdfast.errors import need
from holdfast.measures.interval import LEVEL, finite


@dataclass(frozen=True)
class Repair:
    """Everything that was tried between a base and a tuned model."""

    base: str
    tuned: str
    budget: float
    """Points of the held-out tasks that may be lost, on the mean over tasks."""
    candidates: tuple[Candidate, ...]
    """The base and the tuned model first, then in the order in which they were tried."""
    chosen: Candidate | None
    """The most learning inside the budget; None if there is none."""
    nearest: Candidate | None
    """Without a chosen one: the candidate with the smallest upper end of the loss."""
    parts: tuple[PartEffect, ...] = ()
    """What each role and block carries, the largest harm first."""
    ranks: Mapping[str, float] = field(default_factory=dict)
    """The layer probe's ranking: above 1 moves held-out prompts more than the skill's."""
    needed: int | None = None
    """Examples of each held-out task at which the budget could be shown to be kept, if these are
    too few for any model; 0 if no number would do."""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def front(self) -> list[Candidate]:
        """The candidates that no other beats on both learning and loss, by rising learning."""
        return front(self.candidates)

    @property
    def verdict(self) -> str:
        """What was found, in a few sentences."""
        if self.chosen is not None:
            return f"{self._chosen(self.chosen)} {self._generalised(self.chosen)}"
        said = f"Nothing that was tried is inside the budget of {self.budget:g} points."
        if self.needed:
            said += (
                " These examples cannot show it for any model, not even one that answers as the "
                f"base does; about {self.needed:,} of each held-out task in the choosing half "
                "would."
            )
        if self.needed == 0:
            said += " No number of examples can show that nothing at all was lost."
        if self.nearest is None:
            return f"{said} Nothing that was tried learned anything either."
        c = self.nearest
        said += f" The nearest, '{c.name}', learned {c.learned:+.1f} and lost {c.lost:.1f} points."
        return f"{said} {self._generalised(c)}"

    def _chosen(self, c: Candidate) -> str:
        tuned = next(t for t in self.candidates if t.name == "tuned")
        if c.name == "tuned":
            return (
                f"The tuned model itself is inside the budget of {self.budget:g} points: it "
                f"learned {c.learned:+.1f} and lost {c.lost:.1f}."
            )
        return (
            f"'{c.name}' learned {c.learned:+.1f} and lost {c.lost:.1f} points, inside the budget "
            f"of {self.budget:g}; the tuned model learned {tuned.learned.value:+.1f} and lost "
            f"{tuned.lost.value:.1f}."
        )

    def _generalised(self, c: Candidate) -> str:
        if c.test_learned is None or c.test_lost is None:
            return ""
        numbers = f"learned {c.test_learned:+.1f}, lost {c.test_lost:.1f}"
        if c.test_lost.high <= self.budget:
            held = "the budget is kept there too"
        elif c.test_lost.low > self.budget:
            held = "the budget is not kept there"
        else:
            held = "whether the budget is kept there cannot be decided with so few"
        return f"On examples that the search did not see: {numbers}; {held}."

    def frame(self, of: Literal["candidates", "parts"] = "candidates") -> Any:
        """The rows as a pandas data frame. Raises :class:`MissingExtra` without pandas."""
        pandas = need("pandas", "data")
        rows = self.rows() if of == "candidates" else [p.to_json() for p in self.parts]
        return pandas.DataFrame(rows)

    def rows(self) -> list[dict[str, Any]]:
        """One flat row for each candidate; ``front`` says whether nothing beats it."""
        best = {c.name for c in self.front}
        return [
            {**c.row(), "front": c.name in best, "chosen": c is self.chosen}
            for c in self.candidates
        ]

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain values."""
        return {
            "base": self.base,
            "tuned": self.tuned,
            "budget": self.budget,
            "verdict": self.verdict,
            "found": self.chosen is not None,
            "chosen": self.chosen.to_json() if self.chosen else None,
            "nearest": self.nearest.to_json() if self.nearest else None,
            "front": [c.name for c in self.front],
            "candidates": [c.to_json() for c in self.candidates],
            "parts": [p.to_json() for p in self.parts],
            "ranks": {k: finite(v) for k, v in self.ranks.items()},
            "needed": self.needed,
            "facts": dict(self.facts),
        }


def examples_needed(budget: float, tasks: int, smallest: float) -> int | None:
    """Examples of each task at which a model that loses nothing can be shown to keep ``budget``.

    Where no answer differs, the upper end of Tango's interval is z^2 / (n + z^2), and the means
    of T independent tasks have it divided by sqrt(T).

    Args:
        budget: points.
        tasks: T.
        smallest: upper end, in points, that a model with no answer changed has here.

    Returns:
        None if these examples are enough, 0 if no number is.
    """
    if smallest <= budget:
        return None
    if budget <= 0:
        return 0
    z = float(norm.ppf((1 + LEVEL) / 2)) ** 2
    return max(1, math.ceil(100 * z / (budget * math.sqrt(tasks)) - z))
