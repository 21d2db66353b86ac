"""The trials of a search: short runs, each in a folder of its own, and points on their paths.

A trial is an ordinary run of the engine without held-out tasks. What it lost is asked afterwards,
at the trained model and at points between it and the base (:mod:`holdfast.changes.repair.path`),
on the part of the examples that the search may see.
"""

from __future__ import annotations

import gc
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.benchmarks.grid import Member
from holdfast.budget.candidates import Recipe, Situation, sources
from holdfast.changes.repair.attempts import Attempts
from holdfast.changes.repair.candidates import Candidate
from holdfast.changes.repair.ends import open_ends
from holdfast.changes.repair.live import go_live
from holdfast.changes.repair.path import try_path
from holdfast.changes.repair.questions import Questions
from holdfast.config import RunConfig
from holdfast.errors import UsageError
from holdfast.progress import Progress

GRIDS = ((0.5,), (0.25, 0.5, 0.75))
"""Shares of the change that are asked in the first rung, and in the later ones."""
HALVINGS = 2
HIGHER, RAISES = 4.0, 3
"""A rate that does no harm yet is raised by this factor, so many times at most."""
SHORTEST = 8
"""Steps of a trial, at least: the first ones warm up."""
SEEN = 50
"""Questions of the new skill that a trial's own report asks."""


@dataclass(frozen=True, eq=False)
class Trial:
    """One recipe at one learning rate, trained for so many steps."""

    recipe: Recipe
    learning_rate: float
    steps: int
    rung: int

    @property
    def name(self) -> str:
        """A folder's name."""
        text = self.recipe.name
        plain = "".join(c if c.isalnum() or c in "-_." else "-" for c in text)
        if plain != text:
            plain = f"{plain[:60]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
        return f"{plain}.{self.learning_rate:g}.{self.steps}"


@dataclass(frozen=True, eq=False)
class Point:
    """A model between the base and a trial's, and what it scored where the search may look."""

    trial: Trial
    candidate: Candidate

    @property
    def gain(self) -> float:
        return self.candidate.learned.value

    @property
    def loss(self) -> float:
        return self.candidate.lost.value

    @property
    def name(self) -> str:
        share = self.candidate.blend.rest
        return f"{self.trial.name} at {share:g}" if share < 1 else self.trial.name


@dataclass(frozen=True)
class Setting:
    """What the trials of a search share."""

    template: RunConfig
    """Of every trial, but for method, learning rate, steps and folder."""
    situation: Situation
    questions: Questions
    budget: float
    folder: Path
    progress: Progress

    def member(self, trial: Trial) -> Member:
        """The trial as a run of a grid."""
        train = {"learning_rate": trial.learning_rate, "steps": trial.steps}
        given, _ = sources(trial.recipe.plan, self.situation)
        config = self.template.model_copy(
            update={
                "methods": list(trial.recipe.methods),
                "tasks": [],
                "out": str(self.folder / "trials" / trial.name),
                "train": self.template.train.model_copy(update=train),
                "evaluate": self.template.evaluate.model_copy(update={"limit": SEEN}),
                "data": [
                    s.model_copy(update={"sources": {**given, **s.sources}})
                    for s in self.template.data
                ],
            }
        )
        return Member(trial.name, config, trial.recipe.name, trial.learning_rate, config.seed)

    @contextmanager
    def attempts(self, trial: Trial, known: Mapping[str, Any]) -> Iterator[Attempts]:
        """A finished trial's path, with every answer that was given on it.

        Args:
            known: what the base answered already.
        """
        base, tuned = self.template.model, str(self.folder / "trials" / trial.name)
        with ExitStack() as stack:
            ends = open_ends(base, tuned, stack)
            yield Attempts(
                go_live(ends, base, tuned),
                self.questions,
                self.budget,
                folder=self.folder / "points" / trial.name,
                setting={"trial": trial.name, "questions": digest(self.questions)},
                batch_size=self.template.evaluate.batch_size,
                progress=self.progress,
                # a search compares what was seen; what may be promised is decided elsewhere
                inside=lambda loss: loss.value <= self.budget,
                known=known,
            )
        make_room()


def measure(
    setting: Setting, trial: Trial, known: Mapping[str, Any]
) -> tuple[list[Point], dict[str, dict[str, Any]]]:
    """The points of a finished trial, and what the base answered.

    A trial that changed no weight has no points.
    """
    try:
        with setting.attempts(trial, known) as attempts:
            found = try_path(attempts, grid=GRIDS[min(trial.rung, 1)], halvings=HALVINGS)
            rows = attempts.base_rows()
    except UsageError as error:
        if "the same weights" not in str(error):
            raise
        return [], dict(known)
    return [Point(trial, c) for c in found if c.name != "base"], rows


def make_room() -> None:
    """Give back what a model took, for the trials that train beside this process."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def workers_of(given: int | None) -> int:
    """How many trials run at a time: one for each core unless said, or one where they share a
    GPU."""
    import torch

    return given or (1 if torch.cuda.is_available() else os.cpu_count() or 1)


def digest(questions: Questions) -> str:
    """A hash of which examples are asked in which part."""
    text = repr(
        [
            (role, half, task, [e.id for e in examples])
            for role in ("learned", "held_out")
            for half in ("select", "test")
            for task, examples in questions.examples(role, half).items()
        ]
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def standing(points: Sequence[Point], budget: float) -> tuple[bool, float, float]:
    """What trials are ranked by, the larger the better: whether some point lost no more than the
    budget where the search may look, then what it learned there, then how little was lost."""
    inside = [p for p in points if p.loss <= budget]
    if inside:
        best = max(inside, key=lambda p: (p.gain, -p.loss))
        return True, best.gain, -best.loss
    return False, 0.0, -min((p.loss for p in points), default=float("inf"))


Run = Callable[[Sequence[Trial]], Mapping[Trial, Sequence[Point]]]
"""Runs and measures trials; one that failed is not in the answer."""


def halving(
    recipes: Sequence[Recipe], lengths: Sequence[int], budget: float, run: Run
) -> list[Point]:
    """Successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943).

    Every recipe at every rate is trained for the shortest length; the better half of them for the
    next one, and so on. The points of every length stay in the pool: a short run may be the best.
    Where a recipe's highest rate lost no more than the budget, higher ones are tried at the
    shortest length; lower ones are not needed, since a path leads back to the base.
    """
    pool: list[Point] = []
    going = [(r, rate) for r in recipes for rate in r.rates]
    for rung, steps in enumerate(lengths):
        found = dict(run([Trial(recipe, rate, steps, rung) for recipe, rate in going]))
        for _ in range(RAISES if rung == 0 else 0):
            higher = _higher(found, budget)
            if not higher:
                break
            found |= run(higher)
        pool += [p for points in found.values() for p in points]
        ranked = sorted(
            found, key=lambda t: (*standing(found[t], budget), t.learning_rate), reverse=True
        )
        better = ranked[: -(-len(going) // 2)]
        going = [(t.recipe, t.learning_rate) for t in better]
        if not going:
            break
    return pool


def _higher(found: Mapping[Trial, Sequence[Point]], budget: float) -> list[Trial]:
    """A trial at a higher rate for each recipe whose highest one did no harm when taken whole."""
    highest: dict[Recipe, Trial] = {}
    for t in found:
        there = highest.get(t.recipe)
        if there is None or t.learning_rate > there.learning_rate:
            highest[t.recipe] = t
    return [
        Trial(t.recipe, float(f"{HIGHER * t.learning_rate:.1g}"), t.steps, t.rung)
        for t in highest.values()
        if len(t.recipe.rates) > 1
        and any(p.candidate.blend.rest == 1 and p.loss <= budget for p in found[t])
    ]


def lengths(steps: int) -> tuple[int, ...]:
    """The lengths of a search that trains ``steps`` at most: a quarter, a half, all; none of
    them so short that it says nothing."""
    shortest = min(steps, SHORTEST)
    return tuple(sorted({max(shortest, steps // 4), max(shortest, steps // 2), steps}))


def count(recipes: Sequence[Recipe], rungs: Sequence[int]) -> list[int]:
    """How many trials each rung has."""
    left = sum(len(r.rates) for r in recipes)
    found = []
    for _ in rungs:
        found.append(left)
        left = -(-left // 2)
    return found
