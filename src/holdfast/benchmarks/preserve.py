"""Methods against forgetting, compared where they have learned the same.

Two sections, each of which runs alone: five skills in a row on ``lab:vlm`` (``vision``) and on
``lab:lm`` (``text``), every method over learning rates and seeds, at equal steps and batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from holdfast.benchmarks.collect import Finished, collect, memory, points, rows
from holdfast.benchmarks.executors import Executor
from holdfast.benchmarks.grid import Failure, Member, run_grid
from holdfast.benchmarks.kl import of_drift
from holdfast.benchmarks.standing import of_methods
from holdfast.config import resolve
from holdfast.engine.tune import measure_base
from holdfast.errors import RunError, UnknownName
from holdfast.lab.catalogue import PREFIX, TARGETS
from holdfast.progress import Progress
from holdfast.report.page import write_comparison
from holdfast.report.rows import RecipeRow

Needs = Literal["nothing", "old data", "general data"]


@dataclass(frozen=True)
class Recipe:
    """Methods that are run together, and what a user has to have for them."""

    methods: tuple[str, ...]
    needs: Needs = "nothing"
    adapter: bool = False
    rates: tuple[float, ...] = ()
    """Its sweep; none: :data:`RATES` of its first method."""


FULL = "full:vision_lr_scale=1"
WIDE, HIGHER, NARROW = (3e-5, 1e-4, 3e-4), (1e-4, 3e-4, 1e-3), (3e-4, 1e-3, 3e-3)
"""Learning rates."""
RECIPES = {
    "full": Recipe((FULL,)),
    "mlp": Recipe(("mlp",)),
    "gate-up": Recipe(("gate-up",)),
    "sa-proj": Recipe(("sa-proj",)),
    "keep": Recipe(("keep",)),
    "keep, weight 4": Recipe(("keep:weight=4",), rates=(1e-3,)),
    "keep, weight 10": Recipe(("keep:weight=10",), rates=(1e-3,)),
    "keep + wise-ft": Recipe(("keep", "wise-ft")),
    "full + random-words": Recipe((FULL, "random-words"), rates=HIGHER),
    "full + lwf": Recipe((FULL, "lwf"), rates=HIGHER),
    "gate-up + lwf": Recipe(("gate-up", "lwf")),
    "full + wise-ft": Recipe((FULL, "wise-ft"), rates=HIGHER),
    "gate-up + wise-ft": Recipe(("gate-up", "wise-ft")),
    "full + l2-sp": Recipe((FULL, "l2-sp")),
    "full + ewc": Recipe((FULL, "ewc")),
    "full + mas": Recipe((FULL, "mas")),
    "hft": Recipe(("hft",)),
    "lora": Recipe(("lora:rank=16",), adapter=True, rates=HIGHER),
    "reg-lora": Recipe(("reg-lora:rank=16",), adapter=True, rates=HIGHER),
    "full + er": Recipe((FULL, "er"), "old data"),
    "full + der": Recipe((FULL, "der"), "old data"),
    "full + gere": Recipe((FULL, "gere"), "general data", rates=NARROW),
}
"""What is compared. 'Old data' is data of the earlier stages of the run; of what the model was
pre-trained on, only 'general data' has any."""
RATES = {FULL: WIDE, "hft": WIDE, "mlp": HIGHER, "gate-up": (3e-4, 1e-3)}
"""By the first method, chosen so that the sweeps reach the same learning; :data:`NARROW` else."""
SITUATIONS = {
    "Nothing of the old data is left": [n for n, r in RECIPES.items() if r.needs == "nothing"],
    "Data of the stages before is kept": [
        n for n, r in RECIPES.items() if r.needs != "general data"
    ],
    "Data like the base's own is at hand": list(RECIPES),
    "Only an adapter may be trained": [n for n, r in RECIPES.items() if r.adapter],
    "Few weights may change": ["gate-up", "sa-proj", "keep", "keep + wise-ft", "gate-up + lwf"],
}
MODELS = {"vision": "lab:vlm", "text": "lab:lm"}
SKILLS = {
    "vision": tuple(PREFIX + name for name in TARGETS["vlm"]),
    "text": tuple(PREFIX + name for name in TARGETS["lm"]),
}
ORDERS = ("default", "reverse")
STEPS, BATCH, QUESTIONS, SEEDS = 100, 16, 60, 3
HELD_OUT = "lab:held-out"
TITLES = {
    "vision": "Keeping what a model can do: five skills with pictures",
    "text": "Keeping what a model can do: five skills of text",
}


def members(
    out: Path,
    section: str,
    recipes: Sequence[str],
    rates: Sequence[float] | None = None,
    seeds: int = SEEDS,
    orders: Sequence[str] = ("default",),
) -> list[Member]:
    """Every recipe at each rate of its sweep, with every seed and order; one seed after another.

    Raises :class:`UnknownName` for a recipe or an order that does not exist.
    """
    for order in orders:
        if order not in ORDERS:
            raise UnknownName("order", order, ORDERS)
    return [
        _member(out, section, recipe, rate, seed, order)
        for seed in range(seeds)
        for order in orders
        for recipe in recipes
        for rate in rates or _sweep(recipe)
    ]


def _sweep(name: str) -> tuple[float, ...]:
    recipe = _recipe(name)
    return recipe.rates or RATES.get(recipe.methods[0], NARROW)


def _recipe(name: str) -> Recipe:
    if name not in RECIPES:
        raise UnknownName("recipe of this comparison", name, RECIPES)
    return RECIPES[name]


def _member(out: Path, section: str, recipe: str, rate: float, seed: int, order: str) -> Member:
    name = f"{recipe.replace(' + ', '+')}.{rate:g}.seed{seed}.{order}"
    skills = SKILLS[section] if order == "default" else SKILLS[section][::-1]
    config = resolve(
        {
            "model": MODELS[section],
            "data": list(skills),
            "methods": list(_recipe(recipe).methods),
            "tasks": [HELD_OUT],
            "out": str(out / section / name),
            "seed": seed,
            "train": {"learning_rate": rate, "steps": STEPS, "batch_size": BATCH},
            "evaluate": {"limit": QUESTIONS},
        }
    )
    return Member(name, config, recipe, rate, seed, order)


def bench_preserve(
    out: Path,
    *,
    docs: Path | None = None,
    section: str = "vision",
    recipes: Sequence[str] | None = None,
    rates: Sequence[float] | None = None,
    seeds: int = SEEDS,
    orders: Sequence[str] = ("default",),
    workers: int | None = None,
    on: Executor = "local",
    progress: Progress | None = None,
) -> Path:
    """Run a section of the comparison in ``out``, or what is left of it, and write its page.

    The page is about every run of the section that is finished there, also those of other calls:
    so a long grid can be run recipe by recipe.

    Args:
        docs: write the page here too.
        section: ``vision`` or ``text``.
        recipes, rates, seeds, orders: other than all recipes, their own sweeps, three seeds and
            the default order.
        workers, on: how many runs at a time, and where (:func:`holdfast.benchmarks.grid.run_grid`).

    Returns:
        The page's path.

    Raises:
        UnknownName: a section, a recipe or an order that does not exist.
        RunError: runs failed; the page of the others is written before.
    """
    progress = progress or Progress()
    if section not in MODELS:
        raise UnknownName("section", section, MODELS)
    chosen = list(recipes or RECIPES)
    grid = members(out, section, chosen, rates, seeds, orders)
    progress.say("asking the base model")
    # the same whatever is chosen: another call goes on in the same folder
    first = _member(out, section, next(iter(RECIPES)), WIDE[0], 0, ORDERS[0])
    known = measure_base(first.config, out / f"base-{section}", progress=progress)
    progress.say(f"{section}: {len(grid)} runs")
    failures = run_grid(grid, known=known.path, workers=workers, on=on, progress=progress)
    every = {m.name: m for m in members(out, section, list(RECIPES), None, seeds, ORDERS)}
    finished = collect(list({**every, **{m.name: m for m in grid}}.values()))
    if not finished:
        raise RunError(f"not one run could be finished: {failures[0].reason}")
    places = [out / section, *([docs / section] if docs is not None else [])]
    progress.say(f"reading the prompts of {len(SKILLS[section])} skills by {len(finished)} models")
    drift = of_drift(finished, SKILLS[section], progress=progress)
    pages = [_write(place, section, finished, failures, drift) for place in places]
    if failures:
        reasons = "".join(f"\n  {f.member.name}: {f.reason}" for f in failures)
        raise RunError(
            f"{len(failures)} of {len(grid)} runs failed; the page is about the others. Run the "
            f"same command to try these again:{reasons}"
        )
    return pages[-1]


def _write(
    folder: Path,
    section: str,
    finished: Sequence[Finished],
    failures: Sequence[Failure],
    drift: Sequence[str],
) -> Path:
    seeds = len({f.member.seed for f in finished})
    found = points(finished)
    notes = [
        f"{len(finished)} runs on {MODELS[section]}; {seeds} seeds; {STEPS} steps of {BATCH} "
        f"examples a stage, {QUESTIONS} questions a task. Regenerate with: holdfast bench "
        f"preserve --section {section}.",
        "The first table has every recipe at the rate of its sweep at which it learned the most. "
        "That is not the comparison: a lower rate alone prevents much forgetting. The comparison "
        "is the one at equal learning.",
    ]
    notes += [f"Not finished: {f.member.name} ({f.reason})" for f in failures]
    return write_comparison(
        folder,
        _at_their_best(finished),
        TITLES[section],
        notes,
        points=found,
        facts={
            "model": MODELS[section],
            "skills": ", ".join(SKILLS[section]),
            "held out": HELD_OUT,
            "orders": ", ".join(sorted({f.member.order for f in finished})),
        },
        units=f"{seeds} seeds",
        sections={
            **of_methods(found, SITUATIONS, memory(finished)),
            "Forgetting and drift": drift,
        },
    )


def _at_their_best(finished: Sequence[Finished]) -> list[RecipeRow]:
    """One row for each recipe, at the rate at which it learned the most."""
    groups: dict[str, dict[float, list[Finished]]] = {}
    for f in finished:
        groups.setdefault(f.member.recipe, {}).setdefault(f.member.learning_rate, []).append(f)
    tables = [[rows(group)[0] for group in sweep.values()] for sweep in groups.values()]
    return [max(table, key=lambda row: row.learned.value) for table in tables]
