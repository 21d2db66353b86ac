"""What the tables and pictures are drawn from: one typed row per recipe."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.errors import UsageError
from holdfast.measures.interval import Estimate, finite, over_runs
from holdfast.measures.matrix import AccuracyMatrix
from holdfast.measures.pareto import Point, Setting
from holdfast.measures.summary import Summary, over_seeds
from holdfast.text import safe_text

UNKNOWN = Estimate(math.nan)


@dataclass(frozen=True)
class RecipeRow:
    """What one recipe taught and what it cost. NaN and None: not measured."""

    recipe: str
    learned: Estimate
    """TL, the mean gain on the targets, in points."""
    forgetting: Estimate
    """HF, the mean change on the held-out tasks, in points; negative is loss."""
    trained: int | None = None
    """Parameters that were trained."""
    share: float = math.nan
    """Of all parameters, in percent."""
    seconds: float = math.nan
    """Training time."""
    lr: float = math.nan
    learned_total: Estimate = UNKNOWN
    """TL summed over targets: figure 1's left bars."""
    forgetting_total: Estimate = UNKNOWN
    """HF summed over held-out tasks: figure 1's left bars."""
    curve: tuple[float, ...] = ()
    """[K+1]: the mean held-out score after each stage: figure 1's right side."""
    stages: tuple[str, ...] = ()
    """[K]: what was taught in each stage."""

    def to_json(self) -> dict[str, Any]:
        """Plain values; NaN becomes None."""
        return {
            "recipe": self.recipe,
            "lr": finite(self.lr),
            "learned": self.learned.to_json(),
            "forgetting": self.forgetting.to_json(),
            "learned_total": self.learned_total.to_json(),
            "forgetting_total": self.forgetting_total.to_json(),
            "curve": [finite(v) for v in self.curve],
            "stages": list(self.stages),
            "trained": self.trained,
            "share": finite(self.share),
            "seconds": finite(self.seconds),
        }


def row_of_run(
    recipe: str,
    summary: Summary,
    *,
    trained: int | None = None,
    share: float = math.nan,
    seconds: float = math.nan,
    lr: float = math.nan,
) -> RecipeRow:
    """The row of one run; its intervals are over examples."""
    matrix = summary.matrix()
    return RecipeRow(
        recipe=recipe,
        learned=summary.measures["target_learning"],
        forgetting=summary.measures["held_out_forgetting"],
        trained=trained,
        share=share,
        seconds=seconds,
        lr=lr,
        learned_total=summary.measures["target_learning_total"],
        forgetting_total=summary.measures["held_out_forgetting_total"],
        curve=tuple(matrix.held_out_means()),
        stages=stage_names(matrix),
    )


def row_of_runs(
    recipe: str,
    summaries: Sequence[Summary],
    *,
    trained: int | None = None,
    share: float = math.nan,
    seconds: float = math.nan,
    lr: float = math.nan,
) -> RecipeRow:
    """The row of one recipe over several runs (seeds, orders); its intervals are over runs.

    The curve is the mean over the runs, stage by stage; where their orders differ, the stages
    are only numbered. Raises :class:`UsageError` if there is no run or their lengths differ.
    """
    lengths = sorted({s.stages for s in summaries})
    if len(lengths) != 1:
        raise UsageError(
            f"the runs of '{safe_text(recipe)}' have {lengths} stages; "
            "a mean needs at least one run, and runs of one length."
        )
    found = over_seeds(summaries)
    orders = {stage_names(s.matrix()) for s in summaries}
    numbered = tuple(f"stage {k + 1}" for k in range(summaries[0].stages))
    curves = zip(*(s.matrix().held_out_means() for s in summaries), strict=True)
    return RecipeRow(
        recipe=recipe,
        learned=found["target_learning"],
        forgetting=found["held_out_forgetting"],
        trained=trained,
        share=share,
        seconds=seconds,
        lr=lr,
        learned_total=found["target_learning_total"],
        forgetting_total=found["held_out_forgetting_total"],
        curve=tuple(over_runs(values).value for values in curves),
        stages=orders.pop() if len(orders) == 1 else numbered,
    )


def point_of_run(
    recipe: str,
    summary: Summary,
    *,
    lr: float,
    seed: int,
    order: str = "",
    trained: int | None = None,
    share: float = math.nan,
    seconds: float = math.nan,
) -> Point:
    """One run's place in the learning-forgetting plane: TL and HF."""
    return Point(
        recipe=recipe,
        lr=lr,
        seed=seed,
        learning=summary.measures["target_learning"].value,
        forgetting=summary.measures["held_out_forgetting"].value,
        seconds=seconds,
        trained=trained,
        share=share,
        order=order,
    )


def rows_of_settings(settings: Iterable[Setting]) -> list[RecipeRow]:
    """One row per recipe and learning rate; the intervals are over seeds."""
    return [
        RecipeRow(
            recipe=s.recipe,
            learned=s.learning,
            forgetting=s.forgetting,
            trained=s.trained,
            share=s.share,
            seconds=s.seconds.value,
            lr=s.lr,
        )
        for s in settings
    ]


def stage_names(matrix: AccuracyMatrix) -> tuple[str, ...]:
    """[K]: the targets that were taught in each stage, or the stage's number."""
    taught: dict[int, list[str]] = {}
    for task, stage in zip(matrix.targets, matrix.scores.learned, strict=True):
        taught.setdefault(stage, []).append(task)
    return tuple(" + ".join(taught.get(k, [f"stage {k}"])) for k in range(1, matrix.stages + 1))


def labels(rows: Sequence[RecipeRow]) -> list[str]:
    """A name for each row: the recipe, with its learning rate where recipes occur twice."""
    names = [r.recipe for r in rows]
    return [
        f"{r.recipe} @ {r.lr:g}" if names.count(r.recipe) > 1 and not math.isnan(r.lr) else r.recipe
        for r in rows
    ]
