"""What a run, an evaluation or a dry run shows at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.measures import summarise
from holdfast.measures.interval import Estimate, bootstrap_mean
from holdfast.measures.summary import Summary
from holdfast.report.html import write_html
from holdfast.report.page import write_run_report
from holdfast.report.rows import RecipeRow, row_of_run
from holdfast.report.run_page import run_document
from holdfast.report.tables import Grid, duration
from holdfast.runs import Run
from holdfast.runs.files import read_json
from holdfast.text import safe_text

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from holdfast.tasks import TaskResult


def summary_of(run: Run) -> Summary:
    """All measures of a run from its kept answers, each target learned in its own stage."""
    learned = {stage.label: k for k, stage in enumerate(run.config.data, 1)}
    return summarise(
        run.all_answers(), run.tasks("target"), run.tasks("held-out"), learned_at=learned
    )


def row_of(run: Run, summary: Summary) -> RecipeRow:
    """The run as one line of a comparison."""
    stages = [run.stage_done(s) or {} for s in range(1, len(run.config.data) + 1)]
    provenance = read_json(run.path / "provenance.json")
    trained, total = stages[0].get("trained_parameters"), provenance.get("parameters")
    return row_of_run(
        " | ".join(run.config.methods),
        summary,
        trained=trained,
        share=100.0 * trained / total if trained and total else float("nan"),
        seconds=sum(float(s.get("seconds", "nan")) for s in stages),
        lr=provenance.get("learning_rate") or float("nan"),
    )


def write_report(run: Run) -> tuple[Path, Summary, RecipeRow]:
    """Write a finished run's pages (HTML, Markdown, JSON); returns the first's path and what
    it is made of."""
    summary = summary_of(run)
    row = row_of(run, summary)
    provenance = read_json(run.path / "provenance.json")
    facts = {
        "model": run.config.model,
        "stages": ", ".join(s.label for s in run.config.data),
        "learning rate": provenance.get("learning_rate"),
        "seed": run.config.seed,
        "base": f"{provenance.get('base')} ({str(provenance.get('base_hash'))[:12]})",
        **_took(provenance.get("measured")),
        "repeat with": f"holdfast tune --config {run.path / 'run.yaml'}",
    }
    write_run_report(run.path, summary, recipe=row.recipe, facts=facts, row=row)
    page = write_html(run.path / "report.html", run_document(run, summary, row, facts))
    return page, summary, row


def _took(measured: Mapping[str, Any] | None) -> dict[str, str]:
    """Time and memory, in the terms of the dry run, so that the two can be compared."""
    if not measured:
        return {}
    asking = duration(measured["seconds_asking"])
    return {
        "time": f"{duration(measured['seconds'])}, of which {asking} for asking",
        "peak memory": f"{_bytes(measured['peak_memory_bytes'])} ({measured['peak_memory_of']})",
    }


def score_rows(results: Sequence[TaskResult]) -> list[dict[str, Any]]:
    """One row per task: score with its interval, unreadable replies, examples, seconds."""
    rows = []
    for r in results:
        clusters = [a.cluster for a in r.answers] if any(a.cluster for a in r.answers) else None
        e = bootstrap_mean([100 * a.score for a in r.answers], clusters=clusters)
        rows.append(
            {
                "task": r.task,
                "score": e.value,
                "low": e.low,
                "high": e.high,
                "unparsed": r.unparsed,
                "n": r.n,
                "seconds": round(r.seconds, 2),
                **({"details": r.meta} if r.meta else {}),
            }
        )
    return rows


def score_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows for the terminal, with the mean over tasks below."""
    cells = [
        (
            str(r["task"]),
            f"{Estimate(r['score'], r['low'], r['high'], n=r['n']):.1f}",
            f"{r['unparsed']:.1f}",
            str(r["n"]),
            duration(r["seconds"]),
        )
        for r in rows
    ]
    if len(rows) > 1:
        mean = sum(r["score"] for r in rows) / len(rows)
        cells.append(("mean", f"{mean:.1f}", "", str(sum(r["n"] for r in rows)), ""))
    header = ("task", "score, %", "unreadable, %", "examples", "time")
    return Grid("Scores with 95% intervals over examples", header, tuple(cells)).rich()


def dry_run(facts: Mapping[str, Any]) -> RenderableType:
    """What a run would do and cost, for the terminal."""
    from rich.console import Group
    from rich.text import Text

    stages = Grid(
        "Stages",
        (
            "skill",
            "format",
            "records",
            "supervised tokens",
            "images",
            "steps",
            "padding, %",
            "tested on",
        ),
        tuple(
            (
                s["name"],
                s["format"],
                f"{s['records']:,}",
                f"{s['supervised_tokens']:,}",
                f"{s['images']:,}",
                f"{s['steps']:,}",
                f"{100 * s['padding']:.1f}",
                f"{s['test_examples']:,} examples",
            )
            for s in facts["stages"]
        ),
        words=(0, 1),
    )
    selected, total = facts["trained_parameters"], facts["total_parameters"]
    lines = [
        f"model          {facts['model']}" + _based(facts),
        f"plan           {facts['plan']} at learning rate {facts['learning_rate']:g}",
        f"trains         {selected:,} of {total:,} weights ({100 * selected / total:.2f}%)",
        f"FLOPs          {100 * facts['flops_ratio']:.1f}% of full tuning's",
        f"peak memory    about {_bytes(facts['memory_bytes'])} ({facts['memory_of']})",
        f"time           about {duration(facts['seconds'])} on this machine, of which "
        f"{duration(facts['seconds_asking'])} for asking {facts['questions']:,} questions",
        "held out       " + (", ".join(facts["held_out"]) or "nothing: forgetting is not measured"),
    ]
    return Group(stages.rich(), Text(safe_text("\n".join(lines), lines=True)))


def _based(facts: Mapping[str, Any]) -> str:
    return "" if facts["base"] == facts["model"] else f" (base: {facts['base']})"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
