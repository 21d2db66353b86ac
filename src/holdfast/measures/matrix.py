"""The accuracy matrix: every task's score after every stage, and what it says about forgetting."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from holdfast.errors import UnknownName, UsageError
from holdfast.measures import formulas
from holdfast.measures.formulas import MEASURES, Array, Scores


@dataclass(frozen=True)
class AccuracyMatrix:
    """Scores in percent of targets and held-out tasks after stages 0 (the base model) to K.

    Build it with :meth:`from_rows`. A cell that was not measured is NaN.
    """

    targets: tuple[str, ...]
    """In the order in which they were taught."""
    held_out: tuple[str, ...]
    scores: Scores

    @classmethod
    def from_rows(
        cls,
        rows: Iterable[tuple[int, str, float]],
        targets: Sequence[str],
        held_out: Sequence[str] = (),
        *,
        learned_at: Mapping[str, int] | None = None,
    ) -> AccuracyMatrix:
        """Build the matrix from ``(stage, task, score in percent)`` rows.

        Args:
            rows: any order; tasks that are neither target nor held-out are left out; a later
                row replaces an earlier one of the same cell (a stage that was measured again).
            targets: target j is taught in stage j (1-based) unless ``learned_at`` says otherwise.
            held_out: tasks that are never trained on.
            learned_at: the stage in which a target is taught, where it is not its position.

        Raises:
            UsageError: a name that is given twice, a negative stage, or no row of a known task.
        """
        check_names(targets, held_out)
        cells = {(int(k), task): float(score) for k, task, score in rows}
        known = [*targets, *held_out]
        stages = [k for k, task in cells if task in known]
        if not stages:
            raise UsageError(
                f"none of the measured tasks ({_listed({t for _, t in cells})}) is a target "
                f"({_listed(targets)}) or a held-out task ({_listed(held_out)})."
            )
        if min(stages) < 0:
            raise UsageError(f"stage {min(stages)} was given; stage 0 is the base model.")

        def grid(tasks: Sequence[str]) -> Array:
            columns = [
                [cells.get((k, task), np.nan) for task in tasks] for k in range(max(stages) + 1)
            ]
            return np.array(columns, dtype=float).reshape(max(stages) + 1, len(tasks))

        learned = learned_stages(targets, learned_at)
        return cls(tuple(targets), tuple(held_out), Scores(grid(targets), grid(held_out), learned))

    @classmethod
    def from_array(
        cls,
        results: Sequence[Sequence[float]] | Array,
        base: Sequence[float] | Array | None = None,
        held_out: Sequence[Sequence[float]] | Array | None = None,
    ) -> AccuracyMatrix:
        """Build the matrix from the R of the papers, tasks named ``task 1``, ``task 2`` ...

        Args:
            results: [T, T], R[i][j] in percent after stage i+1; rows may be cut short where
                later tasks were not measured.
            base: [T], the base model's scores, if measured.
            held_out: [T+1, B], scores on held-outs, the base model's first.

        Raises:
            UsageError: there is no row, or a row is longer than there are rows.
        """
        stages = [[] if base is None else base, *results]
        count, longest = len(results), max(len(row) for row in stages)
        if not count or longest > count:
            raise UsageError(
                f"{count} rows of up to {longest} scores were given; one row per stage and one "
                "column per task of these stages are expected."
            )
        rows = [
            (k, f"task {j}", float(v))
            for k, row in enumerate(stages)
            for j, v in enumerate(row, start=1)
        ]
        others = [] if held_out is None else held_out
        rows += [(k, f"held-out {b}", v) for k, r in enumerate(others) for b, v in enumerate(r, 1)]
        names = [f"task {j}" for j in range(1, count + 1)]
        width = max((len(r) for r in others), default=0)
        return cls.from_rows(rows, names, [f"held-out {b}" for b in range(1, width + 1)])

    @property
    def stages(self) -> int:
        """K, the number of the last stage."""
        return self.scores.stages

    def score(self, stage: int, task: str) -> float:
        """One cell in percent, NaN if not measured. Raises :class:`UnknownName`."""
        if task in self.targets:
            values, j = self.scores.targets, self.targets.index(task)
        elif task in self.held_out:
            values, j = self.scores.held_out, self.held_out.index(task)
        else:
            raise UnknownName("task in this matrix", task, [*self.targets, *self.held_out])
        return float(values[stage, j]) if 0 <= stage <= self.stages else float("nan")

    def measure(self, name: str) -> float:
        """One of :data:`holdfast.measures.formulas.MEASURES`. Raises :class:`UnknownName`."""
        if name not in MEASURES:
            raise UnknownName("measure", name, MEASURES)
        return float(MEASURES[name].compute(self.scores))

    def measures(self) -> dict[str, float]:
        """All measures by name; NaN where the matrix does not say."""
        return {name: self.measure(name) for name in MEASURES}

    @property
    def target_learning(self) -> float:
        """TL = mean_j(A[k_j][j] - A[0][j])."""
        return self.measure("target_learning")

    @property
    def target_forgetting(self) -> float:
        """TF = mean_j(A[K][j] - A[k_j][j]); negative is loss."""
        return self.measure("target_forgetting")

    @property
    def target_overall(self) -> float:
        """TO = mean_j(A[K][j] - A[0][j]) = TL + TF."""
        return self.measure("target_overall")

    @property
    def held_out_forgetting(self) -> float:
        """HF = mean_b(H[K][b] - H[0][b]); negative is loss."""
        return self.measure("held_out_forgetting")

    def held_out_curve(self) -> list[float]:
        """[K+1]: HF_k after each stage; the first is 0 (or NaN without a base measurement)."""
        return [float(v) for v in formulas.held_out_curve(self.scores)]

    def held_out_means(self) -> list[float]:
        """[K+1]: the mean held-out score after each stage, as figure 1's curve shows it."""
        return [float(v) for v in formulas.mean(self.scores.held_out)]

    def learning(self) -> dict[str, float]:
        """What each target gained in its own stage, in points."""
        return _named(self.targets, formulas.learning(self.scores))

    def change_since_learned(self) -> dict[str, float]:
        """The change of each target since its own stage, in points; negative is loss."""
        return _named(self.targets, formulas.change_since_learned(self.scores))

    def held_out_change(self, stage: int | None = None) -> dict[str, float]:
        """The change of each held-out task from the base to ``stage`` (the last), in points."""
        row = self.stages if stage is None else stage
        return _named(self.held_out, formulas.held_out_change(self.scores)[row])

    def worst_held_out(self) -> str | None:
        """The held-out task that lost most; None if none was measured."""
        change = {t: v for t, v in self.held_out_change().items() if not np.isnan(v)}
        return min(change, key=lambda task: change[task]) if change else None

    def rows(self) -> list[dict[str, Any]]:
        """One row per cell: stage, task, kind (``target`` or ``held-out``), score in percent."""
        kinds = [(t, "target") for t in self.targets] + [(t, "held-out") for t in self.held_out]
        return [
            {"stage": k, "task": task, "kind": kind, "score": self.score(k, task)}
            for k in range(self.stages + 1)
            for task, kind in kinds
        ]


def check_names(targets: Sequence[str], held_out: Sequence[str]) -> None:
    """Raises :class:`UsageError` if a task is named twice, or is both target and held-out."""
    names = [*targets, *held_out]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise UsageError(
            f"the task '{twice[0]}' is named twice among the targets ({_listed(targets)}) and "
            f"the held-out tasks ({_listed(held_out)}); name each once."
        )


def learned_stages(
    targets: Sequence[str], learned_at: Mapping[str, int] | None = None
) -> tuple[int, ...]:
    """[T]: the stage of each target: its position (1-based), or what ``learned_at`` says."""
    given = dict(learned_at or {})
    for task, stage in given.items():
        if task not in targets:
            raise UnknownName("target", task, targets)
        if stage < 1:
            raise UsageError(f"target '{task}' is taught in stage {stage}; stages start at 1.")
    return tuple(given.get(task, j) for j, task in enumerate(targets, start=1))


def _named(tasks: Sequence[str], values: Array) -> dict[str, float]:
    return {task: float(v) for task, v in zip(tasks, values, strict=True)}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
