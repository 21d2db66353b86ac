"""The page of a comparison of two models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.report import plots
from holdfast.report.blocks import (
    Block,
    Command,
    Document,
    Facts,
    Figure,
    Heat,
    HeatCell,
    HeatGroup,
    IntervalRow,
    Intervals,
    Prose,
    Section,
    Table,
)
from holdfast.report.causes import Split, shares_block
from holdfast.report.compare import causes_table, changes_table
from holdfast.report.examples import Asked, gallery
from holdfast.report.html import write_html
from holdfast.report.svg import number
from holdfast.report.tables import Grid
from holdfast.report.text import markdown, paragraph
from holdfast.runs.files import write_text

if TYPE_CHECKING:
    from holdfast.changes.compare import Comparison
    from holdfast.tasks.base import Task


def write_compare_report(folder: Path, found: Comparison, tasks: Iterable[Task] = ()) -> Path:
    """Write ``report.html`` and ``report.md`` beside ``compare.json``, and, where matplotlib is
    installed, the changes as ``changes.png`` and ``.svg``; returns the first's path.

    Args:
        tasks: what was asked, so that lost and gained examples show their questions and images.

    Raises:
        RunError: the folder cannot be written.
    """
    asked = {t.name: {e.id: e for e in t.examples} for t in tasks}
    text = compare_markdown(found)
    known = [j for j in found.tasks if not math.isnan(j.change.value)]
    if known and plots.available():
        figure = plots.changes([(j.task, j.change) for j in known], _title(found))
        plots.save(figure, folder, "changes")
        text += "\n\n![The change of each task](changes.png)\n"
    write_text(folder / "report.md", text)
    return write_html(folder / "report.html", compare_document(found, asked))


def compare_markdown(found: Comparison) -> str:
    """The same numbers as Markdown."""
    tables = [changes_table(found)] + ([causes_table(found.diagnoses)] if found.diagnoses else [])
    facts = Grid("", ("fact", "value"), tuple(_facts(found)), words=(0, 1))
    blocks = [f"# {markdown(_title(found))}", f"**{markdown(found.verdict)}**"]
    if found.gated is not None:
        blocks.append(paragraph(f"Gate: {found.gated.gate} ({found.gated.why})."))
    for table in tables:
        blocks += [f"## {markdown(table.title)}", table.markdown()]
    return "\n\n".join([*blocks, "## Where the numbers come from", facts.markdown()])


def compare_document(found: Comparison, asked: Asked | None = None) -> Document:
    """Everything that a comparison has to show."""
    sections = [
        _changes(found),
        _split(found),
        _examples(found, asked),
        _provenance(found),
    ]
    return Document(
        title=_title(found),
        about=f"Holdfast comparison. {found.base} before, {found.tuned} after.",
        verdict=_verdict(found),
        lead=_gate(found),
        figures=_figures(found),
        sections=[s for s in sections if s.blocks],
    )


def _title(found: Comparison) -> str:
    return f"{found.base} and {found.tuned}"


def _verdict(found: Comparison) -> str:
    """The sentence without its interval, which stands beneath it."""
    whole = format(found.mean, "+.1f")
    return found.verdict.replace(whole, whole.partition(" [")[0])


def _gate(found: Comparison) -> str:
    if found.gated is None:
        return ""
    words = {"pass": "The gate holds", "fail": "The gate does not hold"}
    said = words.get(found.gated.gate, "The gate cannot be decided")
    return f"{said}: {found.gated.why}."


def _figures(found: Comparison) -> list[Figure]:
    figures = []
    mean = found.mean
    if not math.isnan(mean.value):
        bounds = "" if math.isnan(mean.low) else f" [{number(mean.low)}, {number(mean.high)}]"
        sign = "+" if mean.value > 0 else ""
        series: Any = "lost" if mean.value < 0 else "learned"
        tasks = f"{len(found.tasks)} task{'' if len(found.tasks) == 1 else 's'}"
        figures.append(
            Figure("Mean change", sign + number(mean.value), f"points{bounds} over {tasks}", series)
        )
    asked = sum(j.n for j in found.tasks)
    figures.append(Figure("Lost", f"{sum(j.lost for j in found.tasks):,}", f"of {asked:,} answers"))
    figures.append(Figure("Gained", f"{sum(j.gained for j in found.tasks):,}", f"of {asked:,}"))
    noise = [j.noise for j in found.tasks if j.noise is not None]
    if noise:
        figures.append(
            Figure("Noise", f"{sum(noise):,}", "answers flip when the base is asked twice")
        )
    return figures


def _changes(found: Comparison) -> Section:
    rows = [
        IntervalRow(j.task, j.change, "lost" if j.change.value < 0 else "learned", j.verdict)
        for j in sorted(found.tasks, key=lambda j: j.change.value)
    ]
    heat = Heat(
        "Score in percent",
        "task",
        ("before", "after"),
        [HeatGroup("", [(j.task, [_cell(j.before), _cell(j.after)]) for j in found.tasks])],
    )
    why = Grid(
        "Why each verdict",
        ("task", "verdict", "why", "lost", "gained", "n", "p", "p, corrected"),
        tuple(
            (j.task, j.verdict, j.why, f"{j.lost}", f"{j.gained}", f"{j.n}", f"{j.p:.2g}",
             f"{j.p_adjusted:.2g}")
            for j in found.tasks
        ),
        words=(0, 1, 2),
    )  # fmt: skip
    lead = (
        "The same questions in the same conditions, compared example by example. Intervals are "
        "for each task alone; verdicts are corrected for the number of tasks (Holm)."
    )
    blocks: list[Block] = [Intervals("Change of each task", rows), Table(why), heat]
    return Section("changes", "What changed", blocks if rows else [], lead)


def _cell(value: float) -> HeatCell:
    return HeatCell(value, number(value))


def _split(found: Comparison) -> Section:
    blocks: list[Block] = []
    if found.diagnoses:
        splits = [Split.from_json(d.to_json()) for d in found.diagnoses]
        blocks = [shares_block(splits), Table(causes_table(found.diagnoses), folded=True)]
        blocks += [Prose(f"{d.task}: {note}") for d in found.diagnoses for note in d.notes]
    elif any(j.lost for j in found.tasks) and found.facts.get("repeat with"):
        line = f"{found.facts['repeat with']} --diagnose"
        blocks = [Command("To try every lost example again, and split the loss", line)]
    title = "Format, drift or knowledge?"
    return Section("split", title, blocks, "Is what was lost gone, or only hidden?")


def _examples(found: Comparison, asked: Asked | None) -> Section:
    causes: Mapping[str, Mapping[str, str]] = {d.task: d.causes for d in found.diagnoses}
    blocks: Sequence[Block] = [gallery(found.answers, asked, causes=causes)]
    lead = "The same questions to both models, with both answers."
    return Section("examples", "Lost and gained, side by side", blocks, lead)


def _facts(found: Comparison) -> list[tuple[str, str]]:
    facts = {"before": found.base, "after": found.tuned, **found.facts}
    return [(k.replace("_", " "), _plain(v)) for k, v in facts.items() if v is not None]


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _provenance(found: Comparison) -> Section:
    rows = [(k, v) for k, v in _facts(found) if k != "repeat with"]
    blocks: list[Block] = [Facts(rows)]
    if found.facts.get("repeat with"):
        line = str(found.facts["repeat with"])
        blocks.append(Command("The command that repeats the comparison", line))
    return Section("provenance", "Where the numbers come from", blocks)
