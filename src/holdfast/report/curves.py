"""Scores and losses against steps, from what a run noted while it trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.measures.stability import Stability, Trace, stability
from holdfast.report import svg
from holdfast.report.blocks import Block, Multiples, Prose, Small, Table
from holdfast.report.svg import Axis, Line, number
from holdfast.report.tables import Grid
from holdfast.runs import Run
from holdfast.runs.files import Lines


@dataclass(frozen=True)
class Curves:
    """What was scored and lost at which step, the steps of all stages counted on."""

    scores: Mapping[str, tuple[tuple[float, float, int], ...]]
    """For each task (step, score in percent, stage)."""
    loss: tuple[tuple[float, float], ...]
    ends: tuple[float, ...]
    """The last step of every stage."""


def curves_of(run: Run) -> Curves:
    """Raises :class:`holdfast.errors.RunError` if a file of the run is damaged."""
    steps = [int((run.stage_done(k) or {}).get("steps", 0)) for k in _stages(run)]
    begins = [sum(steps[:k]) for k in range(len(steps) + 1)]
    scores: dict[str, list[tuple[float, float, int]]] = {}
    for row in Lines(run.path / "curve.jsonl").read(lambda r: "scores" in r):
        stage = int(row["stage"])
        for task, score in row["scores"].items():
            if score is not None:
                at = begins[stage - 1] + int(row["step"])
                scores.setdefault(str(task), []).append((at, float(score), stage))
    train = run.measurements.read(lambda r: r["kind"] == "train" and "loss" in r)
    loss = [(begins[int(r["stage"]) - 1] + int(r["step"]), float(r["loss"])) for r in train]
    return Curves({t: tuple(v) for t, v in scores.items()}, tuple(loss), tuple(begins[1:]))


def _stages(run: Run) -> range:
    return range(1, len(run.config.data) + 1)


def curve_blocks(curves: Curves, learned_at: Mapping[str, int]) -> list[Block]:
    """Small charts of every task and of the loss, and the stability gap."""
    blocks: list[Block] = []
    if curves.scores:
        charts = [_small(t, points, curves) for t, points in curves.scores.items()]
        note = (
            "All on one scale, 0 to 100%. Scored on small samples while the model trained: "
            "a few points up or down are noise."
        )
        if len(curves.ends) > 1:
            note += " A dashed line: the end of a stage."
        blocks.append(Multiples("Scores while the model trained", charts, note))
        found = stability_of(curves, learned_at)
        if found is not None:
            blocks.append(Table(stability_table(found)))
    if len(curves.loss) > 1:
        blocks.append(Multiples("Training loss", [_loss(curves)]))
    if not blocks:
        blocks.append(
            Prose(
                "Nothing was scored while the model trained. To see the curves, tune with "
                "--evaluate-share 0.1."
            )
        )
    return blocks


def _small(task: str, points: Sequence[tuple[float, float, int]], curves: Curves) -> Small:
    steps, scores = [p[0] for p in points], [p[1] for p in points]
    lowest = min(range(len(scores)), key=lambda k: scores[k])
    text = f"{number(scores[0], 0)} to {number(scores[-1], 0)}"
    if scores[lowest] < min(scores[0], scores[-1]):
        text += f", lowest {number(scores[lowest], 0)} at step {steps[lowest]:g}"
    drawn = svg.plot(
        [Line(steps, scores, marked=len(steps) == 1)],
        title=f"{task} against steps",
        description=f"From {text}, over {steps[-1]:g} steps.",
        x=Axis(0, max([*curves.ends, *steps, 1])),
        y=Axis(0, 100),
        height=56,
        rules=curves.ends[:-1],
        bare=True,
    )
    return Small(task, drawn, text)


def _loss(curves: Curves) -> Small:
    steps, losses = [p[0] for p in curves.loss], [p[1] for p in curves.loss]
    text = f"{number(losses[0], 3)} to {number(losses[-1], 3)} over {steps[-1]:g} steps"
    known = [v for v in losses if math.isfinite(v)]
    drawn = svg.plot(
        [Line(steps, losses, marked=False)],
        title="Training loss against steps",
        description=f"From {text}.",
        x=Axis(0, max([*curves.ends, *steps, 1])),
        y=Axis(0, max(known, default=1.0) or 1.0),
        height=56,
        rules=curves.ends[:-1],
        bare=True,
    )
    return Small("loss", drawn, text)


def stability_of(curves: Curves, learned_at: Mapping[str, int]) -> Stability | None:
    """The stability gap at the end of the run; None where nothing was scored.

    Args:
        learned_at: the stage of each target; every other task was known all along.
    """
    last = len(curves.ends)
    current, earlier = [], []
    for task, points in curves.scores.items():
        scores = tuple(score for _, score, _ in points)
        stage = learned_at.get(task)
        if stage == last:
            current.append(Trace(scores, len(scores)))
        elif stage is None:
            earlier.append(Trace(scores))
        else:
            before = sum(at_stage <= stage for _, _, at_stage in points)
            earlier.append(Trace(scores, before))
    if not (current or earlier) or len(current) > 1:
        return None
    return stability(current, earlier, windows=(10,))


def stability_table(found: Stability) -> Grid:
    """The measures of De Lange et al. 2023, in percent and points."""
    rows: list[tuple[str, Any, str]] = [
        ("min-ACC", found.min_acc, "mean over earlier tasks of their lowest score since learned"),
        ("WC-ACC", found.wc_acc, "worst case: the task being learned, others at their lowest"),
    ]
    for window, value in found.windowed_forgetting.items():
        rows.append((f"WF{window}", value, f"largest drop within {window} evaluations, mean"))
    for window, value in found.windowed_plasticity.items():
        rows.append((f"WP{window}", value, f"largest rise within {window} evaluations, mean"))
    cells = tuple((name, number(value), what) for name, value, what in rows if value == value)
    header = ("measure", "value", "what it is")
    return Grid("The stability gap (De Lange et al. 2023)", header, cells, words=(0, 2))
