"""The page of several runs, or of a sweep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from holdfast.measures import pareto
from holdfast.measures.pareto import Point, Setting
from holdfast.measures.summary import Summary
from holdfast.report import svg, tables
from holdfast.report.blocks import (
    Block,
    Chart,
    Command,
    Document,
    Facts,
    Heat,
    HeatCell,
    HeatGroup,
    IntervalRow,
    Intervals,
    Prose,
    Section,
    Table,
)
from holdfast.report.rows import RecipeRow, labels
from holdfast.report.svg import MARKERS, Line, number


def runs_document(
    rows: Sequence[RecipeRow],
    title: str,
    *,
    notes: Sequence[str] = (),
    points: Sequence[Point] = (),
    facts: Mapping[str, object] | None = None,
    units: str = "examples",
    sections: Mapping[str, Sequence[str | tables.Grid]] | None = None,
    summaries: Sequence[Summary] = (),
    commands: Sequence[tuple[str, str]] = (),
) -> Document:
    """Several recipes beside each other.

    Args:
        rows: one per recipe or run, in order.
        points: the runs of a sweep; without them the rows themselves are the plane's marks.
        summaries: of the rows, for what became of each task.
        commands: labels and command lines that repeat the runs.
        notes, facts, units, sections: as in :func:`holdfast.report.page.write_comparison`.
    """
    named = [replace(r, recipe=name) for r, name in zip(rows, labels(rows), strict=True)]
    parts = [
        _learned_and_lost(named, units),
        _plane(named, points),
        _tasks(named, summaries),
        _curves(named),
        _sweep(points),
        *_told(sections or {}),
        _provenance(facts or {}, commands),
    ]
    return Document(
        title=title,
        about=f"Holdfast comparison of {len(rows)} recipes: {title}",
        verdict=verdict(named),
        lead=" ".join(notes),
        sections=[s for s in parts if s.blocks],
    )


def verdict(rows: Sequence[RecipeRow]) -> str:
    """One sentence about several recipes: who learned most, who held on to most."""
    known = [r for r in rows if not math.isnan(r.learned.value + r.forgetting.value)]
    if not known:
        return f"{len(rows)} recipes; learning and forgetting were not both measured."
    most = max(known, key=lambda r: r.learned.value)
    if len(known) == 1:
        return tables.verdict(most, bounds=False)
    held = max(known, key=lambda r: r.forgetting.value)
    said = f"{most.recipe} learned most, {number(most.learned.value)} points"
    if held is most:
        return f"{said}, and lost least, {number(-most.forgetting.value)}."
    return (
        f"{said}, at {number(-most.forgetting.value)} lost; {held.recipe} lost least, "
        f"{number(-held.forgetting.value)}, at {number(held.learned.value)} learned."
    )


def _learned_and_lost(rows: Sequence[RecipeRow], units: str) -> Section:
    intervals = []
    for row in rows:
        intervals.append(IntervalRow(row.recipe, row.learned, "learned", "learned"))
        intervals.append(IntervalRow(row.recipe, row.forgetting, "lost", "held-out change"))
    lead = (
        "Learned: mean gain on the skills that were taught, each right after it was taught. "
        "Held-out change: mean over the held-out tasks at the end; negative is loss. In "
        f"percentage points, with {100 * rows[0].learned.level:.0f}% intervals over {units}."
    )
    blocks: list[Block] = [
        Intervals("What each recipe learned and lost", intervals, "recipe"),
        Table(tables.comparison(rows, "What it cost")),
    ]
    return Section("learned-and-lost", "Learned and lost", blocks, lead)


def _plane(rows: Sequence[RecipeRow], points: Sequence[Point]) -> Section:
    settings = pareto.over_seeds(points) if points else [_setting(r) for r in rows]
    known = [s for s in settings if not math.isnan(s.learning.value + s.forgetting.value)]
    title = "Learning against forgetting"
    if not known:
        return Section("plane", title, [])
    lines, legend = [], []
    for k, recipe in enumerate(dict.fromkeys(s.recipe for s in known)):
        mine = [s for s in known if s.recipe == recipe]
        lines.append(
            Line(
                [s.learning.value for s in mine],
                [s.forgetting.value for s in mine],
                recipe,
                k,
                x_bounds=[(s.learning.low, s.learning.high) for s in mine],
                y_bounds=[(s.forgetting.low, s.forgetting.high) for s in mine],
            )
        )
        legend.append((k, recipe))
    ends = [v for s in known for v in (s.learning.value, s.learning.low, s.learning.high)]
    falls = [v for s in known for v in (s.forgetting.value, s.forgetting.low, s.forgetting.high)]
    drawn = svg.plot(
        lines,
        title=title,
        description="; ".join(
            f"{s.name}: learned {number(s.learning.value)}, held-out change "
            f"{number(s.forgetting.value)}"
            for s in known
        ),
        x=svg.axis(ends, zero=True),
        y=svg.axis(falls, zero=True),
        zero=True,
        height=340,
    )
    note = "Up and right is better. Bars are intervals"
    note += "; a line follows a recipe's learning rates." if points else "."
    if len(legend) > MARKERS:
        note += f" Marks repeat after {MARKERS} recipes; the table has every number."
    chart = Chart(
        title,
        drawn,
        "learned, points (right is better)",
        "held-out change, points (up is better)",
        legend,
        note,
    )
    return Section("plane", title, [chart])


def _setting(row: RecipeRow) -> Setting:
    seconds = replace(row.learned, value=row.seconds, low=math.nan, high=math.nan)
    return Setting(row.recipe, math.nan, row.learned, row.forgetting, seconds)


def _tasks(rows: Sequence[RecipeRow], summaries: Sequence[Summary]) -> Section:
    """What became of each task, one column for each run."""
    title = "Every task in every run"
    if len(summaries) != len(rows):
        return Section("tasks", title, [])
    held = list(dict.fromkeys(t for s in summaries for t in s.held_out))
    taught = list(dict.fromkeys(t for s in summaries for t in s.targets))

    def change(summary: Summary, task: str) -> HeatCell:
        cell = summary.cell(summary.stages, task)
        value = math.nan if cell is None else cell.change.value
        sign = "+" if value > 0 and number(value) != "0.0" else ""
        return HeatCell(value, sign + number(value))

    groups = [
        HeatGroup(name, [(t, [change(s, t) for s in summaries]) for t in tasks])
        for name, tasks in (("Taught", taught), ("Held out", held))
        if tasks
    ]
    values = [abs(c.value) for g in groups for _, cells in g.rows for c in cells]
    reach = max((v for v in values if v == v), default=1.0)
    heat = Heat(
        "Change from the base model to the end, in points",
        "task",
        [r.recipe for r in rows],
        groups,
        -reach,
        reach,
        diverging=True,
        note="Blue: gained. Orange: lost. The sign says it too.",
    )
    return Section("tasks", title, [heat])


def _curves(rows: Sequence[RecipeRow]) -> Section:
    title = "Held-out tasks after each stage"
    shown = [(k, r) for k, r in enumerate(rows) if len(r.curve) > 2]
    if not shown:
        return Section("stages", title, [])
    last = max(len(r.curve) for _, r in shown) - 1
    drawn = svg.plot(
        [Line(list(range(len(r.curve))), r.curve, r.recipe, k) for k, r in shown],
        title=title,
        description="; ".join(f"{r.recipe}: {', '.join(map(number, r.curve))}" for _, r in shown),
        x=svg.Axis(0, last),
        y=svg.axis([v for _, r in shown for v in r.curve]),
        x_names=[(k, "base" if k == 0 else str(k)) for k in range(last + 1)],
    )
    legend = [(k, r.recipe) for k, r in shown]
    return Section("stages", title, [Chart(title, drawn, "stage", "mean, percent", legend)])


def _sweep(points: Sequence[Point]) -> Section:
    title = "At equal learning"
    if not points:
        return Section("sweep", title, [])
    levels = pareto.learning_levels(points)
    front = pareto.pareto_front(pareto.over_seeds(points))
    blocks: list[Block] = []
    if levels:
        blocks.append(Table(tables.matched(pareto.matched_learning(points, levels))))
    else:
        blocks.append(Prose("No two recipes reach the same learning, so none is compared at it."))
    if front:
        blocks.append(Table(tables.front(front)))
    lead = "A recipe that forgets less may only have learned less: each is read off its own sweep."
    return Section("sweep", title, blocks, lead)


def _told(sections: Mapping[str, Sequence[str | tables.Grid]]) -> list[Section]:
    return [
        Section(
            f"told-{k}", heading, [Prose(b) if isinstance(b, str) else Table(b) for b in blocks]
        )
        for k, (heading, blocks) in enumerate(sections.items())
    ]


def _provenance(facts: Mapping[str, object], commands: Sequence[tuple[str, str]]) -> Section:
    rows = [(k, str(v)) for k, v in facts.items()]
    blocks: list[Any] = [Facts(rows)] if rows else []
    blocks += [Command(label, line) for label, line in commands]
    return Section("provenance", "Where the numbers come from", blocks)
