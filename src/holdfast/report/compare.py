"""A comparison of two models as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    header = ("task", "before", "after", "change", "lost", "gained", "noise", "verdict")
    cells = tuple(
        (
            j.task,
            f"{j.before:.1f}",
            f"{j.after:.1f}",
            f"{j.change:+.1f}",
            str(j.lost),
            str(j.gained),
            "" if j.noise is None else str(j.noise),
            j.verdict if j.needed is None else f"{j.verdict} (n ~ {j.needed:,})",
        )
        for j in found.tasks
    )
    return Grid("Changes in points with 95% intervals, pair by pair", header, cells)


def causes_table(diagnoses: tuple[Diagnosis, ...]) -> Grid:
    """What was lost, split into format, drift and knowledge, in percent of the lost examples."""
    header = ("task", "lost", "format", "drift", "knowledge", "superficial", "essential")
    cells = tuple(
        (
            d.task,
            str(d.lost),
            f"{d.share['format']:.0f}",
            f"{d.share['drift']:.0f}",
            f"{d.share['knowledge']:.0f}",
            str(d.superficial),
            str(d.essential),
        )
        for d in diagnoses
    )
    return Grid("What the lost examples lost, % with 95% intervals", header, cells)
