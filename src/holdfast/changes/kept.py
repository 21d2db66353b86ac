"""A comparison read back from the folder that it was kept in."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from holdfast.changes.compare import Comparison
from holdfast.changes.diagnose import CAUSES, Diagnosis
from holdfast.changes.verdict import MARGIN, Gated, Judged
from holdfast.errors import RunError
from holdfast.measures.interval import LEVEL, Estimate
from holdfast.runs.files import read_json
from holdfast.runs.run import task_of
from holdfast.tasks.base import Answer


def read_comparison(folder: Path) -> Comparison:
    """What :func:`holdfast.changes.compare.keep` wrote.

    Raises :class:`RunError` if the folder holds no comparison, or a damaged one.
    """
    file = folder / "compare.json"
    if not file.exists():
        raise RunError(f"{folder} holds no comparison: there is no compare.json in it.")
    kept = read_json(file)
    answers = {task_of(f): _pairs(f) for f in sorted((folder / "examples").glob("*.jsonl"))}
    try:
        judged = tuple(_judged(row) for row in kept["tasks"])
        return Comparison(
            base=str(kept["base"]),
            tuned=str(kept["tuned"]),
            tasks=judged,
            mean=Estimate.from_json(kept["mean_change"]),
            answers={j.task: answers.get(j.task, ()) for j in judged},
            gated=_gated(kept["gate"]),
            margin=float(kept.get("margin", MARGIN)),
            diagnoses=tuple(_diagnosis(d) for d in kept["diagnoses"]),
            facts=dict(kept["facts"]),
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{file} is damaged ({type(error).__name__}: {error}).") from None


def _judged(row: Mapping[str, Any]) -> Judged:
    value, low, high = (_number(row[k]) for k in ("change", "low", "high"))
    change = Estimate(value, low, high, int(row["n"]), LEVEL, str(row["interval"]))
    same = ("task", "n", "lost", "gained", "p", "p_adjusted", "noise", "verdict", "why", "needed")
    before, after = _number(row["before"]), _number(row["after"])
    return Judged(**{k: row[k] for k in same}, before=before, after=after, change=change)


def _gated(gate: Mapping[str, Any] | None) -> Gated | None:
    return None if gate is None else Gated(**{**gate, "loss": Estimate.from_json(gate["loss"])})


def _diagnosis(kept: Mapping[str, Any]) -> Diagnosis:
    share = {cause: Estimate.from_json(kept["share"][cause]) for cause in CAUSES}
    sefe = {k: Estimate.from_json(kept[k]) for k in ("superficial", "essential")}
    notes = tuple(str(note) for note in kept["notes"])
    return Diagnosis(**cast(Any, {**kept, **sefe, "share": share, "notes": notes}))


def _pairs(file: Path) -> tuple[tuple[Answer, Answer], ...]:
    try:
        rows = [json.loads(line) for line in file.read_bytes().splitlines()]
        return tuple((_answer(row["before"]), _answer(row["after"])) for row in rows)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise RunError(f"{file} is damaged.") from None


def _answer(row: Mapping[str, Any]) -> Answer:
    lists = {k: tuple(row[k]) for k in ("references", "logprobs")}
    return Answer(**{**row, **lists})


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
