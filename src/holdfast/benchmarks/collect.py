"""Finished runs of a grid as the rows and points that tables and pictures are drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.anatomy import load_meta
from holdfast.benchmarks.grid import Member, is_finished
from holdfast.engine.bound import bind
from holdfast.engine.cost import states
from holdfast.measures.pareto import Point
from holdfast.measures.summary import Summary
from holdfast.methods import plan
from holdfast.models.source import fetch, resolve
from holdfast.report.rows import RecipeRow, point_of_run, row_of_run, row_of_runs
from holdfast.report.run import summary_of
from holdfast.runs import Run
from holdfast.runs.files import read_json


@dataclass(frozen=True)
class Finished:
    """A member with what it measured."""

    member: Member
    summary: Summary
    cost: dict[str, Any]
    """``trained``, ``share`` and ``seconds``, as :func:`row_of_runs` takes them."""


def collect(members: Sequence[Member]) -> list[Finished]:
    """The members that are finished, in order."""
    found = []
    for member in members:
        path = Path(member.config.out)
        if not is_finished(member):
            continue
        run = Run.read(path)
        stages = [run.stage_done(s) or {} for s in range(1, len(run.config.data) + 1)]
        total = read_json(path / "provenance.json")["parameters"]
        trained = stages[0]["trained_parameters"]
        cost = {
            "trained": trained,
            "share": 100.0 * trained / total,
            "seconds": sum(s["seconds"] for s in stages),
        }
        found.append(Finished(member, summary_of(run), cost))
    return found


def memory(finished: Sequence[Finished]) -> dict[str, int]:
    """Bytes that each recipe trains with: weights, gradients, the optimizer's moments and copies
    to compare with, by the model's shape."""
    configs = {f.member.recipe: f.member.config for f in finished}
    return {
        recipe: states(
            bind(plan(list(c.methods)), load_meta(str(fetch(resolve(c.model))))), frozen_bytes=4
        )
        for recipe, c in configs.items()
    }


def points(finished: Sequence[Finished]) -> list[Point]:
    """One point of the learning-forgetting plane per run."""
    return [
        point_of_run(
            f.member.recipe,
            f.summary,
            lr=f.member.learning_rate,
            seed=f.member.seed,
            order=f.member.order,
            **f.cost,
        )
        for f in finished
    ]


def rows(finished: Sequence[Finished]) -> list[RecipeRow]:
    """One row per recipe and learning rate: the mean over its runs, or the one run."""
    groups: dict[tuple[str, float], list[Finished]] = {}
    for f in finished:
        groups.setdefault((f.member.recipe, f.member.learning_rate), []).append(f)
    return [_row(recipe, rate, group) for (recipe, rate), group in groups.items()]


def _row(recipe: str, rate: float, group: Sequence[Finished]) -> RecipeRow:
    cost = {
        **group[0].cost,
        "lr": rate,
        "seconds": sum(f.cost["seconds"] for f in group) / len(group),
    }
    if len(group) == 1:
        return row_of_run(recipe, group[0].summary, **cost)
    return row_of_runs(recipe, [f.summary for f in group], **cost)
