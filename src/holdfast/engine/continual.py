"""Evaluation while a model trains, for a stated share of the time.

A fixed, seeded subsample of each task is asked before the first update and then at chosen
steps, or as often as the share of the time allows. Training is not touched by it: modules keep
their modes and generators of random numbers their states, so that the trained weights are the
same bits with and without it. Following De Lange et al. 2023, arXiv 2205.13452, except that
their code draws the examples anew each time.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import TrainerCallback

from holdfast.errors import UsageError
from holdfast.measures.limits import Limit
from holdfast.runs.files import Lines
from holdfast.tasks import Task, evaluate
from holdfast.tasks.harness import HarnessTask
from holdfast.tasks.room import BatchSize
from holdfast.tasks.states import random_states

if TYPE_CHECKING:
    from holdfast.engine.preflight import Preflight
    from holdfast.progress import Progress

Row = dict[str, Any]
log = logging.getLogger("holdfast")


def subsample(task: Task, count: int, seed: int) -> Task:
    """The task with ``count`` of its examples, drawn once and kept in their order."""
    if len(task.examples) <= count:
        return task
    drawn = random.Random(f"{seed} {task.name}").sample(range(len(task.examples)), count)
    return replace(task, examples=[task.examples[i] for i in sorted(drawn)])


class ContinualEvaluation(TrainerCallback):  # type: ignore[misc]
    """Scores held-out tasks during training, in any transformers ``Trainer``.

    Args:
        tasks: what is asked.
        processor: the model's processor, or its tokenizer.
        share: evaluation takes at most this share of the training time, once training has
            been long enough to pay for the scores before the first update. The steps then
            depend on the clock; for a run that repeats itself, give ``every``.
        every: evaluate at each step that is a multiple of it, whatever it takes.
        examples: per task, at most.
        seed: of the subsample.
        out: a file that rows are kept in, one line per evaluation; a run that is taken up again
            reads from it what it measured before.
        limits: what a drop below the first score leads to.
        label: goes into every row; tells the stages of a run apart in one file.
        say: told in words when a limit is reached.

    Raises:
        UsageError: no task, an impossible share, or a task of lm-eval, which has its own
            examples.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        processor: Any,
        *,
        share: float = 0.1,
        every: int | None = None,
        examples: int = 64,
        seed: int = 0,
        out: str | Path | None = None,
        limits: Sequence[Limit] = (),
        label: int = 1,
        batch_size: BatchSize = "auto",
        say: Callable[[str], None] = log.warning,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if not tasks:
            raise UsageError("name at least one task to watch")
        if not 0 < share < 1:
            raise UsageError(f"a share of {share} of the training time is not between 0 and 1")
        if foreign := [t.name for t in tasks if isinstance(t, HarnessTask)]:
            raise UsageError(
                f"{foreign[0]} cannot be watched in training: its examples are lm-eval's own. "
                "Put some of them into a file, and watch that"
            )
        self.tasks = [subsample(t, examples, seed) for t in tasks]
        self.processor, self.share, self.every = processor, share, every
        self.limits, self.label, self.batch_size = list(limits), label, batch_size
        self.say, self.clock = say, clock
        self._lines = Lines(Path(out)) if out is not None else None
        self.rows: list[Row] = []
        """One per evaluation, in order: step, score in percent and scores of the examples by
        task, seconds of this evaluation, of all so far, and of training so far."""
        self._known: dict[int, Row] = {}
        self._trained = self._spent = 0.0
        self._since = 0.0

    # The trainer's events

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        kept = self._lines.read(lambda r: r["stage"] == self.label) if self._lines else []
        self._known = {r["step"]: r for r in kept}
        self.rows = [r for r in kept if r["step"] <= state.global_step]
        if kept:
            self._spent, self._trained = kept[-1]["spent"], kept[-1]["trained"]
        for row in self.rows[1:]:
            self._check(row)  # what it led to is in the checkpoint
        if not self.rows:
            self._evaluate(state, kwargs["model"])
        self._since = self.clock()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = self.clock()
        self._trained += now - self._since
        if self._due(state.global_step):
            self._act(self._evaluate(state, kwargs["model"]), control, kwargs)
        self._since = self.clock()

    def _due(self, step: int) -> bool:
        if step in self._known:
            return True
        if self.every is not None:
            return step % self.every == 0
        last = self.rows[-1]["seconds"]
        affordable = self._spent + last <= self.share * self._trained
        return _first_process_says(affordable)

    # One evaluation

    def _evaluate(self, state: Any, model: nn.Module) -> Row:
        step = state.global_step
        if step in self._known:
            self.rows.append(self._known[step])
            return self.rows[-1]
        began = self.clock()
        with random_states():
            results = evaluate(model, self.processor, self.tasks, batch_size=self.batch_size)
        seconds = self.clock() - began
        self._spent += seconds
        row: Row = {
            "stage": self.label,
            "step": step,
            "scores": {r.task: _number(r.score) for r in results},
            "examples": {r.task: [_number(a.score) for a in r.answers] for r in results},
            "seconds": seconds,
            "spent": self._spent,
            "trained": self._trained,
        }
        self.rows.append(row)
        if self._lines is not None and state.is_world_process_zero:
            self._lines.append(row)
        return row

    # Limits

    def _check(self, row: Row) -> list[tuple[Limit, str]]:
        """The limits that a row reaches, each with its task; they count from further down then."""
        found = []
        for k, limit in enumerate(self.limits):
            for task, now in row["examples"].items():
                before = self.rows[0]["examples"].get(task, [])
                if None not in (*before, *now) and limit.reached(task, before, now):
                    found.append((limit, task))
                    self.limits[k] = replace(limit, drop=2 * limit.drop)
                    break
        return found

    def _act(self, row: Row, control: Any, kwargs: dict[str, Any]) -> None:
        for limit, task in self._check(row):
            self.say(_sentence(limit, task, self.rows[0]["scores"][task], row))
            if limit.action == "stop":
                control.should_training_stop = True
            if limit.action == "lower":
                _lower(kwargs.get("optimizer"), kwargs.get("lr_scheduler"), limit.factor)


def watchers(
    checked: Preflight, stage: int, folder: Path, progress: Progress
) -> list[ContinualEvaluation]:
    """What watches a stage of a run: held-out tasks, and the targets up to this stage's.

    Nothing unless ``evaluate.share`` or ``evaluate.every`` is set. Rows go to ``curve.jsonl``
    in the run's folder.
    """
    told = checked.config.evaluate
    if told.share is None and told.every is None:
        return []
    tasks = [*(s.task for s in checked.skills[:stage]), *checked.held_out]
    own = [t for t in tasks if not isinstance(t, HarnessTask)]
    if len(own) < len(tasks):
        progress.say("  lm-eval's tasks are scored after the stage only")
    watched = ContinualEvaluation(
        own,
        checked.processor,
        share=told.share or 0.1,
        every=told.every,
        examples=told.sample,
        seed=checked.config.seed,
        out=folder / "curve.jsonl",
        limits=[Limit.read(text) for text in told.limits],
        label=stage,
        batch_size=told.batch_size,
        say=progress.say,
    )
    return [watched]


def continual_evaluation(
    tasks: str | Task | Sequence[str | Task], processor: Any, *, model: str = "", **settings: Any
) -> ContinualEvaluation:
    """A callback that scores tasks while any transformers ``Trainer`` trains.

    Args:
        tasks: tasks, or names of tasks and suites as on the command line.
        processor: the model's processor, or its tokenizer.
        model: its name, for suites that depend on it.
        settings: see :class:`ContinualEvaluation`; limits may be written as text (``5=stop``).

    Example:
        >>> watch = holdfast.continual_evaluation("birds.jsonl", tokenizer, share=0.1)
        >>> Trainer(model, args=args, train_dataset=data, callbacks=[watch]).train()
        >>> print(watch.rows)

    Raises:
        UnknownName: no such task. UsageError as :class:`ContinualEvaluation`.
    """
    from holdfast.engine.scoring import load_tasks

    given = [tasks] if isinstance(tasks, str | Task) else list(tasks)
    found: list[Task] = []
    for one in given:
        found += load_tasks([one], model=model, limit=None) if isinstance(one, str) else [one]
    limits = [Limit.read(x) if isinstance(x, str) else x for x in settings.pop("limits", ())]
    return ContinualEvaluation(found, processor, limits=limits, **settings)


def _sentence(limit: Limit, task: str, before: float, row: Row) -> str:
    done = {
        "warn": "Training goes on.",
        "stop": "Training stops here.",
        "lower": f"The learning rate is multiplied by {limit.factor:g}.",
    }
    return (
        f"step {row['step']}: {task} has fallen from {before:.1f} to {row['scores'][task]:.1f}, "
        f"{limit.drop:g} points or more. {done[limit.action]}"
    )


def _lower(optimizer: Any, scheduler: Any, factor: float) -> None:
    """Scale the rate for good; a scheduler of torch multiplies its factors with ``base_lrs``."""
    scheduler = getattr(scheduler, "scheduler", scheduler)  # accelerate's wraps torch's
    for group in getattr(optimizer, "param_groups", ()):
        group["lr"] *= factor
    if hasattr(scheduler, "base_lrs"):
        scheduler.base_lrs = [rate * factor for rate in scheduler.base_lrs]


def _first_process_says(value: bool) -> bool:
    """The same decision in every process: clocks differ, and a forward may need them all."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    told = [value]
    torch.distributed.broadcast_object_list(told, src=0)
    return told[0]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
