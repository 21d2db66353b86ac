"""A comparison of two models as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.measures.interval import Estimate
from holdfast.report.tables import Grid

if TYPE_CHECKING:
    from holdfast.changes.compare import Comparison
    from holdfast.changes.diagnose import Diagnosis


def compare_tables(found: Comparison) -> list[Grid]:
    """What changed on each task and, where it was asked for, what the loss is made of."""
    tables = [changes_table(found)]
    if found.diagnoses:
        tables.append(causes_table(found.diagnoses))
    return tables


def changes_table(found: Comparison) -> Grid:
    """One line for each task."""
    header = ("task", "before", "after", "change", "95%", "lost", "won", "noise", "verdict")
    cells = tuple(
        (
            j.task,
            f"{j.before:.1f}",
            f"{j.after:.1f}",
            f"{j.change.value:+.1f}",
            _bounds(j.change),
            str(j.lost),
            str(j.gained),
            "" if j.noise is None else str(j.noise),
            j.verdict if j.needed is None else f"{j.verdict} (n~{j.needed:,})",
        )
        for j in found.tasks
    )
    title = "Changes in points, example by example; lost and won: examples; noise: flips by itself"
    return Grid(title, header, cells, words=(0, 8))


def causes_table(diagnoses: tuple[Diagnosis, ...]) -> Grid:
    """What was lost, split into format, drift and knowledge, in percent of the lost examples."""
    header = ("task", "lost", "format", "drift", "knowledge", "superficial")
    cells = tuple(
        (
            d.task,
            str(d.lost),
            *(_short(d.share[cause]) for cause in ("format", "drift", "knowledge")),
            _short(d.superficial),
        )
        for d in diagnoses
    )
    return Grid("What the lost examples lost, % (95%)", header, cells)


def _short(e: Estimate) -> str:
    return f"{e.value:.0f} ({_bounds(e, 0)})"


def _bounds(e: Estimate, digits: int = 1) -> str:
    return f"{e.low:.{digits}f}..{e.high:.{digits}f}"
