"""The verbs of the command line, for Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from holdfast.config import resolve
from holdfast.progress import Progress
from holdfast.runs import Run

if TYPE_CHECKING:
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
