"""Weights & Biases, TensorBoard, MLflow and the others: what a run measures goes there too.

transformers knows them; nothing is sent unless ``train.report_to`` names one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import Trainer, TrainerCallback

from holdfast.engine.continual import ContinualEvaluation, Row
from holdfast.errors import MissingExtra, UnknownName


def check_trackers(names: Sequence[str]) -> None:
    """Raises :class:`UnknownName` for a tracker that transformers does not know, and
    :class:`MissingExtra` for one whose package is not installed."""
    from transformers.integrations.integration_utils import (
        INTEGRATION_TO_CALLBACK,
        get_available_reporting_integrations,
    )

    installed = set(get_available_reporting_integrations()) if names else set()
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise UnknownName("tracker", name, sorted(INTEGRATION_TO_CALLBACK))
        if name not in installed:
            raise MissingExtra(
                f"train.report_to names '{name}', whose package is not installed; install it "
                f"(pip install {name}), or leave '{name}' out."
            )


class ScoresLogged(TrainerCallback):  # type: ignore[misc]
    """Logs what watchers scored during training as ``score/TASK``, in percent, so that it goes
    wherever the trainer's logs go."""

    def __init__(self, watchers: Sequence[Any]) -> None:
        self.watchers = [w for w in watchers if isinstance(w, ContinualEvaluation)]
        self.trainer: Trainer | None = None
        self._sent = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            self._send()
        self._sent = self._count()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._send()

    def _count(self) -> int:
        return sum(len(w.rows) for w in self.watchers)

    def _send(self) -> None:
        assert self.trainer is not None
        if self._count() == self._sent:
            return
        self._sent = self._count()
        scores: dict[str, float] = {}
        for watcher in self.watchers:
            scores |= logged(watcher.rows[-1])
        self.trainer.log(scores)


def logged(row: Row) -> dict[str, float]:
    """A row of scores as a trainer logs it; what was not measured is left out."""
    return {f"score/{task}": v for task, v in row["scores"].items() if v is not None}
