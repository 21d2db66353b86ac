"""A search within a budget as tables and pages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.report.blocks import Document, Facts, Figure, Section, Table
from holdfast.report.html import write_html
from holdfast.report.tables import Grid, duration
from holdfast.report.text import markdown, paragraph
from holdfast.runs.files import write_text

if TYPE_CHECKING:
    from holdfast.budget.result import Confirmed, Tried, Within

MOST = 12
"""Lines of the table of what was tried, on a terminal."""


def budget_tables(found: Within, most: int | None = MOST) -> list[Grid]:
    """What was tried, what was asked the unseen examples, and each kept task."""
    tables = [tried_table(found, most)]
    if found.sequence:
        tables.append(sequence_table(found))
    if (last := found.chosen or found.nearest) is not None:
        tables.append(tasks_table(found, last))
    if found.excluded or found.failed:
        tables.append(left_out_table(found))
    return tables


def tried_table(found: Within, most: int | None = None) -> Grid:
    """Models that the search looked at: for each trial the one that learned most inside the
    budget, or else the one that lost least; those first that learned most."""
    best: dict[str, Tried] = {}
    for t in found.tried:
        there = best.get(t.trial)
        if there is None or _rank(t, found.budget) > _rank(there, found.budget):
            best[t.trial] = t
    shown = sorted(best.values(), key=lambda t: _rank(t, found.budget), reverse=True)
    title = f"What was tried: {len(best)} trials, {len(found.tried)} models between them and the "
    title += "base, on the search's examples"
    if most is not None and len(shown) > most:
        title += f" (the first {most})"
    cells = tuple(
        (*_named(t), _signed(t.learned.value), _signed(t.lost.value),
         "yes" if t.lost.value <= found.budget else "no")
        for t in shown[:most]
    )  # fmt: skip
    header = ("recipe", "rate", "steps", "kept of the change", "learned", "lost", "inside")
    return Grid(title, header, cells, (0, 6))


def sequence_table(found: Within) -> Grid:
    """The models that were asked the unseen examples, in the order fixed before."""
    cells = tuple(
        (*_named(c.tried), f"{c.learned:+.1f}", _signed(c.lost.value, 2), f"{c.lost.high:.2f}",
         _fate(found, c))
        for c in found.sequence
    )  # fmt: skip
    header = ("recipe", "rate", "steps", "kept of the change", "learned", "lost", "at most", "")
    title = f"On examples that the search did not see (budget {found.budget:g}, safest first)"
    return Grid(title, header, cells, (0, 7))


def tasks_table(found: Within, c: Confirmed) -> Grid:
    """Each kept task by itself, on the unseen examples."""
    cells = tuple(
        (t.task, f"{t.n:,}", f"{t.before:.1f}", f"{t.after:.1f}", _signed(t.loss.value, 2),
         f"{t.loss.high:.2f}")
        for t in c.tasks
    )  # fmt: skip
    mean = ("mean over tasks", f"{c.lost.n:,}", "", "", _signed(c.lost.value, 2),
            f"{c.lost.high:.2f}")  # fmt: skip
    title = f"What {'the chosen' if c.kept else 'the nearest'} model lost; the budget is about the "
    title += "mean, a task alone is known less well"
    header = ("kept task", "examples", "before", "after", "lost", "at most")
    return Grid(title, header, (*cells, mean))


def left_out_table(found: Within) -> Grid:
    """What was not tried or could not be finished, with the reason."""
    cells = tuple({**found.excluded, **found.failed}.items())
    return Grid("Not tried, or not finished", ("what", "why"), cells, (0, 1))


def write_budget_report(found: Within, folder: Path) -> Path:
    """Write ``report.html`` and ``report.md``; returns the former's path."""
    blocks = ["# Within a budget", paragraph(found.verdict)]
    for grid in budget_tables(found, None):
        blocks.append(f"## {markdown(grid.title)}\n\n{grid.markdown()}")
    write_text(folder / "report.md", "\n\n".join(blocks) + "\n")
    return write_html(folder / "report.html", budget_document(found))


def budget_document(found: Within) -> Document:
    """The same as one page."""
    figures = [Figure("budget", f"{found.budget:g}%", "of the kept tasks, on their mean")]
    if (c := found.chosen or found.nearest) is not None:
        figures += [
            Figure("learned", f"{c.learned.value:+.1f}", "points, unseen examples", "learned"),
            Figure("lost at most", f"{c.lost.high:.2f}", "points, with 95% confidence", "lost"),
        ]
    facts = (("model", found.model), ("result", found.result), ("kept", ", ".join(found.keep)))
    tables = budget_tables(found, None)
    sections = [Section(f"t{i}", t.title, [Table(t)]) for i, t in enumerate(tables)]
    return Document(
        title="Within a budget",
        about=f"Holdfast search. The most learning for at most {found.budget:g}% of forgetting.",
        verdict=found.verdict,
        figures=figures,
        sections=[*sections, Section("facts", "Where the numbers come from", [Facts(facts)])],
    )


def plan_lines(facts: Mapping[str, Any]) -> str:
    """A dry run of a search, for the terminal."""
    rungs = " then ".join(
        f"{n} of {steps} steps" for n, steps in zip(facts["trials"], facts["lengths"], strict=True)
    )
    kept = ", ".join(
        f"{task} ({n['select']}+{n['test']})" if n["test"] else task
        for task, n in facts["keep"].items()
    )
    lines = [
        f"model       {facts['model']}",
        f"learns      {', '.join(facts['skills'])}",
        f"keeps       {kept}; examples of the search + unseen ones",
        f"budget      {facts['budget']:g} points on their mean; a model that answers as the base "
        f"could be shown to have lost at most {facts['smallest_loss']:.2f}",
        *(f"recipe      {name} at {', '.join(f'{r:g}' for r in rates)}"
          for name, rates in facts["recipes"].items()),
        *(f"left out    {name}: {reason}" for name, reason in facts["excluded"].items()),
        f"trials      {rungs}; a few more at higher rates where the highest does no harm",
    ]  # fmt: skip
    if "seconds" in facts:
        lines.append(
            f"time        about {duration(facts['seconds'])} on this machine, of which "
            f"{duration(facts['seconds_asking'])} for asking"
        )
    return "\n".join(lines)


def _rank(t: Tried, budget: float) -> tuple[bool, float]:
    inside = t.lost.value <= budget
    return inside, t.learned.value if inside else -t.lost.value


def _named(t: Tried) -> tuple[str, ...]:
    return t.recipe, f"{t.learning_rate:g}", f"{t.steps:,}", f"{100 * t.share:g}%"


def _fate(found: Within, c: Confirmed) -> str:
    if found.chosen is not None and c.tried is found.chosen.tried:
        return "chosen"
    return "inside" if c.kept else "not shown"


def _signed(points: float, digits: int = 1) -> str:
    """With its sign, but none for zero."""
    text = f"{points:+.{digits}f}"
    return text[1:] if text.strip("+-0.") == "" else text
