"""The same tables for the terminal (rich) and for a page (Markdown), and verdicts in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.measures.formulas import MEASURES
from holdfast.measures.interval import Estimate
from holdfast.measures.pareto import Matched, Setting
from holdfast.measures.summary import Summary
from holdfast.report.rows import RecipeRow, labels, stage_names
from holdfast.report.text import markdown
from holdfast.text import safe_text

if TYPE_CHECKING:
    from rich.table import Table

ABSENT = "-"


@dataclass(frozen=True)
class Grid:
    """A table of strings."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: tuple[int, ...] = (0,)
    """The columns that hold text and are aligned left; the others are numbers."""

    def rich(self) -> Table:
        """For the terminal; control characters are escaped and markup is not interpreted."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(safe_text(self.title)), title_justify="left")
        for i, name in enumerate(self.header):
            table.add_column(Text(safe_text(name)), justify="left" if i in self.words else "right")
        for row in self.rows:
            table.add_row(*(Text(safe_text(cell)) for cell in row))
        return table

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"header": list(self.header), "rows": [list(row) for row in self.rows]}

    def markdown(self) -> str:
        """For a page; every cell is escaped."""
        rule = "|".join(":--" if i in self.words else "--:" for i in range(len(self.header)))
        return "\n".join([_line(self.header), f"|{rule}|", *map(_line, self.rows)]) + "\n"


def comparison(rows: Sequence[RecipeRow], title: str = "Recipes") -> Grid:
    """What each recipe taught and what it cost, in percentage points with intervals."""
    header = ("recipe", "learned", "lost", "trained weights", "share", "training")
    cells = [
        (
            name,
            f"{r.learned:+.1f}",
            f"{-r.forgetting:.1f}",
            ABSENT if r.trained is None else f"{r.trained:,}",
            ABSENT if math.isnan(r.share) else f"{r.share:.1f}%",
            duration(r.seconds),
        )
        for name, r in zip(labels(rows), rows, strict=True)
    ]
    return Grid(title, header, tuple(cells))


def accuracy(summary: Summary, title: str = "Score in percent after each stage") -> Grid:
    """Every task's score after every stage; a target's own stage is marked with a star."""
    matrix = summary.matrix()
    own = dict(zip(matrix.targets, matrix.scores.learned, strict=True))
    header = ("task", "base", *(f"after {name}" for name in stage_names(matrix)))
    rows = [
        (task, *(_score(matrix.score(k, task), own.get(task) == k) for k in range(len(header) - 1)))
        for task in (*matrix.targets, *matrix.held_out)
    ]
    if matrix.held_out:
        rows.append(("mean of held-out", *(_score(v) for v in matrix.held_out_means())))
    return Grid(title, header, tuple(rows))


def unparsed(summary: Summary, title: str = "Replies that could not be read, in percent") -> Grid:
    """Parse failures of every task after every stage: lost format is not lost knowledge."""
    matrix = summary.matrix()
    header = ("task", "base", *(f"after {name}" for name in stage_names(matrix)))
    rows = []
    for task in dict.fromkeys(c.task for c in summary.cells):
        cells = [summary.cell(k, task) for k in range(len(header) - 1)]
        rows.append((task, *(ABSENT if c is None else _score(c.unparsed) for c in cells)))
    return Grid(title, header, tuple(rows))


def measures(summary: Summary, title: str = "Measures") -> Grid:
    """All measures, each with the convention that it follows."""
    rows = [
        (name.replace("_", " "), f"{e:+.1f}", MEASURES[name].summary, MEASURES[name].convention)
        for name, e in summary.measures.items()
        if not math.isnan(e.value)
    ]
    return Grid(title, ("measure", "value", "what it is", "convention"), tuple(rows), (0, 2, 3))


def churn(summary: Summary, title: str = "Examples that changed since the base model") -> Grid:
    """Per task at the last stage: what the average hides."""
    header = ("task", "n", "right to wrong", "of these unreadable", "wrong to right")
    rows = [
        (t.task, f"{t.n}", f"{t.right_to_wrong}", f"{t.right_to_unparsed}", f"{t.wrong_to_right}")
        for t in summary.transitions
        if t.stage == summary.stages
    ]
    return Grid(title, header, tuple(rows))


def matched(rows: Sequence[Matched], title: str = "Lost at equal learning") -> Grid:
    """Each recipe's loss where it has learned the same; a dash where it was not measured."""
    levels = sorted({m.level for m in rows})
    by_place = {(m.recipe, m.level): m.forgetting for m in rows}
    header = ("recipe", *(f"at +{level:.1f}" for level in levels))
    cells = [
        (recipe, *(_loss(by_place.get((recipe, level))) for level in levels))
        for recipe in dict.fromkeys(m.recipe for m in rows)
    ]
    return Grid(title, header, tuple(cells))


def front(settings: Sequence[Setting], title: str = "Pareto front") -> Grid:
    """The settings that no other one beats."""
    rows = [(s.name, f"{s.learning:+.1f}", f"{-s.forgetting:.1f}") for s in settings]
    return Grid(title, ("setting", "learned", "lost"), tuple(rows))


def verdict(row: RecipeRow, *, bounds: bool = True) -> str:
    """One sentence for somebody who knows nothing of the measures.

    ``bounds=False`` leaves the intervals to numbers that stand beside it.
    """
    learned, lost = _learned(row.learned, bounds), _lost(row.forgetting, bounds)
    return f"{safe_text(row.recipe)} {learned} {lost}."


def duration(seconds: float) -> str:
    """``48 s``, ``3 min 20 s``, ``2 h 5 min``; a dash if not measured."""
    if math.isnan(seconds):
        return ABSENT
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if seconds >= 10 else f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _learned(e: Estimate, bounds: bool) -> str:
    if math.isnan(e.value):
        return "was not measured on what it was taught"
    unsure = ", which these examples cannot tell from nothing," if _undecided(e) else ""
    return f"learned {_points(e, bounds, '+')}{unsure}"


def _lost(e: Estimate, bounds: bool) -> str:
    if math.isnan(e.value):
        return "and what the model could do before was not measured"
    unsure = ", which these examples cannot tell from nothing" if _undecided(e) else ""
    if e.value > 0:
        return f"and gained {_points(e, bounds)} on what the model could do before{unsure}"
    return f"and lost {_points(-e, bounds)} of what the model could do before{unsure}"


def _undecided(e: Estimate) -> bool:
    """The interval holds 0, and the value is not 0 for certain."""
    return not math.isnan(e.low) and e.low <= 0 <= e.high and e.low < e.high


def _points(e: Estimate, bounds: bool, sign: str = "") -> str:
    number, _, interval = format(e, f"{sign}.1f").partition(" ")
    return f"{number} points {interval}" if bounds else f"{number} points"


def _score(value: float, own: bool = False) -> str:
    return ABSENT if math.isnan(value) else f"{value:.1f}{'*' if own else ''}"


def _loss(e: Estimate | None) -> str:
    return ABSENT if e is None or math.isnan(e.value) else f"{-e:.1f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(markdown(c) for c in cells) + " |"
