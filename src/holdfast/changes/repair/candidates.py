"""Candidates: what was tried, what it scored, and which of them nothing beats."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from holdfast.changes.repair.blend import Blend
from holdfast.measures.interval import Estimate
from holdfast.measures.pareto import Setting, pareto_front

Method = Literal["ends", "path", "rollback", "coefficients", "half"]
METHODS: tuple[Method, ...] = ("path", "rollback", "coefficients", "half")


@dataclass(frozen=True)
class Candidate:
    """A blend of base and tuned model, and its scores beside the base's."""

    name: str
    """Such as ``path 0.5`` or ``without language[3].mlp``: unique within a search."""
    method: Method
    blend: Blend
    learned: Estimate
    """Points gained on the learned tasks since the base, on the examples that choose."""
    lost: Estimate
    """Points lost on the held-out tasks since the base, on the examples that choose."""
    inside: bool
    """Whether the upper end of ``lost`` keeps the budget."""
    share: float
    """Of the changed weights' elements, the mean share of the change that is kept."""
    seconds: float = math.nan
    test_learned: Estimate | None = None
    """On examples that the search did not see; for the chosen (or nearest) candidate alone."""
    test_lost: Estimate | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the whole blend."""
        return {
            **self.row(),
            "learned": self.learned.to_json(),
            "lost": self.lost.to_json(),
            "test_learned": self.test_learned.to_json() if self.test_learned else None,
            "test_lost": self.test_lost.to_json() if self.test_lost else None,
            "blend": self.blend.to_json(),
            "facts": dict(self.facts),
        }

    def row(self) -> dict[str, Any]:
        """One flat row, for a data frame."""
        plain: dict[str, Any] = {"name": self.name, "method": self.method, "inside": self.inside}
        for key, e in (
            ("learned", self.learned),
            ("lost", self.lost),
            ("test_learned", self.test_learned),
            ("test_lost", self.test_lost),
        ):
            for end in ("value", "low", "high"):
                column = key if end == "value" else f"{key}_{end}"
                plain[column] = _known(getattr(e, end)) if e is not None else None
        return {**plain, "share": self.share, "seconds": _known(self.seconds)}

    def tested(self, learned: Estimate, lost: Estimate) -> Candidate:
        """The same, with what the other half of the examples says."""
        return replace(self, test_learned=learned, test_lost=lost)


def best_inside(candidates: Iterable[Candidate]) -> Candidate | None:
    """The candidate that learned most inside the budget; None if none there learned anything.

    Of equals the one that lost least, then the one that was tried first.
    """
    held = [c for c in candidates if c.inside and c.learned.value > 0]
    return max(held, key=lambda c: (c.learned.value, -c.lost.value), default=None)


def nearest_outside(candidates: Iterable[Candidate]) -> Candidate | None:
    """The candidate that learned something at the smallest upper end of the loss."""
    some = [c for c in candidates if c.learned.value > 0]
    return min(some, key=lambda c: (c.lost.high, -c.learned.value), default=None)


def front(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The candidates that no other beats on learning and loss, by rising learning."""
    by_name = {c.name: c for c in candidates}
    nothing = Estimate(math.nan)
    settings = [Setting(c.name, math.nan, c.learned, -c.lost, nothing) for c in by_name.values()]
    return [by_name[s.recipe] for s in pareto_front(settings)]


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
