"""The verbs of the command line, for Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from holdfast.config import resolve
from holdfast.progress import Progress
from holdfast.runs import Run

if TYPE_CHECKING:
    from holdfast.benchmarks.executors import Executor
    from holdfast.budget.result import Within
    from holdfast.tasks import TaskResult


def tune(
    model: str,
    data: str | Sequence[str | Mapping[str, Any]],
    method: str | Sequence[str],
    *,
    out: str | Path,
    tasks: str | Sequence[str] = (),
    seed: int = 0,
    progress: Progress | None = None,
    evaluate: Mapping[str, Any] | None = None,
    **train: Any,
) -> Run:
    """Teach a model one skill or a sequence, and measure what it learned and lost.

    Args:
        model: a lab name, a folder, a hub id, or an earlier run.
        data: what to learn; several make a sequence of stages. A stage is a name or path, or
            a mapping with the fields of :class:`holdfast.config.Stage`.
        method: one or several of ``holdfast list methods``.
        out: the run's folder. The same call goes on with a run that was cut off.
        tasks: what must not be forgotten.
        seed: of the data's order and of new weights.
        evaluate: fields of :class:`holdfast.config.Evaluate`.
        train: fields of :class:`holdfast.config.Train`, such as ``learning_rate=1e-4``.

    Returns:
        The run; ``holdfast.load(out)`` gives its model.

    Raises:
        HoldfastError: see :func:`holdfast.engine.tune.tune`.

    Example:
        >>> run = holdfast.tune("lab:vlm", "lab:count", "gate-up", out="runs/count", steps=100)
        >>> model, processor = holdfast.load("runs/count")
    """
    from holdfast.engine.tune import tune as go

    stages = [data] if isinstance(data, str) else list(data)
    config = resolve(
        {
            "model": str(model),
            "data": stages,
            "methods": method if isinstance(method, str) else list(method),
            "tasks": tasks if isinstance(tasks, str) else list(tasks),
            "out": str(out),
            "seed": seed,
            "train": train,
            "evaluate": dict(evaluate or {}),
        }
    )
    return go(config, progress=progress)


def within(
    model: str,
    data: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
    keep: str | Sequence[str] = (),
    *,
    budget: float,
    out: str | Path,
    method: str | Sequence[str] = (),
    old_data: str | None = None,
    adapters_only: bool = False,
    examples: int = 400,
    seed: int = 0,
    workers: int | None = None,
    on: Executor = "local",
    progress: Progress | None = None,
    evaluate: Mapping[str, Any] | None = None,
    **train: Any,
) -> Within:
    """Teach a model as much as it can learn while it loses at most ``budget`` of what it keeps.

    Recipe, learning rate, length and interpolation are chosen by short runs and successive
    halving. The model that comes back is the one that learned most of those whose loss, on the
    mean over the kept tasks, is shown to be inside the budget with 95% confidence on examples
    that the search did not see. If none is, the base is left as it was.

    Args:
        model, data, seed, evaluate, train: as in :func:`tune`. ``steps`` is the longest length
            (by default one epoch); a ``learning_rate`` replaces the search for one.
        keep: tasks and suites that must not be lost; for a lab model, its own by default.
        budget: points (percent of the examples) that may be lost, on the mean over the tasks.
        out: the search's folder. The same call goes on with a search that was cut off.
        method: a plan of your own; by default recipes of :data:`holdfast.budget.candidates`.
        old_data: data of what the model knows, for methods that read it.
        adapters_only: try adapters alone.
        examples: of each task at most, a quarter for the search and the rest unseen by it.
        workers, on: how many trials at a time, and where
            (:func:`holdfast.benchmarks.grid.run_grid`).

    Returns:
        What was tried and chosen. ``holdfast.load(found.result)`` gives the model.

    Raises:
        TooFewExamples: no model could be shown to keep the budget with these examples.
        HoldfastError: as :func:`tune`.

    Example:
        >>> found = holdfast.within("lab:lm", "lab:facts", budget=1.0, out="runs/facts")
        >>> print(found.verdict)
        >>> model, processor = holdfast.load(found.result)
    """
    from holdfast.budget.search import search

    kept, own = ([x] if isinstance(x, str) else list(x) for x in (keep, method))
    config = resolve(
        {
            "model": str(model),
            "data": [data] if isinstance(data, str | Mapping) else list(data),
            "methods": own or ["within"],
            "tasks": kept,
            "out": str(out),
            "seed": seed,
            "train": train,
            "evaluate": dict(evaluate or {}),
        }
    )
    return search(
        config,
        budget=budget,
        methods=own,
        old_data=old_data,
        adapters_only=adapters_only,
        examples=examples,
        workers=workers,
        on=on,
        progress=progress,
    )


def evaluate(
    model: str,
    tasks: str | Sequence[str],
    *,
    limit: int | None = None,
    batch_size: int | Literal["auto"] = "auto",
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> list[TaskResult]:
    """Score a model by name on tasks by name.

    Args:
        model: a lab name, a folder, a hub id, or a run.
        tasks: tasks or suites (``lab:held-out``, a file, ``lm_eval:NAME``).
        limit: at most so many examples of each.
        out: a folder in which every answer is kept.

    Raises:
        HoldfastError: see :func:`holdfast.engine.scoring.evaluate_model`.
    """
    from holdfast.engine.scoring import evaluate_model

    return evaluate_model(
        model,
        [tasks] if isinstance(tasks, str) else list(tasks),
        limit=limit,
        batch_size=batch_size,
        out=Path(out) if out is not None else None,
        progress=progress,
    )
