"""The page of one run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from holdfast.measures import formulas
from holdfast.measures.summary import Summary
from holdfast.report import svg, tables
from holdfast.report.blocks import (
    Block,
    Chart,
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
    Source,
    Table,
)
from holdfast.report.causes import Split, drift_tables, shares_block, splits_of
from holdfast.report.curves import curve_blocks, curves_of
from holdfast.report.examples import Pairs, gallery, questions_of
from holdfast.report.rows import RecipeRow, stage_names
from holdfast.report.svg import Line, number
from holdfast.report.tables import duration
from holdfast.report.trained import trained_table
from holdfast.runs import Run
from holdfast.runs.sameness import command
from holdfast.tasks.base import Answer

MOST_LINES = 6
"""Tasks that get a line of their own in the chart of stages."""


def run_document(
    run: Run, summary: Summary, row: RecipeRow, facts: Mapping[str, object]
) -> Document:
    """Everything that a finished run has to show.

    Args:
        facts: what a reader must know about the run, in order.
    """
    splits = splits_of(run.path)
    sections = [
        _learned_and_lost(summary),
        _stages(summary),
        _plane(summary),
        Section("curves", "While it trained", curve_blocks(curves_of(run), _learned_at(summary))),
        _drift(run, summary),
        _split(run, summary, splits),
        _examples(run, summary, splits),
        _trained(run),
        _provenance(run, summary, facts),
    ]
    config = run.config
    skills = ", ".join(stage.label for stage in config.data)
    return Document(
        title=f"{row.recipe} on {config.model}: {skills}",
        about=f"Holdfast report. {config.model} was taught {skills} with {row.recipe}.",
        verdict=tables.verdict(row, bounds=False),
        figures=_figures(summary, row),
        sections=[s for s in sections if s.blocks],
    )


def _learned_at(summary: Summary) -> dict[str, int]:
    return dict(zip(summary.targets, summary.settings["learned"], strict=True))


def _figures(summary: Summary, row: RecipeRow) -> list[Figure]:
    figures = []
    if not math.isnan(row.learned.value):
        what = f"on {_count(len(summary.targets), 'taught skill')}"
        figures.append(_figure("Learned", row.learned.value, row.learned, what, "learned", "+"))
    if not math.isnan(row.forgetting.value):
        lost = -row.forgetting
        what = f"on {_count(len(summary.held_out), 'held-out task')}"
        name = "Lost" if lost.value >= 0 else "Gained elsewhere"
        shown = lost if lost.value >= 0 else row.forgetting
        figures.append(_figure(name, shown.value, shown, what, "lost", ""))
    worst = summary.worst_held_out
    cell = summary.cell(summary.stages, worst) if worst is not None else None
    if cell is not None and cell.change.value < 0:
        figures.append(Figure("Hit hardest", number(cell.change.value), f"{cell.task}, points"))
    if row.trained:
        share = "" if math.isnan(row.share) else f"{row.share:.1f}% of the model"
        figures.append(Figure("Weights trained", f"{row.trained:,}", share))
    if not math.isnan(row.seconds):
        figures.append(Figure("Training time", duration(row.seconds)))
    return figures


def _figure(label: str, value: float, e: Any, what: str, series: Any, sign: str) -> Figure:
    shown = f"{sign if value > 0 else ''}{number(value)}"
    bounds = "" if math.isnan(e.low) else f" [{number(e.low)}, {number(e.high)}]"
    return Figure(label, shown, f"points{bounds} {what}", series)


def _learned_and_lost(summary: Summary) -> Section:
    rows = [
        IntervalRow(task, e, "learned", "taught")
        for task, e in summary.learning.items()
        if not math.isnan(e.value)
    ]
    rows += [
        IntervalRow(task, e, "lost", "taught, since then")
        for task, e in summary.forgetting.items()
        if not math.isnan(e.value) and _learned_at(summary)[task] < summary.stages
    ]
    cells = [summary.cell(summary.stages, task) for task in summary.held_out]
    known = [c for c in cells if c is not None and not math.isnan(c.change.value)]
    known.sort(key=lambda c: c.change.value)
    mean = summary.measures["held_out_forgetting"]
    if len(known) > 1:
        rows.append(IntervalRow("mean of held-out tasks", mean, "lost"))
    rows += [IntervalRow(c.task, c.change, "lost") for c in known]
    level = f"{100 * summary.settings['level']:.0f}%"
    lead = (
        f"Change since the base model in percentage points, with {level} intervals over "
        f"{summary.settings['resampled']}. What was taught is measured right after it was "
        "taught, the rest at the end."
    )
    if not summary.held_out:
        lead += " No task was held out, so nothing is known about forgetting."
    fell = sum(c.change.high < 0 for c in known)
    if known:
        lead += (
            f" {fell} of {_count(len(known), 'held-out task')} fell by more than chance explains"
            " (each interval for itself)."
        )
    blocks: list[Block] = []
    if rows:
        blocks.append(Intervals("What was learned, and what became of the rest", rows))
    blocks.append(Table(tables.measures(summary, "All measures, with their conventions"), True))
    return Section("learned-and-lost", "Learned and lost", blocks, lead)


def _stages(summary: Summary) -> Section:
    matrix = summary.matrix()
    own = _learned_at(summary)

    def cells(task: str) -> list[HeatCell]:
        values = [matrix.score(k, task) for k in range(matrix.stages + 1)]
        return [HeatCell(v, number(v), own.get(task) == k) for k, v in enumerate(values)]

    groups = []
    if matrix.targets:
        groups.append(HeatGroup("Taught", [(t, cells(t)) for t in matrix.targets]))
    if matrix.held_out:
        held = [(t, cells(t)) for t in matrix.held_out]
        means = [HeatCell(v, number(v)) for v in matrix.held_out_means()]
        groups.append(HeatGroup("Held out", [*held, ("mean", means)] if len(held) > 1 else held))
    heat = Heat(
        "Score in percent after each stage",
        "task",
        ["base", *(f"after {name}" for name in stage_names(matrix))],
        groups,
        note="Outlined: right after the task itself was taught." if matrix.targets else "",
    )
    blocks: list[Block] = [heat]
    if matrix.stages > 1:
        blocks.append(_stage_chart(summary))
    return Section("stages", "Every task after every stage", blocks)


def _stage_chart(summary: Summary) -> Chart:
    matrix = summary.matrix()
    places = list(range(matrix.stages + 1))
    lines, legend = [], []
    if matrix.held_out:
        lines.append(Line(places, matrix.held_out_means(), number=0))
        legend.append((0, "mean of held-out tasks"))
    for k, task in enumerate(matrix.targets[:MOST_LINES], 1):
        lines.append(Line(places, [matrix.score(p, task) for p in places], number=k))
        legend.append((k, task))
    names = ["base", *(f"{k}" for k in places[1:])]
    drawn = svg.plot(
        lines,
        title="Scores after each stage",
        description="; ".join(
            f"{name}: " + ", ".join(number(v) for v in line.y)
            for line, (_, name) in zip(lines, legend, strict=True)
        ),
        x=svg.Axis(0, matrix.stages),
        y=svg.axis([0, 100]),
        x_names=list(zip(places, names, strict=True)),
    )
    more = len(matrix.targets) - MOST_LINES
    note = f"{more} more taught skills are in the table only." if more > 0 else ""
    return Chart("Scores after each stage", drawn, "stage", "percent", legend, note)


def _plane(summary: Summary) -> Section:
    matrix = summary.matrix()
    gains = [float(v) for v in formulas.mean(matrix.scores.targets - matrix.scores.targets[0])]
    losses = [e.value for e in summary.curve]
    if math.isnan(gains[-1] + losses[-1]):
        return Section("plane", "Learning against forgetting", [])
    overall, held = summary.measures["target_overall"], summary.curve[-1]
    path = Line(gains, losses, number=0)
    end = Line(
        [overall.value],
        [held.value],
        number=0,
        x_bounds=[(overall.low, overall.high)],
        y_bounds=[(held.low, held.high)],
        marked=False,
    )
    steps = [f"after stage {k}: {number(g)} and {number(f)}"
             for k, (g, f) in enumerate(zip(gains, losses, strict=True)) if k]  # fmt: skip
    drawn = svg.plot(
        [path, end],
        title="Learning against forgetting",
        description="Gain on what is taught and change on held-out tasks, in points; "
        + "; ".join(steps),
        x=svg.axis([*gains, overall.low, overall.high], zero=True),
        y=svg.axis([*losses, held.low, held.high], zero=True),
        zero=True,
    )
    note = "From the base at 0, 0, one mark after each stage; bars: the interval at the end. "
    chart = Chart(
        "From the base model to the end",
        drawn,
        "mean gain on all taught skills, points (right is better)",
        "mean change on held-out tasks, points (up is better)",
        note=note + "Up and right is better.",
    )
    return Section("plane", "Learning against forgetting", [chart])


def _drift(run: Run, summary: Summary) -> Section:
    blocks: list[Block] = [Table(grid) for grid in drift_tables(run.path)]
    if not blocks and run.finished:
        line = f"holdfast probe {run.config.model} {run.path} --data PROMPTS --out {run.path}"
        blocks = [
            Prose("Not measured for this run. Probes compare how the two models answer."),
            Command("To measure it, and write this page again afterwards", line),
        ]
    del summary
    lead = "How the model's outputs moved, whatever its scores say."
    return Section("drift", "Drift", blocks, lead)


def _split(run: Run, summary: Summary, splits: list[Split]) -> Section:
    title = "Format, drift or knowledge?"
    churn = tables.churn(summary)
    blocks: list[Block] = []
    if splits:
        blocks.append(shares_block(splits))
    elif any(t.right_to_wrong for t in summary.transitions if t.stage == summary.stages):
        tasks = " ".join(f"--tasks {name}" for name in run.config.tasks)
        line = (
            f"holdfast compare {run.config.model} {run.path} {tasks} --diagnose "
            f"--out {run.path}/compare"
        )
        blocks.append(Command("To try every lost example again, and split the loss", line))
    if churn.rows:
        blocks.append(Table(churn))
    unread = tables.unparsed(summary)
    if unread.rows:
        blocks.append(Table(unread, folded=True))
    return Section("split", title, blocks, "Is what was lost gone, or only hidden?")


def _examples(run: Run, summary: Summary, splits: list[Split]) -> Section:
    pairs = pairs_of(run, summary)
    asked, missing = questions_of(run.config, pairs)
    causes = {s.task: s.causes for s in splits}
    found = gallery(pairs, asked, causes=causes, notes=[missing] if missing else [])
    lead = "The same questions before the first stage and after the last, with both answers."
    return Section("examples", "Lost and gained, side by side", [found], lead)


def pairs_of(run: Run, summary: Summary) -> Pairs:
    """For each task the answers before the first stage and after the last, by example."""
    pairs: dict[str, list[tuple[Answer, Answer]]] = {}
    known = {(r["stage"], r["task"]) for r in run.scores()}
    for task in (*summary.held_out, *summary.targets):
        if {(0, task), (summary.stages, task)} <= known:
            before = {a.id: a for a in run.answers(0, task)}
            after = run.answers(summary.stages, task)
            pairs[task] = [(before[a.id], a) for a in after if a.id in before]
    return pairs


def _trained(run: Run) -> Section:
    facts = run.facts()
    rows = [("plan", str(facts.get("plan", "")))]
    if facts.get("parameters"):
        rows.append(("weights of the model", f"{facts['parameters']:,}"))
    for k, stage in enumerate(run.config.data, 1):
        done = run.stage_done(k) or {}
        trained, steps = done.get("trained_parameters"), done.get("steps")
        if trained is not None:
            rows.append((f"trained for {stage.label}", f"{trained:,} in {steps:,} steps"))
    grid = trained_table(run.model)
    blocks: list[Block] = [Facts(rows)]
    if grid is not None and grid.rows:
        blocks.append(Table(grid))
    return Section("trained", "What exactly was trained", blocks)


def _provenance(run: Run, summary: Summary, facts: Mapping[str, object]) -> Section:
    noted = run.facts()
    versions = noted.get("versions") or {}
    rows = [(k, str(v)) for k, v in facts.items() if k != "repeat with" and v is not None]
    rows += [
        ("held out", ", ".join(summary.held_out) or "nothing"),
        ("device", str(noted.get("device", "unknown"))),
        ("versions", ", ".join(f"{k} {v}" for k, v in versions.items() if v)),
    ]
    return Section(
        "provenance",
        "Where the numbers come from",
        [
            Facts(rows),
            Command("The command that repeats the run", command(run.path)),
            Source("run.yaml: everything that the run was told", run.config.dump()),
        ],
    )


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"
