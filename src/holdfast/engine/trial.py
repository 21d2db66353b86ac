"""A short trial of a run: its own steps and questions, on the model that it will train.

What a trial measures is what the run does: the same code, the same batches in size and length, the
weights that are there (a model of other weights writes longer or shorter replies).
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from holdfast.data import collate
from holdfast.engine import memory
from holdfast.engine.feeding import Sources, schedule
from holdfast.engine.stage import train_stage
from holdfast.models.loading import default_dtype, load_model, pick_device
from holdfast.tasks import Task, evaluate

if TYPE_CHECKING:
    from holdfast.engine.preflight import Preflight

STEPS, SAVE_EVERY = 7, 2
"""Steps of a trial. Checkpoints are saved after 2, 4 and 6: steps 3, 5 and 7 show their cost."""
QUESTIONS = 64
"""Questions of each task, at most: those that are asked in one batch."""


@dataclass(frozen=True)
class Trial:
    """What a run will take, from a trial."""

    training: float
    """Seconds."""
    asking: float
    """Seconds."""
    peak: int
    """Bytes, of what :data:`holdfast.engine.memory.MEANING` says."""


def try_out(checked: Preflight) -> Trial:
    """Ask some questions of each task and train some steps of the first stage."""
    memory.reset()
    device = pick_device(None)
    fp32 = checked.train.precision == "fp32"
    dtype = torch.float32 if fp32 else default_dtype(checked.folder, device)
    model: nn.Module = load_model(checked.folder, dtype).to(device).eval()
    tasks = [*(s.task for s in checked.skills), *checked.held_out]
    size = checked.config.evaluate.batch_size
    once = sum(_asking(model, checked.processor, task, size) for task in tasks)
    training = _training(checked, model)
    return Trial(training, once * (len(checked.skills) + 1), memory.peak(device))


def _asking(model: nn.Module, processor: Any, task: Task, batch_size: Any) -> float:
    """Seconds of all questions of a task, from some that lie evenly in it."""
    count = len(task.examples)
    if not count:
        return 0.0
    few = min(count, QUESTIONS)
    chosen = tuple(task.examples[i * count // few] for i in range(few))
    began = time.perf_counter()
    evaluate(model, processor, [replace(task, examples=chosen)], batch_size=batch_size)
    return (time.perf_counter() - began) * count / few


def _training(checked: Preflight, model: nn.Module) -> float:
    """Seconds of all stages, from some steps of the first."""
    examples, others = checked.surveys[0].encoded, checked.sources[0]
    train = checked.train.model_copy(update={"steps": STEPS, "save_every": SAVE_EVERY})
    seed = checked.config.seed * 1000 + 1
    stamps: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        trained = train_stage(
            checked.plan,
            model,
            examples,
            lambda rows: collate(rows, pad_id=examples.encoder.pad_id),
            train,
            folder=Path(folder),
            seed=seed,
            base_weights={},
            advance=lambda done, total: stamps.append(time.perf_counter()),
            note=lambda row: None,
            sources=others,
        )
    step, save = step_and_save(stamps)
    setting_up = max(0.0, trained.seconds - (stamps[-1] - stamps[0]) - step - save)
    tried = schedule(
        checked.plan,
        Sources(examples, others),
        train,
        seed=seed,
        device=pick_device(None).type,
        packed=train.packing == "on",
    )
    a_token = step * STEPS / tried.tokens()[1]
    total = 0.0
    for planned in checked.schedules:
        saves = _saves(len(planned.steps), checked.train.save_every)
        total += setting_up + a_token * planned.tokens()[1] + saves * save
    return total


def step_and_save(stamps: Sequence[float]) -> tuple[float, float]:
    """Seconds of a step and of a checkpoint, from the times at which the steps of a trial ended.

    The checkpoint after a step is written in the time of the next one.
    """
    took = [b - a for a, b in itertools.pairwise(stamps)]
    plain, saving = took[0::2], took[1::2]
    step = statistics.median(plain)
    return step, max(0.0, statistics.median(saving) - step)


def _saves(steps: int, every: int | None) -> int:
    every = every or max(1, -(-steps // 10))
    return -(-steps // every)
