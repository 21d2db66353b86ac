"""What a comparison and the probes left in files: the split of the loss, and drift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.errors import RunError
from holdfast.measures.interval import Estimate
from holdfast.report.blocks import Share, Shares
from holdfast.report.tables import Grid
from holdfast.runs.files import read_json

MEANING = (
    ("format", "The right answer is there, in another form: it is found when the reply is read "
     "leniently, the question spells the form out, or ten examples teach only the form."),
    ("drift", "The model leans towards other words than before. Taking that lean off, or "
     "comparing the task's answers by their likelihood, finds the right one."),
    ("knowledge", "Found in none of these ways."),
)  # fmt: skip
CAUSES = tuple(name for name, _ in MEANING)


@dataclass(frozen=True)
class Split:
    """A task's lost examples by cause."""

    task: str
    lost: int
    tried: int
    share: Mapping[str, Estimate]
    causes: Mapping[str, str]
    """By example."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Split:
        """From what :meth:`holdfast.changes.diagnose.Diagnosis.to_json` wrote."""
        share = {str(k): Estimate.from_json(v) for k, v in data["share"].items()}
        causes = {str(k): str(v) for k, v in data["causes"].items() if v in CAUSES}
        return cls(str(data["task"]), int(data["lost"]), int(data["tried"]), share, causes)


def splits_of(folder: Path) -> list[Split]:
    """The diagnoses of a comparison kept in a run's folder (``compare.json`` or
    ``*/compare.json``); none where there is no such file, or one that is not ours."""
    for file in [folder / "compare.json", *sorted(folder.glob("*/compare.json"))]:
        try:
            kept = read_json(file)["diagnoses"] if file.exists() else []
            found = [Split.from_json(d) for d in kept]
        except (RunError, LookupError, TypeError, ValueError, AttributeError):
            continue
        if found:
            return found
    return []


def shares_block(splits: Sequence[Split]) -> Shares:
    """Stacked bars of the causes."""
    rows = [
        Share(
            s.task,
            [(cause, s.share.get(cause, Estimate(float("nan")))) for cause in CAUSES],
            f"{s.lost} lost" + (f", {s.tried} tried" if s.tried < s.lost else ""),
        )
        for s in splits
    ]
    return Shares("What the lost examples lost, with 95% intervals", rows, MEANING)


def drift_tables(folder: Path) -> list[Grid]:
    """One table for each probe that left its rows in ``drift.json``: what compares the two
    models; of many blocks the one with the largest value."""
    file = folder / "drift.json"
    try:
        results = read_json(file)["results"] if file.exists() else []
        if isinstance(results, Mapping):  # of a sweep
            return []
        return [grid for result in results if (grid := drift_table(result)).rows]
    except (RunError, LookupError, TypeError, ValueError, AttributeError):
        return []


def drift_table(result: Mapping[str, Any]) -> Grid:
    """What compares the two models in a probe's result; of many blocks the largest value."""
    most: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for row in result["rows"]:
        if row["side"] not in ("change", "pair") or row["value"] is None:
            continue
        key = tuple(str(row[k]) for k in ("measure", "side", "token_class", "part", "tower"))
        if key not in most or abs(row["value"]) > abs(most[key]["value"]):
            most[key] = row
    cells = tuple(
        (
            str(row["measure"]),
            _where(row),
            format(
                Estimate.from_json({k: row[k] for k in _ESTIMATE}),
                "+.4g" if row["side"] == "change" else ".4g",
            ),
            str(row["unit"]),
            "" if row["neutral"] is None else f"{row['neutral']:g}",
        )
        for row in most.values()
    )
    data = next((str(r["data"]) for r in result["rows"] if r["data"]), "")
    title = f"{result['probe']} on {data}" if data else str(result["probe"])
    header = ("measure", "where", "value", "unit", "no change is")
    return Grid(title, header, cells, words=(0, 1, 3))


_ESTIMATE = ("value", "low", "high", "n", "level", "method")


def _where(row: Mapping[str, Any]) -> str:
    block = "" if row["block"] is None else f"block {row['block']}"
    return " ".join(str(w) for w in (row["token_class"], row["tower"], block, row["part"]) if w)
