"""Weights & Biases, TensorBoard, MLflow and the others: what a run measures goes there too.

transformers knows them; nothing is sent unless ``train.report_to`` names one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)

from holdfast.config import Train
from holdfast.engine.continual import ContinualEvaluation, Row
from holdfast.errors import MissingExtra, UnknownName
from holdfast.measures import summarise
from holdfast.runs import Run


def check_trackers(names: Sequence[str]) -> None:
    """Raises :class:`UnknownName` for a tracker that transformers does not know, and
    :class:`MissingExtra` for one whose package is not installed."""
    installed = set(get_available_reporting_integrations()) if names else set()
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise UnknownName("tracker", name, sorted(INTEGRATION_TO_CALLBACK))
        if name not in installed:
            raise MissingExtra(
                f"train.report_to names '{name}', whose package is not installed; install it "
                f"(pip install {name}), or leave '{name}' out."
            )


class Trackers(TrainerCallback):  # type: ignore[misc]
    """The trackers that a run names, as one callback of all its stages.

    Steps count over the whole run, so that its stages are one curve, and what was scored before,
    between and in the stages goes where the loss goes: ``score/TASK`` in percent, the run's
    measures at the end as ``measure/NAME`` in points.

    Args:
        run: its name is the name that the trackers show.
        train: its settings, with the learning rate that was chosen; names the trackers.
        first: whether this process is the one that reports.
    """

    def __init__(self, run: Run, train: Train, *, first: bool = True) -> None:
        self.run, self._told = run, train
        self._inner = [INTEGRATION_TO_CALLBACK[n]() for n in train.report_to if first]
        self._watched: list[ContinualEvaluation] = []
        self._sent = self._before = 0
        self._open = False
        self._state, self._control = TrainerState(), TrainerControl()

    def stage(self, number: int, watchers: Sequence[Any]) -> list[Any]:
        """What a stage's trainer is given: the watchers, and this if anything is reported."""
        self._before = self._steps(number - 1)
        self._watched = [w for w in watchers if isinstance(w, ContinualEvaluation)]
        return [*watchers, self] if self._inner else list(watchers)

    def scored(self, stage: int, model: Any) -> None:
        """Report the scores after a stage (0: before the first)."""
        if self._inner:
            rows = self.run.scores(stage)
            known = {f"score/{r['task']}": r["score"] for r in rows if r["score"] is not None}
            self._report({**known, "stage": stage}, self._steps(stage), model)

    def finished(self, model: Any) -> None:
        """Report the run's measures."""
        if not self._inner:
            return
        stages = [s.label for s in self.run.config.data]
        learned = {label: k for k, label in enumerate(stages, 1)}
        tasks = self.run.tasks("target"), self.run.tasks("held-out")
        found = summarise(self.run.all_answers(), *tasks, learned_at=learned).measures
        said = {f"measure/{k}": e.value for k, e in found.items() if math.isfinite(e.value)}
        self._report(said, self._steps(len(stages)), model)

    def close(self) -> None:
        """The run is over, or was stopped."""
        if self._open:
            self._tell("on_train_end", self._arguments(), self._state, self._control)
            self._open = False

    # The trainer's events

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._begin(kwargs.get("model"))
        resumed = state.global_step > 0
        self._sent = self._count() if resumed else 0
        self._scores(args, state, control, kwargs)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._tell("on_step_end", args, self._shifted(state), control, **kwargs)
        self._scores(args, state, control, kwargs)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._tell("on_log", args, self._shifted(state), control, **kwargs)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._tell("on_save", args, state, control, **kwargs)  # its files have the stage's steps

    def _scores(self, args: Any, state: Any, control: Any, kwargs: Any) -> None:
        """What the watchers scored since this was asked last."""
        if self._count() == self._sent:
            return
        self._sent = self._count()
        scores: dict[str, float] = {}
        for watcher in self._watched:
            scores |= logged(watcher.rows[-1])
        self.on_log(args, state, control, **{**kwargs, "logs": scores})

    def _count(self) -> int:
        return sum(len(w.rows) for w in self._watched)

    # The trackers

    def _begin(self, model: Any) -> None:
        if not self._open:
            self._open = True
            at = self._arguments(), self._state, self._control
            self._tell("on_init_end", *at, model=model)
            self._tell("on_train_begin", *at, model=model)

    def _report(self, values: Mapping[str, float], step: int, model: Any) -> None:
        self._begin(model)
        state = replace(self._state, global_step=step)
        self._tell(
            "on_log", self._arguments(), state, self._control, logs=dict(values), model=model
        )

    def _tell(self, event: str, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for tracker in self._inner:
            getattr(tracker, event)(args, state, control, **kwargs)

    def _shifted(self, state: Any) -> Any:
        return replace(state, global_step=self._before + state.global_step)

    def _steps(self, stages: int) -> int:
        """Of the first stages together, all of which are trained."""
        done = [self.run.stage_done(k) or {} for k in range(1, stages + 1)]
        return sum(int(notes.get("steps", 0)) for notes in done)

    def _arguments(self) -> TrainingArguments:
        """As much of the run's settings as trackers show."""
        return TrainingArguments(
            output_dir=str(self.run.path),
            run_name=self.run.path.name,
            learning_rate=self._told.learning_rate,
            lr_scheduler_type=self._told.schedule,
            weight_decay=self._told.weight_decay,
            max_grad_norm=self._told.max_grad_norm,
            seed=self.run.config.seed,
            report_to="none",
        )


def logged(row: Row) -> dict[str, float]:
    """A row of scores as a trainer logs it; what was not measured is left out."""
    return {f"score/{task}": v for task, v in row["scores"].items() if v is not None}
