"""A repair as tables, a picture and a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.errors import MissingExtra
from holdfast.report import plots
from holdfast.report.html import write_html
from holdfast.report.repair_page import repair_document
from holdfast.report.tables import Grid
from holdfast.report.text import paragraph
from holdfast.runs.files import write_text
from holdfast.text import safe_text

if TYPE_CHECKING:
    from holdfast.changes.repair.candidates import Candidate
    from holdfast.changes.repair.result import Repair

PAGE, PICTURE = "repair.md", "front"
MOST = 12
"""Lines of the table of parts on a terminal."""


def repair_tables(found: Repair, most: int | None = MOST) -> list[Grid]:
    """The front, what each part carries, and how the choice does on unseen examples."""
    tables = [front_table(found)]
    if found.parts:
        tables.append(parts_table(found, most))
    if found.chosen or found.nearest:
        tables.append(unseen_table(found))
    return tables


def front_table(found: Repair) -> Grid:
    """The base, the tuned model, and what no other candidate beats."""
    ends = [c for c in found.candidates if c.method == "ends"]
    rest = [c for c in found.front if c.method != "ends"]
    cells = tuple(_line(found, c) for c in (*ends, *rest))
    title = f"What nothing beats, of {len(found.candidates)} candidates (points, 95% intervals)"
    return Grid(title, ("candidate", "learned", "lost", "budget", "kept"), cells, (0, 3))


def candidates_table(found: Repair) -> Grid:
    """Everything that was tried."""
    best = {c.name for c in found.front}
    cells = tuple((*_line(found, c), "yes" if c.name in best else "") for c in found.candidates)
    header = ("candidate", "learned", "lost", "budget", "kept", "front")
    return Grid("Everything that was tried", header, cells, (0, 3, 5))


def parts_table(found: Repair, most: int | None = None) -> Grid:
    """What comes back and what goes away when one part alone is rolled back."""
    known = {c.name: c for c in found.candidates}
    cells = tuple(
        (p.selector, f"{p.harm:+.1f}", f"{p.skill:+.1f}", _budget(found, known[p.candidate]))
        for p in found.parts[:most]
    )
    header = ("rolled back alone", "held-out points back", "skill points gone", "budget")
    return Grid("Which parts carry the harm, and which the skill", header, cells, (0, 3))


def unseen_table(found: Repair) -> Grid:
    """The choice on the examples that chose it and on those that did not."""
    shown = [c for c in found.candidates if c.test_lost is not None and c.test_learned is not None]
    cells = tuple(
        (c.name, f"{c.learned:+.1f}", f"{c.test_learned:+.1f}", f"{c.lost:.1f}",
         f"{c.test_lost:.1f}")
        for c in shown
    )  # fmt: skip
    header = ("candidate", "learned", "learned, unseen", "lost", "lost, unseen")
    return Grid("On examples that the search did not see", header, cells)


def write_repair_report(found: Repair, folder: Path) -> Path:
    """Write ``repair.html``, ``repair.md`` and, where matplotlib is installed, ``front.png`` and
    ``front.svg``; returns the second's path."""
    blocks = ["# Repair", paragraph(found.verdict)]
    try:
        plots.save(front_figure(found), folder, PICTURE)
        blocks.append(f"![What was learned against what was lost]({PICTURE}.png)")
    except MissingExtra:
        blocks.append("Pictures need matplotlib; run: pip install 'holdfast[plots]'.")
    for grid in (*repair_tables(found, None), candidates_table(found)):
        blocks.append(f"## {paragraph(grid.title)}\n\n{grid.markdown()}")
    write_text(folder / PAGE, "\n\n".join(blocks) + "\n")
    write_html(folder / "repair.html", repair_document(found))
    return folder / PAGE


def front_figure(found: Repair) -> Any:
    """Every candidate in the plane of learning and loss, with the budget and the front."""
    with plots._canvas(8.0, 5.2) as (figure, axes):
        axes.axhline(0, color="#888888", linewidth=1)
        axes.axvline(0, color="#888888", linewidth=1)
        axes.axhline(
            -found.budget, color="#D55E00", linestyle="--", linewidth=1.2,
            label=f"budget: {found.budget:g} points",
        )  # fmt: skip
        best = found.front
        if len(best) > 1:
            axes.plot(*_places(best), color="#BBBBBB", linewidth=7, zorder=1, label="Pareto front")
        for i, method in enumerate(dict.fromkeys(c.method for c in found.candidates)):
            some = [c for c in found.candidates if c.method == method]
            name = {"ends": "base and tuned"}.get(method, method)
            colour, marker = plots.COLOURS[i], plots.MARKERS[i]
            axes.scatter(*_places(some), color=colour, marker=marker, s=44, zorder=3, label=name)
        last = found.chosen or found.nearest
        if last is not None:
            _mark(axes, last, "chosen" if found.chosen else "nearest")
        axes.grid()
        axes.set_xlabel("learned: mean gain on the learned tasks, in points")
        axes.set_ylabel("mean change on held-out tasks, in points")
        axes.set_title(safe_text(f"Between {found.base} and {found.tuned}"))
        figure.legend(loc="outside right upper", fontsize=9)
        figure.supxlabel("up and right is better", fontsize=8, color="#555555")
    return figure


def _mark(axes: Any, c: Candidate, word: str) -> None:
    x, y = c.learned.value, -c.lost.value
    below, above = c.lost.high - c.lost.value, c.lost.value - c.lost.low
    if not math.isnan(below + above):
        left, right = x - c.learned.low, c.learned.high - x
        axes.errorbar(
            x, y, xerr=[[left], [right]], yerr=[[below], [above]], color=plots.INK, zorder=2
        )
    axes.scatter(
        [x], [y], s=170, facecolor="none", edgecolor=plots.INK, linewidth=1.6, zorder=4,
        label=f"{word}: {safe_text(c.name)[:28]}",
    )  # fmt: skip


def _places(some: Sequence[Candidate]) -> tuple[list[float], list[float]]:
    return [c.learned.value for c in some], [-c.lost.value for c in some]


def _line(found: Repair, c: Candidate) -> tuple[str, ...]:
    return c.name, f"{c.learned:+.1f}", f"{c.lost:.1f}", _budget(found, c), f"{100 * c.share:.0f}%"


def _budget(found: Repair, c: Candidate) -> str:
    if found.chosen is not None and c.name == found.chosen.name:
        return "chosen"
    if c.name == "base":
        return ""
    if c.inside:
        return "inside"
    return "outside" if c.lost.low > found.budget else "not shown"
