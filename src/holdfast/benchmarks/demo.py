"""The demonstration: one skill, several recipes, what each learned and what each lost."""

from __future__ import annotations

from pathlib import Path

from holdfast.benchmarks.collect import collect, rows
from holdfast.benchmarks.grid import Member, run_grid
from holdfast.config import resolve
from holdfast.engine.tune import measure_base
from holdfast.errors import RunError
from holdfast.progress import Progress
from holdfast.report.page import write_comparison
from holdfast.report.rows import RecipeRow

SKILL, STEPS, BATCH, QUESTIONS, RATE = "lab:count", 150, 32, 120, 1e-3
RECIPES = (("full", RATE), ("full", 3e-4), ("mlp", RATE), ("sa-proj", RATE), ("gate-up", RATE))
METHODS = {"full": "full:vision_lr_scale=1"}
"""One learning rate for all parts of the model, so that recipes differ in their weights alone."""


def members(out: Path) -> list[Member]:
    """The demo's runs: the same model, data, steps and rate; full tuning at a lower rate too."""
    found = []
    for recipe, rate in RECIPES:
        name = f"{recipe}.{rate:.0e}"
        config = resolve(
            {
                "model": "lab:vlm",
                "data": [SKILL],
                "methods": [METHODS.get(recipe, recipe)],
                "tasks": ["lab:held-out"],
                "out": str(out / name),
                "train": {"learning_rate": rate, "steps": STEPS, "batch_size": BATCH},
                "evaluate": {"limit": QUESTIONS},
            }
        )
        found.append(Member(name, config, recipe, rate, 0))
    return found


def demo(
    out: Path, *, workers: int | None = None, progress: Progress | None = None
) -> tuple[Path, list[RecipeRow]]:
    """Run the demo in ``out`` and write its page; returns the page's path and its rows.

    Raises :class:`RunError` if a run failed.
    """
    progress = progress or Progress()
    grid = members(out)
    progress.say(
        f"A small multimodal model (lab:vlm) learns to count, {len(grid)} times from the same "
        "start. Before and after, ten abilities that it has are asked."
    )
    base = measure_base(grid[0].config, out / "base", progress=progress)
    failures = run_grid(grid, known=base.path, workers=workers, progress=progress)
    if failures:
        reasons = "; ".join(f"{f.member.name}: {f.reason}" for f in failures)
        raise RunError(f"the demo is not whole ({reasons}). Run it again to go on.")
    found = rows(collect(grid))
    page = write_comparison(
        out,
        found,
        "Teaching a small model to count",
        [
            f"Every recipe trains for {STEPS} steps of {BATCH} pictures, with one seed. Full "
            "tuning is shown at a lower learning rate too, because that alone prevents much "
            "forgetting: 'holdfast bench narrow' compares recipes at equal learning, over rates "
            "and seeds."
        ],
    )
    return page, found
