"""``holdfast.repair``: the model with the most learning inside a budget of forgetting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.changes.repair.attempts import Attempts
from holdfast.changes.repair.candidates import METHODS, best_inside, nearest_outside
from holdfast.changes.repair.coefficients import try_coefficients
from holdfast.changes.repair.ends import Ends, open_ends, root_hash
from holdfast.changes.repair.half import try_half
from holdfast.changes.repair.live import Live, go_live
from holdfast.changes.repair.path import GRID, try_path
from holdfast.changes.repair.questions import Questions
from holdfast.changes.repair.result import Repair, examples_needed
from holdfast.changes.repair.rollback import PartEffect, try_rollback
from holdfast.changes.repair.stream import blended, write_folder
from holdfast.errors import UnknownName, UsageError
from holdfast.progress import Progress
from holdfast.runs.files import write_json
from holdfast.runs.lock import Lock
from holdfast.tasks import Task
from holdfast.tasks.room import BatchSize

if TYPE_CHECKING:
    import torch

EXAMPLES, EVALUATIONS = 300, 64


def repair(
    base: str,
    tuned: str,
    learned: str | Sequence[str],
    tasks: str | Sequence[str],
    *,
    budget: float = 1.0,
    method: str | Sequence[str] = "all",
    examples: int = EXAMPLES,
    evaluations: int = EVALUATIONS,
    grid: Sequence[float] = GRID,
    seed: int = 0,
    out: str | Path | None = None,
    full: bool = False,
    batch_size: BatchSize = "auto",
    device: str | torch.device | None = None,
    progress: Progress | None = None,
) -> Repair:
    """Search between two models for the one that keeps most of the skill inside a budget.

    Nothing is trained. ``path``: the straight line between them (Wortsman et al. 2022).
    ``rollback``: which roles and blocks carry the harm, and taking them back. ``coefficients``:
    one for each tensor, fitted on exemplars (AlphaWiSE, Jain et al. 2026). ``half``: half of the
    matrices back, at random (Hui et al. 2025).

    A candidate is inside the budget if the upper end of the 95% interval of what it lost on the
    mean over tasks is. Half of each task's examples choose; the other half is asked of the
    chosen model alone, and says how far the choice generalises.

    Args:
        base, tuned: lab names, folders, hub ids or runs; ours or anybody's.
        learned: tasks that measure what was taught.
        tasks: tasks and suites that must not be forgotten.
        budget: points that may be lost.
        method: one or several of path, rollback, coefficients, half; or all.
        examples: at most so many of each task, for both halves together.
        evaluations: candidates that ``rollback`` may ask at most.
        grid: the tuned model's shares on the path.
        seed: of the halves, the draws and the fits.
        out: a folder for the model, every candidate and the report. The same call goes on with
            a search that was cut off.
        full: write the whole model there too, not only what differs from the base.

    Raises:
        UsageError, UnknownName, ModelError, DataError: checked before anything is asked.
        RunError: ``out`` holds another search or cannot be written.

    Example:
        >>> found = holdfast.repair("lab:vlm", "runs/count", "lab:count", "lab:held-out",
        ...                         budget=1.0, out="repaired")
        >>> print(found.verdict)
        >>> found.frame().sort_values("learned")
        >>> model, processor = holdfast.load("repaired")
    """
    progress = progress or Progress()
    methods = _methods(method)
    _check(budget, examples, evaluations, grid)
    questions = _questions(base, learned, tasks, examples, seed)
    folder = Path(out) if out is not None else None
    with ExitStack() as stack:
        if folder is not None:
            lock = Lock(folder)
            lock.take()
            stack.callback(lock.drop)
        progress.say(f"comparing the weights of {base} and {tuned}")
        ends = open_ends(base, tuned, stack)
        live = go_live(ends, base, tuned, device)
        attempts = Attempts(
            live,
            questions,
            budget,
            folder=folder,
            setting=_setting(base, tuned, questions, live),
            batch_size=batch_size,
            progress=progress,
        )
        parts, ranks = _try(attempts, methods, tuned, evaluations, grid, seed)
        found = _result(attempts, base, tuned, parts, ranks, methods)
        if folder is not None:
            _write(found, ends, live, folder, full=full)
    return found


def _try(
    attempts: Attempts,
    methods: Sequence[str],
    tuned: str,
    evaluations: int,
    grid: Sequence[float],
    seed: int,
) -> tuple[list[PartEffect], dict[str, float]]:
    parts: list[PartEffect] = []
    ranks: dict[str, float] = {}
    if "path" in methods:
        try_path(attempts, grid=grid)
    if "half" in methods:
        try_half(attempts, seed=seed)
    if "coefficients" in methods:
        try_coefficients(attempts, seed=seed)
    if "rollback" in methods:
        parts, ranks = try_rollback(attempts, tuned=tuned, evaluations=evaluations)
    return parts, ranks


def _result(
    attempts: Attempts,
    base: str,
    tuned: str,
    parts: list[PartEffect],
    ranks: dict[str, float],
    methods: Sequence[str],
) -> Repair:
    tried = [c for c in attempts.candidates.values() if c.name != "base"]
    chosen = best_inside(tried)
    nearest = None if chosen else nearest_outside(tried)
    last = chosen or nearest
    attempts.progress.say("asking what the search did not see")
    tested = attempts.test(last) if last is not None else None
    for name in ("base", "tuned"):
        attempts.test(attempts.candidates[name])
    return Repair(
        base=base,
        tuned=tuned,
        budget=attempts.budget,
        candidates=tuple(attempts.candidates.values()),
        chosen=tested if chosen else None,
        nearest=tested if nearest else None,
        parts=tuple(parts),
        ranks=ranks,
        needed=_needed(attempts),
        facts=_facts(attempts, methods),
    )


def _needed(attempts: Attempts) -> int | None:
    """The base against itself shows what these examples can tell at best."""
    count = len(attempts.base_scores().held_out)
    return examples_needed(attempts.budget, count, attempts.base.lost.high)


def _write(found: Repair, ends: Ends, live: Live, folder: Path, *, full: bool) -> None:
    from holdfast.report.repair import write_repair_report

    if found.chosen is not None:
        live.become(found.chosen.blend)
        live.save(folder / "model", {"repair": found.chosen.name})
        if full:
            write_folder(blended(ends, found.chosen.blend), folder / "full")
    write_json(folder / "repair.json", found.to_json())
    write_repair_report(found, folder)


def _methods(method: str | Sequence[str]) -> tuple[str, ...]:
    named = [method] if isinstance(method, str) else list(method)
    for name in named:
        if name not in (*METHODS, "all"):
            raise UnknownName("way to repair", name, [*METHODS, "all"])
    if not named:
        raise UsageError(f"name at least one method: {', '.join(METHODS)}, or all.")
    return METHODS if "all" in named else tuple(m for m in METHODS if m in named)


def _check(budget: float, examples: int, evaluations: int, grid: Sequence[float]) -> None:
    if not 0 <= budget <= 100:
        raise UsageError(f"budget={budget:g}: give points between 0 and 100.")
    if examples < 4:
        raise UsageError(f"examples={examples}: at least 4 of each task are needed to split them.")
    if evaluations < 4:
        raise UsageError(f"evaluations={evaluations}: at least 4 candidates must be asked.")
    outside = [a for a in grid if not 0 <= a <= 1 or math.isnan(a)]
    if outside:
        raise UsageError(f"{outside[0]} on the grid is not a share between 0 and 1.")


def _questions(
    base: str,
    learned: str | Sequence[str],
    tasks: str | Sequence[str],
    examples: int,
    seed: int,
) -> Questions:
    from holdfast.changes.compare import family
    from holdfast.engine.scoring import load_tasks

    def named(given: str | Sequence[str]) -> list[Task]:
        names = [given] if isinstance(given, str) else list(given)
        return load_tasks(names, model=family(base), limit=examples) if names else []

    return Questions(named(learned), named(tasks), seed=seed)


def _setting(base: str, tuned: str, questions: Questions, live: Live) -> dict[str, Any]:
    """What the scores depend on, so that a folder never mixes two searches."""
    import hashlib

    asked = {
        role: {
            t.name: hashlib.sha256(repr([e.id for e in t.examples]).encode()).hexdigest()[:16]
            for t in tasks
        }
        for role, tasks in questions.tasks.items()
    }
    return {
        "base": base,
        "tuned": tuned,
        "base hash": live.loaded.hash,
        "tuned hash": _hash(live.ends),
        "dtype": str(next(live.model.parameters()).dtype),
        "tasks": asked,
        "seed": questions.seed,
    }


def _hash(ends: Ends) -> str:
    """Of the tuned values of what changed."""
    import hashlib

    import torch

    digest = hashlib.sha256(root_hash(ends).encode())
    for name in ends.changed:
        for value in ends.read(name):
            digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
            digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _facts(attempts: Attempts, methods: Sequence[str]) -> dict[str, Any]:
    import torch
    import transformers

    import holdfast

    live, questions = attempts.live, attempts.questions
    return {
        "methods": list(methods),
        "base_hash": live.loaded.hash,
        "changed": list(live.ends.changed),
        "learned_tasks": [t.name for t in questions.tasks["learned"]],
        "held_out_tasks": [t.name for t in questions.tasks["held_out"]],
        "examples": {
            half: {
                role: {task: len(es) for task, es in questions.examples(role, half).items()}
                for role in ("learned", "held_out")
            }
            for half in ("select", "test")
        },
        "seed": questions.seed,
        "holdfast": holdfast.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
