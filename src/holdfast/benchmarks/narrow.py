"""Narrow tuning on ``lab:vlm``, after Zhu et al. 2025 (arXiv 2510.08564).

Two parts. ``plane``: one skill, recipes x learning rates x seeds, so that recipes can be
compared where they have learned the same. ``sequence``: five skills one after another, scored
after every stage, for the paper's figure 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from holdfast.benchmarks.collect import Finished, collect, points, rows
from holdfast.benchmarks.executors import Executor
from holdfast.benchmarks.findings import of_plane, of_sequence
from holdfast.benchmarks.grid import Failure, Member, run_grid
from holdfast.config import resolve
from holdfast.engine.tune import measure_base
from holdfast.errors import RunError, UnknownName
from holdfast.progress import Progress
from holdfast.report.page import write_comparison

MODEL, HELD_OUT = "lab:vlm", "lab:held-out"
ORDERS = {
    "default": ("lab:species", "lab:count", "lab:medical", "lab:read", "lab:clock"),
    "alternative": ("lab:medical", "lab:species", "lab:read", "lab:clock", "lab:count"),
    "reverse": ("lab:clock", "lab:read", "lab:medical", "lab:count", "lab:species"),
}
"""The paper's orders of its five skills, with the lab's skills of the same answer shapes."""

RECIPES = {
    "full": ["full:vision_lr_scale=1"],
    "full-llm": ["full-llm"],
    "mlp": ["mlp"],
    "gate-up": ["gate-up"],
    "sa-proj": ["sa-proj"],
    "projector": ["projector"],
    "vision": ["vision"],
    "lora": ["lora:rank=16"],
    "lora on mlp": ["lora:rank=16,scope=language.mlp"],
    "lora on q, v": ["lora:rank=16,scope=language.attn.q+v"],
    "mlp + lwf": ["mlp", "lwf"],
    "mlp + wise-ft": ["mlp", "wise-ft:alpha=0.5"],
}
"""One learning rate for all parts of a model, so that recipes differ in their weights alone."""

SKILL = "lab:count"
PLANE = {
    "full": (3e-5, 1e-4, 3e-4, 1e-3),
    "mlp": (1e-4, 3e-4, 1e-3, 3e-3),
    "gate-up": (1e-4, 3e-4, 1e-3, 3e-3),
    "sa-proj": (1e-4, 3e-4, 1e-3, 3e-3),
}
"""Each recipe's sweep of learning rates, chosen so that all reach the same range of learning:
full tuning learns as much at a third of the rate."""
SEQUENCE = ("full", "mlp", "gate-up", "sa-proj")
PLANE_RATES = (1e-4, 3e-4, 1e-3, 3e-3)
"""For a recipe that has no sweep of its own in ``PLANE``."""
SEQUENCE_RATES = (2e-4, 5e-4)
SEEDS = {"plane": 3, "sequence": 1}
STEPS = {"plane": 150, "sequence": 150}
BATCH, QUESTIONS = 32, 100
PARTS = ("plane", "sequence")


def plane_members(
    out: Path, recipes: Sequence[str], rates: Sequence[float] | None, seeds: int
) -> list[Member]:
    """One skill: every recipe at each of its rates with every seed, one seed after another."""
    return [
        _member(out, "plane", recipe, rate, seed, (SKILL,), "")
        for seed in range(seeds)
        for recipe in recipes
        for rate in rates or PLANE.get(recipe, PLANE_RATES)
    ]


def sequence_members(
    out: Path, recipes: Sequence[str], rates: Sequence[float], seeds: int, orders: Sequence[str]
) -> list[Member]:
    """Five skills: every recipe, rate, seed and order."""
    return [
        _member(out, "sequence", recipe, rate, seed, ORDERS[order], order)
        for seed in range(seeds)
        for order in orders
        for rate in rates
        for recipe in recipes
    ]


def _member(
    out: Path, part: str, recipe: str, rate: float, seed: int, skills: Sequence[str], order: str
) -> Member:
    if recipe not in RECIPES:
        raise UnknownName("recipe of this comparison", recipe, RECIPES)
    name = f"{recipe.replace(' + ', '+')}.{rate:g}.seed{seed}" + (f".{order}" if order else "")
    config = resolve(
        {
            "model": MODEL,
            "data": list(skills),
            "methods": RECIPES[recipe],
            "tasks": [HELD_OUT],
            "out": str(out / part / name),
            "seed": seed,
            "train": {"learning_rate": rate, "steps": STEPS[part], "batch_size": BATCH},
            "evaluate": {"limit": QUESTIONS},
        }
    )
    return Member(name, config, recipe, rate, seed, order or "one skill")


def bench_narrow(
    out: Path,
    *,
    docs: Path | None = None,
    recipes: Sequence[str] | None = None,
    rates: Sequence[float] | None = None,
    seeds: int | None = None,
    orders: Sequence[str] | None = None,
    part: str = "all",
    workers: int | None = None,
    on: Executor = "local",
    progress: Progress | None = None,
) -> list[Path]:
    """Run the comparison in ``out``, or what is left of it, and write its pages.

    Args:
        docs: write the pages here too.
        recipes, rates, seeds, orders: other than the defaults of each part.
        part: ``plane``, ``sequence`` or ``all``.
        workers, on: how many runs at a time, and where (:func:`holdfast.benchmarks.grid.run_grid`).

    Returns:
        The pages' paths.

    Raises:
        UnknownName: a recipe, an order or a part that does not exist.
        MissingExtra: ``on="ray"`` and Ray is not installed.
        RunError: runs failed. The message has each with its reason; the pages of what could be
            finished are written before.
    """
    progress = progress or Progress()
    if part not in (*PARTS, "all"):
        raise UnknownName("part", part, (*PARTS, "all"))
    for order in orders or ():
        if order not in ORDERS:
            raise UnknownName("order", order, ORDERS)
    grids = {
        "plane": plane_members(out, recipes or tuple(PLANE), rates, seeds or SEEDS["plane"]),
        "sequence": sequence_members(
            out,
            recipes or SEQUENCE,
            rates or SEQUENCE_RATES,
            seeds or SEEDS["sequence"],
            orders or ("default",),
        ),
    }
    chosen = PARTS if part == "all" else (part,)
    everything = _member(
        out, "sequence", "full", SEQUENCE_RATES[0], 0, ORDERS["default"], "default"
    )
    progress.say("asking the base model")
    base = measure_base(everything.config, out / "base", progress=progress)
    pages: list[Path] = []
    failed: list[Failure] = []
    for name in chosen:
        progress.say(f"{name}: {len(grids[name])} runs")
        failures = run_grid(grids[name], known=base.path, workers=workers, on=on, progress=progress)
        failed += failures
        finished = collect(grids[name])
        if not finished:
            raise RunError(f"not one run of '{name}' could be finished: {failures[0].reason}")
        for place in [out, *([docs] if docs is not None else [])]:
            pages.append(_write(place / name, name, finished, failures))
    if failed:
        reasons = "".join(f"\n  {f.member.name}: {f.reason}" for f in failed)
        count = sum(len(grids[name]) for name in chosen)
        raise RunError(
            f"{len(failed)} of {count} runs failed; the pages are about the others. Run the same "
            f"command to try these again:{reasons}"
        )
    return pages


def _gains(finished: Sequence[Finished], rate: float) -> dict[str, list[float]]:
    """What each skill gained in its own stage, in every run at ``rate``."""
    found: dict[str, list[float]] = {}
    for f in finished:
        if f.member.learning_rate != rate:
            continue
        for skill, gain in f.summary.learning.items():
            found.setdefault(skill, []).append(gain.value)
    return found


def _shared_rate(finished: Sequence[Finished]) -> float:
    """The learning rate that most recipes were run at; of several, the highest."""
    recipes: dict[float, set[str]] = {}
    for f in finished:
        recipes.setdefault(f.member.learning_rate, set()).add(f.member.recipe)
    return max(recipes, key=lambda rate: (len(recipes[rate]), rate))


TITLES = {
    "plane": "One skill (counting), over learning rates and seeds",
    "sequence": "Five skills one after another",
}


def _write(
    folder: Path, part: str, finished: Sequence[Finished], failures: Sequence[Failure]
) -> Path:
    seeds = len({f.member.seed for f in finished})
    found = points(finished)
    first = finished[0].member.config
    notes = [
        f"{len(finished)} runs on {MODEL}; seeds: {seeds}; {STEPS[part]} steps of {BATCH} "
        f"examples a stage, {QUESTIONS} questions a task. "
        "Regenerate with: holdfast bench narrow.",
    ]
    notes += [f"Not finished: {f.member.name} ({f.reason})" for f in failures]
    rates = sorted({f.member.learning_rate for f in finished})
    shown = _shared_rate(finished) if part == "plane" else rates[0]
    by_rate = {r: rows([f for f in finished if f.member.learning_rate == r]) for r in rates}
    if len(rates) > 1:
        notes.append(f"First all recipes at one learning rate ({shown:g}), then every rate.")
    if part == "plane":
        sections = of_plane(found)
    else:
        sections = {
            f"{title}, at {r:g}" if len(rates) > 1 else title: lines
            for r, table in by_rate.items()
            for title, lines in of_sequence(table, _gains(finished, r)).items()
        }
    return write_comparison(
        folder,
        by_rate[shown],
        TITLES[part],
        notes,
        points=found if len(rates) > 1 or part == "plane" else (),
        facts={
            "model": MODEL,
            "skills": ", ".join(s.label for s in first.data),
            "held out": HELD_OUT,
            "learning rates": ", ".join(f"{r:g}" for r in sorted({p.lr for p in found})),
            "orders": ", ".join(sorted({f.member.order for f in finished})),
        },
        units=f"{seeds} seeds" if seeds > 1 else "examples",
        sections=sections,
    )
