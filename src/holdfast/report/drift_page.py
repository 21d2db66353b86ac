"""The pages of the probes: of two models, and of the runs of a sweep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from holdfast.measures.interval import Estimate
from holdfast.report import svg
from holdfast.report.blocks import Document, Figure, Multiples, Prose, Section, Small, Table
from holdfast.report.causes import drift_table
from holdfast.report.svg import Line, number
from holdfast.report.tables import ABSENT, Grid

if TYPE_CHECKING:
    from holdfast.probes._relate import Related

DRAWN, LISTED = 12, 40
"""Of the numbers of a sweep: how many are drawn, and how many stand in the table."""


def drift_document(base: str, tuned: str, results: Sequence[Mapping[str, Any]]) -> Document:
    """What the probes found between two models.

    Args:
        results: as :meth:`holdfast.probes.ProbeResult.to_json` gives them.
    """
    tables = [drift_table(result) for result in results]
    sections = [
        Section(f"probe-{k}", grid.title, [Table(grid)])
        for k, grid in enumerate(tables, 1)
        if grid.rows
    ]
    return Document(
        title=f"Drift from {base} to {tuned}",
        about=f"Holdfast probes. {base} before, {tuned} after.",
        verdict=_moved(results),
        lead="What tuning did to outputs, layers and weights, whatever the scores say. A line is "
        "the change of a number between the models, or a distance between them; of several "
        "blocks the one with the largest value. Intervals are over prompts.",
        sections=sections,
    )


def _moved(results: Sequence[Mapping[str, Any]]) -> str:
    """One sentence: how many of the numbers left the value that stands for no change."""
    known = [
        row
        for result in results
        for row in result["rows"]
        if row["side"] in ("change", "pair") and None not in (row["low"], row["high"])
        and row["neutral"] is not None
    ]  # fmt: skip
    moved = [r for r in known if not r["low"] <= r["neutral"] <= r["high"]]
    if not known:
        return "No number of these probes has an interval."
    return f"{len(moved)} of {len(known)} numbers moved by more than chance explains."


def relation_document(found: Sequence[Related], forgetting: Mapping[str, float]) -> Document:
    """Which probes go with forgetting over the runs of a sweep."""
    known = [r for r in found if not math.isnan(r.spearman.value)]
    worst, best = max(forgetting.values()), min(forgetting.values())
    if known:
        first = known[0]
        verdict = (
            f"{first.name} goes with forgetting most closely: Spearman "
            f"{number(first.spearman.value, 2)} over {first.n} runs."
        )
    else:
        verdict = "No probe's number differs between these runs."
    grid = Grid(
        "Coefficients with 95% intervals over runs",
        ("probe", "runs", "Spearman", "Pearson"),
        tuple((r.name, f"{r.n}", _cell(r.spearman), _cell(r.pearson)) for r in found[:LISTED]),
    )
    left = f" The {LISTED} strongest are listed." if len(found) > LISTED else ""
    charts = [_scatter(r) for r in known[:DRAWN]]
    return Document(
        title="Which probe goes with forgetting?",
        about=f"Holdfast probes over {len(forgetting)} runs of a sweep.",
        verdict=verdict,
        lead=f"{len(found)} numbers were tried, so the strongest of them is stronger than one "
        "that was chosen beforehand would be. That two things go together over the runs of one "
        "sweep does not say that one is the cause.",
        figures=[
            Figure("Runs", f"{len(forgetting)}"),
            Figure("Lost", f"{number(best)} to {number(worst)}", "points on held-out tasks"),
            Figure("Tried", f"{len(found)}", "numbers of probes"),
        ],
        sections=[
            Section("table", "Correlations", [Table(grid)], f"Forgetting is positive.{left}"),
            Section("plots", "Run by run", [Multiples("Points lost against each probe", charts)]
                    if charts else [Prose("There is nothing to draw.")],
                    "Each mark is a run: to the right is more of the probe, up is more lost."),
        ],
    )  # fmt: skip


def _scatter(one: Related) -> Small:
    x, y = [v for _, v, _ in one.points], [lost for _, _, lost in one.points]
    drawn = svg.plot(
        [Line(x, y, joined=False)],
        title=f"Points lost against {one.name}",
        description="; ".join(f"{run}: {v:.3g}, lost {number(f)}" for run, v, f in one.points),
        x=svg.axis(x),
        y=svg.axis(y, zero=True),
        height=110,
        bare=True,
    )
    return Small(one.name, drawn, f"from {min(x):.3g} to {max(x):.3g}; {_cell(one.spearman)}")


def _cell(e: Estimate) -> str:
    if math.isnan(e.value):
        return ABSENT
    bounds = "" if math.isnan(e.low) else f" [{number(e.low, 2)}, {number(e.high, 2)}]"
    return f"{number(e.value, 2)}{bounds}"
