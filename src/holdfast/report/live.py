"""How a run stands, from its folder, while another process works on it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.report.curves import Curves, curves_of
from holdfast.report.tables import ABSENT, Grid, duration
from holdfast.runs import Run
from holdfast.text import safe_text

if TYPE_CHECKING:
    from rich.console import RenderableType

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 32


@dataclass(frozen=True)
class Standing:
    """What a run's folder says at one moment."""

    name: str
    method: str
    stages: tuple[str, ...]
    done: int
    """Stages that are trained."""
    step: int
    """Of the stage that trains, as last logged."""
    loss: float
    seconds: float
    """Training time of the stages that are trained."""
    losses: tuple[float, ...]
    scores: Mapping[str, tuple[float, ...]]
    """For each task, scores in percent in the order of time."""
    finished: bool


def look(folder: Path) -> Standing:
    """Raises :class:`holdfast.errors.RunError` if the folder holds no run (yet)."""
    run = Run.read(folder)
    stages = tuple(s.label for s in run.config.data)
    noted = [run.stage_done(k) for k in range(1, len(stages) + 1)]
    done = next((k for k, found in enumerate(noted) if found is None), len(stages))
    train = run.measurements.read(lambda r: r["kind"] == "train" and "loss" in r)
    mine = [r for r in train if r["stage"] == done + 1]
    return Standing(
        name=str(folder),
        method=" | ".join(run.config.methods),
        stages=stages,
        done=done,
        step=int(mine[-1]["step"]) if mine else 0,
        loss=float(train[-1]["loss"]) if train else math.nan,
        seconds=sum(float(n["seconds"]) for n in noted if n),
        losses=tuple(float(r["loss"]) for r in train),
        scores=_scores(run, curves_of(run)),
        finished=run.finished,
    )


def _scores(run: Run, curves: Curves) -> dict[str, tuple[float, ...]]:
    """After the stages, and between them where the run scored samples while it trained."""
    found: dict[str, list[float]] = {}
    rows = sorted(run.scores(), key=lambda r: int(r["stage"]))
    for row in rows:
        if row["score"] is not None:
            found.setdefault(str(row["task"]), []).append(float(row["score"]))
    for task, points in curves.scores.items():
        if len(points) > len(found.get(task, ())):
            found[task] = [score for _, score, _ in points]
    return {task: tuple(values) for task, values in found.items()}


def sparkline(values: Sequence[float], low: float, high: float, width: int = WIDTH) -> str:
    """Values as a row of bars; the last ``width`` of them, or means of neighbours if more."""
    known = [v for v in values if math.isfinite(v)]
    if len(known) > width:
        cuts = [round(k * len(known) / width) for k in range(width + 1)]
        known = [sum(known[a:b]) / (b - a) for a, b in pairwise(cuts)]
    span = (high - low) or 1.0
    top = len(BARS) - 1
    return "".join(BARS[min(top, max(0, round((v - low) / span * top)))] for v in known)


def shown(standing: Standing) -> RenderableType:
    """For the terminal."""
    from rich.console import Group
    from rich.text import Text

    lines = [f"{standing.name}: {standing.method}", _where(standing)]
    if standing.losses:
        low, high = min(standing.losses), max(standing.losses)
        lines.append(f"loss {standing.loss:.4f}  {sparkline(standing.losses, low, high)}")
    parts: list[Any] = [Text(safe_text(line)) for line in lines]
    if standing.scores:
        parts.append(_table(standing.scores).rich())
    return Group(*parts)


def _where(standing: Standing) -> str:
    count = len(standing.stages)
    if standing.finished:
        stages = f"{count} stage{'' if count == 1 else 's'}"
        return f"finished: {stages} in {duration(standing.seconds)}"
    if standing.done == count:
        return "all stages are trained; the last scores are being taken"
    name = standing.stages[standing.done]
    at = f"step {standing.step}" if standing.step else "begins"
    return f"stage {standing.done + 1} of {count} ({name}): {at}"


def _table(scores: Mapping[str, Sequence[float]]) -> Grid:
    rows = tuple(
        (
            task,
            f"{values[0]:.1f}",
            f"{values[-1]:.1f}" if len(values) > 1 else ABSENT,
            f"{values[-1] - values[0]:+.1f}" if len(values) > 1 else ABSENT,
            sparkline(values, 0, 100),
        )
        for task, values in scores.items()
    )
    header = ("task", "first", "now", "change", "0 to 100%")
    return Grid("Scores in percent", header, rows, words=(0, 4))
