"""The model card of a tuned model, for a hub: what it learned and what it forgot."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from holdfast.measures.summary import Summary
from holdfast.report import tables
from holdfast.report.rows import RecipeRow
from holdfast.report.run import row_of, summary_of
from holdfast.report.tables import Grid
from holdfast.report.text import markdown, paragraph
from holdfast.runs import Run
from holdfast.runs.files import write_text

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def write_card(run: Run, folder: Path, *, library: str = "transformers") -> Path:
    """Write ``README.md`` into an exported model's folder; returns its path.

    Args:
        run: a finished run.
        library: what loads the folder, ``transformers`` or ``peft``.

    Raises:
        RunError: the run's files are damaged, or the folder cannot be written.
    """
    summary = summary_of(run)
    write_text(folder / "README.md", card(run, summary, row_of(run, summary), library))
    return folder / "README.md"


def card(run: Run, summary: Summary, row: RecipeRow, library: str) -> str:
    """The card's text: metadata as the hub reads it, then what a person needs to know."""
    told = yaml.safe_dump(_metadata(run, summary, library), sort_keys=False, allow_unicode=True)
    config = run.config
    facts = (
        ("base model", f"{config.model} ({str(run.facts().get('base_hash', ''))[:12]})"),
        ("taught", ", ".join(s.label for s in config.data)),
        ("method", row.recipe),
        ("learning rate", str(run.facts().get("learning_rate"))),
        ("seed", str(config.seed)),
        ("weights trained", "" if row.trained is None else f"{row.trained:,}"),
    )
    blocks = [
        f"---\n{told}---",
        f"# {markdown(config.model)}, taught {markdown(', '.join(s.label for s in config.data))}",
        f"**{markdown(tables.verdict(row))}**",
        "## What it learned and what it forgot",
        forgetting_table(summary).markdown().rstrip(),
        paragraph(
            "Scores in percent before and after, changes in percentage points with "
            f"{100 * summary.settings['level']:.0f}% intervals over "
            f"{summary.settings['resampled']}. Held-out tasks were never trained on."
        ),
        "## How it was made",
        Grid("", ("setting", "value"), facts, words=(0, 1)).markdown().rstrip(),
        "Made and measured with Holdfast. The configuration that repeats it:",
        _fenced(config.dump()),
    ]
    return "\n\n".join(blocks) + "\n"


def forgetting_table(summary: Summary) -> Grid:
    """Every task before and after, with what became of it."""
    kinds = {"target": "taught", "held-out": "held out"}
    rows = []
    for task in (*summary.targets, *summary.held_out):
        before, after = summary.cell(0, task), summary.cell(summary.stages, task)
        if before is None or after is None:
            continue
        rows.append(
            (
                task,
                kinds[after.kind],
                f"{before.score.value:.1f}",
                f"{after.score.value:.1f}",
                f"{after.change:+.1f}",
                f"{after.n}",
            )
        )
    mean = summary.measures["held_out_forgetting"]
    if len(summary.held_out) > 1 and not math.isnan(mean.value):
        rows.append(("mean of held-out tasks", "held out", "", "", f"{mean:+.1f}", ""))
    header = ("task", "role", "before", "after", "change", "examples")
    return Grid("", header, tuple(rows), words=(0, 1))


def _metadata(run: Run, summary: Summary, library: str) -> dict[str, Any]:
    told: dict[str, Any] = {"library_name": library, "tags": ["holdfast"]}
    if _HUB_ID.fullmatch(run.config.model) and not Path(run.config.model).exists():
        told["base_model"] = run.config.model
    results = [
        {
            "task": {"type": "text-generation"},
            "dataset": {"name": c.task, "type": c.task},
            "metrics": [{"type": "accuracy", "name": "score, %", "value": round(c.score.value, 2)}],
        }
        for task in (*summary.targets, *summary.held_out)
        if (c := summary.cell(summary.stages, task)) is not None
    ]
    told["model-index"] = [{"name": run.path.name or "model", "results": results}]
    return told


def _fenced(text: str) -> str:
    longest = max((len(m) for m in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}yaml\n{text.rstrip()}\n{fence}"
