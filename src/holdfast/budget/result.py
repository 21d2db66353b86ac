"""What a search within a budget found: typed rows and one paragraph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast.budget.bound import Bound, bound
from holdfast.errors import need
from holdfast.measures.interval import Estimate, finite


@dataclass(frozen=True)
class Tried:
    """A model that the search looked at, on the examples that it may see."""

    trial: str
    """The trial's folder under ``trials/``."""
    recipe: str
    learning_rate: float
    steps: int
    share: float
    """Of the change that training made, how much is kept: 1 is the trained model itself."""
    learned: Estimate
    lost: Estimate

    @property
    def name(self) -> str:
        kept = f", {100 * self.share:g}% of the change" if self.share < 1 else ""
        return f"{self.recipe} at {self.learning_rate:g}, {self.steps} steps{kept}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "trial": self.trial,
            "recipe": self.recipe,
            "learning_rate": self.learning_rate,
            "steps": self.steps,
            "share": self.share,
            "learned": self.learned.to_json(),
            "lost": self.lost.to_json(),
        }


@dataclass(frozen=True)
class TaskLoss:
    """One kept task on the unseen examples."""

    task: str
    n: int
    before: float
    """Percent."""
    after: float
    loss: Bound
    """Of this task by itself; the budget is about the mean over tasks."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        scores = {"before": finite(self.before), "after": finite(self.after)}
        return {"task": self.task, "n": self.n, **scores, "loss": self.loss.to_json()}


@dataclass(frozen=True)
class Confirmed:
    """A model on the examples that the search did not see."""

    tried: Tried
    learned: Estimate
    lost: Bound
    """On the mean over the kept tasks."""
    tasks: tuple[TaskLoss, ...]
    kept: bool
    """Whether it was shown to keep the budget."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **self.tried.to_json(),
            "unseen": {
                "learned": self.learned.to_json(),
                "lost": self.lost.to_json(),
                "tasks": [t.to_json() for t in self.tasks],
            },
            "kept": self.kept,
        }


@dataclass(frozen=True)
class Within:
    """A search for the most learning inside a budget of forgetting."""

    model: str
    """The base."""
    out: str
    budget: float
    """Points that may be lost on the mean over the kept tasks."""
    keep: tuple[str, ...]
    """The kept tasks."""
    tried: tuple[Tried, ...]
    sequence: tuple[Confirmed, ...]
    """Those that were asked the unseen examples, in the order that was fixed before."""
    excluded: Mapping[str, str] = field(default_factory=dict)
    """Recipes that were not tried, each with the reason."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Trials that could not be finished, each with the reason."""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def chosen(self) -> Confirmed | None:
        """The model with the most learning that was shown to keep the budget."""
        kept = [c for c in self.sequence if c.kept]
        return kept[-1] if kept else None

    @property
    def nearest(self) -> Confirmed | None:
        """Without a chosen one: the safest that was found."""
        return self.sequence[0] if self.sequence and self.chosen is None else None

    @property
    def result(self) -> str:
        """What :func:`holdfast.load` takes: the run's folder, or the base unchanged."""
        return self.out if self.chosen is not None else self.model

    @property
    def verdict(self) -> str:
        """What was found, in a few sentences."""
        tried = f"{len({t.trial for t in self.tried})} trials"
        if self.chosen is not None:
            return f"{self._said(self.chosen)} {self._why(self.chosen)}"
        said = (
            f"Nothing among {tried} was shown to keep the budget of {self.budget:g} points; the "
            "model is left as it was."
        )
        if self.nearest is None:
            return f"{said} No trial learned anything inside the budget or near it."
        c = self.nearest
        return (
            f"{said} The nearest, {c.tried.name}, learned {c.learned:+.1f} and lost "
            f"{c.lost.value:.2f} points, at most {c.lost.high:.2f}: a budget of "
            f"{_up(c.lost.high):g}% would have allowed it."
        )

    def _said(self, c: Confirmed) -> str:
        return (
            f"{c.tried.name}: learned {c.learned:+.1f} points and lost {c.lost.value:.2f} on the "
            f"mean over {len(self.keep)} kept tasks, at most {c.lost.high:.2f} with "
            f"{100 * c.lost.level:g}% confidence, inside the budget of {self.budget:g}. Both on "
            f"examples that the search did not see, {c.lost.n:,} of them of kept tasks."
        )

    def _why(self, c: Confirmed) -> str:
        last = self.sequence[-1]
        if last is c:
            return "Nothing that learned more was left to be confirmed."
        return (
            f"The next one, {last.tried.name}, lost {last.lost.value:.2f} and may have lost "
            f"{last.lost.high:.2f} there, so it was not taken."
        )

    def rows(self) -> list[dict[str, Any]]:
        """One flat row for each model that was looked at, as the search saw it."""
        chosen = self.chosen.tried if self.chosen else None
        checked = {(c.tried.trial, c.tried.share): c for c in self.sequence}
        rows = []
        for t in self.tried:
            row = {k: v for k, v in t.to_json().items() if k not in ("learned", "lost")}
            row |= {"learned": finite(t.learned.value), "lost": finite(t.lost.value)}
            c = checked.get((t.trial, t.share))
            row["unseen_lost"] = finite(c.lost.value) if c else None
            row["unseen_lost_at_most"] = finite(c.lost.high) if c else None
            rows.append({**row, "chosen": t is chosen})
        return rows

    def frame(self) -> Any:
        """The rows as a pandas data frame. Raises :class:`MissingExtra` without pandas."""
        return need("pandas", "data").DataFrame(self.rows())

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain values."""
        return {
            "model": self.model,
            "result": self.result,
            "budget": self.budget,
            "keep": list(self.keep),
            "found": self.chosen is not None,
            "verdict": self.verdict,
            "chosen": self.chosen.to_json() if self.chosen else None,
            "nearest": self.nearest.to_json() if self.nearest else None,
            "sequence": [c.to_json() for c in self.sequence],
            "tried": [t.to_json() for t in self.tried],
            "excluded": dict(self.excluded),
            "failed": dict(self.failed),
            "facts": dict(self.facts),
        }


def task_losses(pairs: Mapping[str, Any]) -> tuple[TaskLoss, ...]:
    """Each kept task by itself."""
    return tuple(
        TaskLoss(task, len(p.difference), _mean(p.before), _mean(p.after), bound({task: p}))
        for task, p in pairs.items()
    )


def _mean(scores: Sequence[float]) -> float:
    return 100 * sum(scores) / len(scores) if len(scores) else math.nan


def _up(points: float) -> float:
    """To the next tenth of a point above."""
    return math.ceil(10 * points - 1e-9) / 10
