"""From every answer of a run to every measure with its interval."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from holdfast.measures import formulas, interval
from holdfast.measures.answers import TaskTable, Transition, tables, transitions
from holdfast.measures.formulas import MEASURES, Array, Scores
from holdfast.measures.interval import Estimate, finite
from holdfast.measures.matrix import AccuracyMatrix, check_names, learned_stages
from holdfast.tasks.base import Answer


@dataclass(frozen=True)
class Cell:
    """One task after one stage."""

    stage: int
    task: str
    kind: str
    """``target``, ``held-out`` or ``other``."""
    score: Estimate
    """Percent."""
    change: Estimate
    """Points since the base model, paired by example."""
    unparsed: float
    """Percent of replies that could not be read as an answer."""
    n: int
    """Answers."""


@dataclass(frozen=True)
class Summary:
    """Everything that a run's answers say about learning and forgetting, in percent or points."""

    targets: tuple[str, ...]
    held_out: tuple[str, ...]
    stages: int
    """K; stage 0 is the base model."""
    measures: dict[str, Estimate]
    """By the names of :data:`holdfast.measures.formulas.MEASURES`."""
    curve: tuple[Estimate, ...]
    """[K+1]: HF_k, the mean held-out change after each stage."""
    learning: dict[str, Estimate]
    """What each target gained in its own stage."""
    forgetting: dict[str, Estimate]
    """The change of each target since its own stage; negative is loss."""
    cells: tuple[Cell, ...]
    transitions: tuple[Transition, ...]
    """Base against every later stage, example by example."""
    worst_held_out: str | None
    """The held-out task that lost most."""
    settings: dict[str, Any]
    """Level, resamples and seed of the intervals, and what was resampled."""

    def cell(self, stage: int, task: str) -> Cell | None:
        """The cell, or None where the task was not asked after that stage."""
        return next((c for c in self.cells if c.stage == stage and c.task == task), None)

    def matrix(self) -> AccuracyMatrix:
        """The scores alone."""
        rows = [(c.stage, c.task, c.score.value) for c in self.cells]
        learned = dict(zip(self.targets, self.settings["learned"], strict=True))
        return AccuracyMatrix.from_rows(rows, self.targets, self.held_out, learned_at=learned)

    def rows(self) -> list[dict[str, Any]]:
        """One flat row per number: measure, convention, stage, task, value, low, high, n, ..."""
        rows = [
            _row(name, e, MEASURES[name].convention, stage=self.stages)
            for name, e in self.measures.items()
        ]
        rows += [
            _row("held_out_forgetting", e, "Zhu et al. 2025", stage=k)
            for k, e in enumerate(self.curve[:-1])
        ]
        rows += [_row("target_learning", e, "", task=t) for t, e in self.learning.items()]
        rows += [_row("target_forgetting", e, "", task=t) for t, e in self.forgetting.items()]
        for c in self.cells:
            unparsed = Estimate(c.unparsed, n=c.n, method="count")
            rows.append(_row("score", c.score, "", stage=c.stage, task=c.task))
            rows.append(_row("change", c.change, "", stage=c.stage, task=c.task))
            rows.append(_row("unparsed", unparsed, "", stage=c.stage, task=c.task))
        return rows

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps(..., allow_nan=False)``; NaN becomes None."""
        return {
            "targets": list(self.targets),
            "held_out": list(self.held_out),
            "stages": self.stages,
            "measures": {name: _described(name, e) for name, e in self.measures.items()},
            "curve": [e.to_json() for e in self.curve],
            "learning": {t: e.to_json() for t, e in self.learning.items()},
            "forgetting": {t: e.to_json() for t, e in self.forgetting.items()},
            "cells": [_plain(asdict(c)) for c in self.cells],
            "transitions": [asdict(t) for t in self.transitions],
            "worst_held_out": self.worst_held_out,
            "settings": self.settings,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Summary:
        """The inverse of :meth:`to_json`."""

        def estimates(rows: Mapping[str, Any]) -> dict[str, Estimate]:
            return {k: _estimate(v) for k, v in rows.items()}

        cells = [
            {**c, "score": _estimate(c["score"]), "change": _estimate(c["change"])}
            for c in data["cells"]
        ]
        for c in cells:
            c["unparsed"] = math.nan if c["unparsed"] is None else c["unparsed"]
        return cls(
            targets=tuple(data["targets"]),
            held_out=tuple(data["held_out"]),
            stages=data["stages"],
            measures=estimates(data["measures"]),
            curve=tuple(_estimate(e) for e in data["curve"]),
            learning=estimates(data["learning"]),
            forgetting=estimates(data["forgetting"]),
            cells=tuple(Cell(**c) for c in cells),
            transitions=tuple(Transition(**t) for t in data["transitions"]),
            worst_held_out=data["worst_held_out"],
            settings=dict(data["settings"]),
        )


def summarise(
    answers: Mapping[tuple[int, str], Sequence[Answer]],
    targets: Sequence[str],
    held_out: Sequence[str] = (),
    *,
    learned_at: Mapping[str, int] | None = None,
    level: float = interval.LEVEL,
    resamples: int = interval.RESAMPLES,
    seed: int = 0,
) -> Summary:
    """All measures of one run, each with its bootstrap interval over examples.

    Within each task the same resampled examples (or clusters of them) are used for all stages,
    tasks are strata, and every measure is computed on every replicate of the whole matrix. The
    maxima and minima among the measures (Chaudhry's and Mammoth's forgetting, recovery, the
    worst drop) are biased by noise in the scores themselves, which an interval does not show.

    Args:
        answers: ``(stage, task) -> answers``; stage 0 is the base model. Examples are paired
            across stages by ``Answer.id``. A pair that is absent or empty was not measured.
        targets: in the order in which they were taught; target j is taught in stage j (from 1).
        held_out: tasks that are never trained on. Other tasks are reported cell by cell only.
        learned_at: the stage in which a target was taught, where it is not its position.

    Raises:
        UsageError: a task that is named twice, or no answer to any of the tasks.
    """
    check_names(targets, held_out)
    learned = learned_stages(targets, learned_at)
    by_task = tables(answers)
    matrix = AccuracyMatrix.from_rows(
        [(k, t, float(v)) for t, table in by_task.items() for k, v in enumerate(table.means())],
        targets, held_out, learned_at=learned_at,
    )  # fmt: skip
    replicates = {
        name: interval.resample(
            table.scores, table.clusters, resamples=resamples,
            rng=np.random.default_rng([seed, zlib.crc32(name.encode())]),
        )
        for name, table in by_task.items()
    }  # fmt: skip
    rows = matrix.stages + 1
    drawn = Scores(
        _stack(replicates, targets, rows, resamples),
        _stack(replicates, held_out, rows, resamples),
        learned,
    )
    bound = _Bounds(matrix, drawn, by_task, level)
    return Summary(
        targets=tuple(targets),
        held_out=tuple(held_out),
        stages=matrix.stages,
        measures={name: bound.measure(m.compute, m.of) for name, m in MEASURES.items()},
        curve=bound.curve(),
        learning=bound.per_target(formulas.learning),
        forgetting=bound.per_target(formulas.change_since_learned),
        cells=_cells(by_task, replicates, targets, held_out, level),
        transitions=transitions(answers),
        worst_held_out=matrix.worst_held_out(),
        settings={
            "learned": list(learned),
            "level": level,
            "resamples": resamples,
            "seed": seed,
            "resampled": interval.unit_name([c for t in by_task.values() for c in t.clusters]),
        },
    )


def over_seeds(
    summaries: Sequence[Summary], *, level: float = interval.LEVEL
) -> dict[str, Estimate]:
    """Each measure's mean over runs of one recipe, with Student's t interval over them."""
    return {
        name: interval.over_runs([s.measures[name].value for s in summaries], level=level)
        for name in MEASURES
    }


@dataclass(frozen=True)
class _Bounds:
    """Puts intervals around functions of the matrix."""

    matrix: AccuracyMatrix
    drawn: Scores
    tables: Mapping[str, TaskTable]
    level: float

    def estimate(self, value: float, replicates: Array, tasks: Sequence[str]) -> Estimate:
        known = [self.tables[t] for t in tasks if t in self.tables]
        unit = interval.unit_name([c for t in known for c in t.clusters])
        # A sample that is drawn from single examples has no spread to show.
        n = sum(t.units for t in known) if all(t.units > 1 for t in known) else 1
        return interval.percentile(
            value, replicates, n=n, level=self.level,
            method=f"percentile bootstrap over {unit}",
        )  # fmt: skip

    def measure(self, compute: Callable[[Scores], Array], of: str) -> Estimate:
        tasks = self.matrix.targets if of == "targets" else self.matrix.held_out
        return self.estimate(float(compute(self.matrix.scores)), compute(self.drawn), tasks)

    def curve(self) -> tuple[Estimate, ...]:
        values = formulas.held_out_curve(self.matrix.scores)
        drawn = formulas.held_out_curve(self.drawn)
        return tuple(
            self.estimate(float(v), drawn[:, k], self.matrix.held_out) for k, v in enumerate(values)
        )

    def per_target(self, compute: Callable[[Scores], Array]) -> dict[str, Estimate]:
        values, drawn = compute(self.matrix.scores), compute(self.drawn)
        return {
            task: self.estimate(float(values[j]), drawn[:, j], [task])
            for j, task in enumerate(self.matrix.targets)
        }


def _stack(
    replicates: Mapping[str, Array], tasks: Sequence[str], rows: int, resamples: int
) -> Array:
    """[R, rows, len(tasks)]; NaN where a task was not measured."""
    grid = np.full((resamples, rows, len(tasks)), np.nan)
    for j, task in enumerate(tasks):
        if task in replicates:
            have = min(rows, replicates[task].shape[1])
            grid[:, :have, j] = replicates[task][:, :have]
    return grid


def _cells(
    by_task: Mapping[str, TaskTable],
    replicates: Mapping[str, Array],
    targets: Sequence[str],
    held_out: Sequence[str],
    level: float,
) -> tuple[Cell, ...]:
    kinds = {**{t: "target" for t in targets}, **{t: "held-out" for t in held_out}}
    order = [t for t in kinds if t in by_task] + sorted(set(by_task) - set(kinds))
    cells = []
    for task in order:
        table, drawn = by_task[task], replicates[task]
        method = f"percentile bootstrap over {interval.unit_name(table.clusters)}"
        for k, value in enumerate(table.means()):
            if not table.asked[k]:
                continue
            change = table.change(k)
            moved = drawn[:, k] - drawn[:, 0]
            cells.append(
                Cell(
                    stage=k,
                    task=task,
                    kind=kinds.get(task, "other"),
                    score=interval.percentile(
                        float(value), drawn[:, k], n=table.units, level=level, method=method
                    ),
                    change=interval.percentile(
                        change, moved, n=table.units, level=level, method=method
                    ),
                    unparsed=table.unparsed[k],
                    n=table.asked[k],
                )
            )
    return tuple(cells)


def _row(
    measure: str, e: Estimate, convention: str, stage: int | None = None, task: str | None = None
) -> dict[str, Any]:
    where = {"measure": measure, "convention": convention, "stage": stage, "task": task}
    return {**where, **asdict(e)}


def _described(name: str, e: Estimate) -> dict[str, Any]:
    m = MEASURES[name]
    return {**e.to_json(), "convention": m.convention, "summary": m.summary}


def _estimate(data: Mapping[str, Any]) -> Estimate:
    fields = ("value", "low", "high", "n", "level", "method")
    return Estimate.from_json({k: data[k] for k in fields})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return finite(value)
