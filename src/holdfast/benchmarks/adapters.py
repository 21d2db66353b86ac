"""Low-rank adapters beside full tuning, in the form of PEFT's own method comparison.

PEFT's table (method_comparison/MetaMathQA, Llama-3.2-3B) has accuracy on the new task against
forgetting, the rise of the mean cross-entropy on text. Its rows for adapters on the MLP,
on queries and values, and for full tuning are one seed at one learning rate each. Here the same
three learn arithmetic on ``lab:lm`` over learning rates and seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from holdfast.benchmarks.collect import Finished, collect, memory, points, rows
from holdfast.benchmarks.executors import Executor
from holdfast.benchmarks.grid import Member, run_grid
from holdfast.benchmarks.standing import agreement, costs, sweeps
from holdfast.config import resolve
from holdfast.engine.tune import measure_base
from holdfast.errors import RunError, UnknownName
from holdfast.measures.interval import over_runs
from holdfast.progress import Progress
from holdfast.report.page import write_comparison
from holdfast.report.tables import Grid

MODEL, SKILL, HELD_OUT = "lab:lm", "lab:arithmetic", "lab:held-out"
RECIPES = {
    "full": "full",
    "lora on mlp": "lora:rank=10,scope=language.mlp",
    "lora on q, v": "lora:rank=32,scope=language.attn.q+v",
}
"""With the ranks of PEFT's table."""
RATES = {"full": (3e-5, 1e-4, 3e-4, 1e-3)}
ADAPTER_RATES = (1e-3, 3e-3, 1e-2, 3e-2)
STEPS, BATCH, QUESTIONS, SEEDS, TEXTS = 100, 16, 100, 3, 50
THEIRS = (
    ("LoRA r10 on the MLP", "0.494", "0.032", "9.46"),
    ("LoRA r32 on q, v", "0.478", "0.050", "9.18"),
    ("full tuning, 1e-5", "0.472", "0.030", "3213"),
)
"""Accuracy, forgetting and millions of weights, read off PEFT's results; one seed each."""


def members(out: Path, recipes: Sequence[str], seeds: int) -> list[Member]:
    """Every recipe at each rate of its sweep with every seed. Raises :class:`UnknownName`."""
    return [
        _member(out, recipe, rate, seed)
        for seed in range(seeds)
        for recipe in recipes
        for rate in RATES.get(recipe, ADAPTER_RATES)
    ]


def _member(out: Path, recipe: str, rate: float, seed: int) -> Member:
    if recipe not in RECIPES:
        raise UnknownName("recipe of this comparison", recipe, RECIPES)
    name = f"{recipe.replace(', ', '-').replace(' ', '-')}.{rate:g}.seed{seed}"
    config = resolve(
        {
            "model": MODEL,
            "data": [SKILL],
            "methods": [RECIPES[recipe]],
            "tasks": [HELD_OUT],
            "out": str(out / name),
            "seed": seed,
            "train": {"learning_rate": rate, "steps": STEPS, "batch_size": BATCH},
            "evaluate": {"limit": QUESTIONS},
        }
    )
    return Member(name, config, recipe, rate, seed, "one skill")


def bench_adapters(
    out: Path,
    *,
    docs: Path | None = None,
    recipes: Sequence[str] | None = None,
    seeds: int = SEEDS,
    workers: int | None = None,
    on: Executor = "local",
    progress: Progress | None = None,
) -> Path:
    """Run the comparison in ``out``, or what is left of it, and write its page.

    Args:
        docs: write the page here too.
        recipes, seeds: other than all three recipes and three seeds.
        workers, on: how many runs at a time, and where (:func:`holdfast.benchmarks.grid.run_grid`).

    Returns:
        The page's path.

    Raises:
        UnknownName: a recipe that does not exist.
        RunError: a run failed; the same command tries it again.
    """
    progress = progress or Progress()
    grid = members(out, list(recipes or RECIPES), seeds)
    progress.say("asking the base model")
    known = measure_base(grid[0].config, out / "base", progress=progress)
    progress.say(f"{len(grid)} runs")
    failures = run_grid(grid, known=known.path, workers=workers, on=on, progress=progress)
    if failures:
        reasons = "".join(f"\n  {f.member.name}: {f.reason}" for f in failures)
        raise RunError(f"{len(failures)} of {len(grid)} runs failed:{reasons}")
    finished = collect(grid)
    base = cross_entropy(MODEL)
    rises: list[float] = []
    with progress.bar("reading old answers") as advance:
        for i, f in enumerate(finished):
            rises.append(cross_entropy(f.member.config.out) - base)
            advance(i + 1, len(finished))
    for place in (out, docs):
        if place is not None:
            page = _write(place, finished, rises, base)
    return page


def cross_entropy(model: str) -> float:
    """The mean over the answers' tokens of 50 examples of each held-out ability.

    What comes before an answer is left out: the lab's models were never taught to write it.
    """
    import torch

    from holdfast.data import Encoder, collate, read
    from holdfast.models.loading import load_all
    from holdfast.ordering.losses import example_losses
    from holdfast.pieces.positions import answer
    from holdfast.tasks import load_task

    loaded = load_all(model)
    encoder = Encoder(loaded.processor)
    abilities = [t.name for t in load_task(HELD_OUT, model=MODEL, limit=1)]
    encoded = [encoder(r) for name in abilities for r in read(name, split="test", limit=TEXTS)]
    total = tokens = 0.0
    with torch.no_grad():
        for start in range(0, len(encoded), BATCH):
            batch = collate(encoded[start : start + BATCH], pad_id=encoder.pad_id)
            counts = answer(batch).sum(1)
            total += float((example_losses(loaded.model, batch) * counts).sum())
            tokens += float(counts.sum())
    return total / tokens


def _write(folder: Path, finished: Sequence[Finished], rises: Sequence[float], base: float) -> Path:
    found = points(finished)
    seeds = len({f.member.seed for f in finished})
    notes = [
        f"{len(finished)} runs on {MODEL}, which learns {SKILL}; seeds: {seeds}; {STEPS} steps of "
        f"{BATCH} examples, {QUESTIONS} questions a task. "
        "Regenerate with: holdfast bench adapters.",
        "First each recipe at the rate at which it learned most.",
    ]
    groups: dict[tuple[str, float], list[int]] = {}
    for i, f in enumerate(finished):
        groups.setdefault((f.member.recipe, f.member.learning_rate), []).append(i)
    table = rows(finished)
    best = [
        max((r for r in table if r.recipe == name), key=lambda r: r.learned.value)
        for name in dict.fromkeys(r.recipe for r in table)
    ]
    return write_comparison(
        folder,
        best,
        "Adapters on the MLP, on queries and values, and full tuning",
        notes,
        points=found,
        facts={"model": MODEL, "skill": SKILL, "held out": HELD_OUT},
        units=f"{seeds} seeds",
        sections={
            "In the form of PEFT's comparison": _as_peft(finished, rises, groups, base),
            "Do seeds agree": list(agreement(sweeps(found), found)),
            "What it costs": costs(sweeps(found), found, memory(finished)),
        },
    )


def _as_peft(
    finished: Sequence[Finished],
    rises: Sequence[float],
    groups: dict[tuple[str, float], list[int]],
    base: float,
) -> list[str | Grid]:
    cells = []
    for (recipe, rate), chosen in groups.items():
        accuracy = over_runs([_accuracy(finished[i]) for i in chosen], what="seeds")
        rise = over_runs([rises[i] for i in chosen], what="seeds")
        trained = finished[chosen[0]].cost["trained"]
        cells.append((recipe, f"{rate:g}", f"{accuracy:.1f}", f"{rise:.3f}", f"{trained:,}"))
    header = ("recipe", "learning rate", "accuracy", "forgetting", "trained weights")
    theirs = ("recipe", "accuracy", "forgetting", "trained weights (millions)")
    return [
        f"Accuracy: percent on the new skill. Forgetting: the rise of the mean cross-entropy per "
        f"token of answers, over {TEXTS} examples of each held-out ability, from the base's "
        f"{base:.3f}.",
        Grid("", header, tuple(cells)),
        "PEFT's own rows (Llama-3.2-3B on MetaMathQA, accuracy on GSM8K, one seed and one "
        "learning rate each):",
        Grid("", theirs, THEIRS),
    ]


def _accuracy(f: Finished) -> float:
    cell = f.summary.cell(f.summary.stages, SKILL)
    assert cell is not None
    return float(cell.score.value)
