"""Probes while a model trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from transformers import TrainerCallback

from holdfast.data.records import Record
from holdfast.errors import UsageError
from holdfast.probes._registry import PROBES, Measure
from holdfast.probes._rows import ProbeResult

OnResult = Callable[[int, ProbeResult], None]


class ProbeCallback(TrainerCallback):  # type: ignore[misc]
    """Compares the model that trains with itself before training, at chosen steps.

    For any transformers trainer: ``Trainer(..., callbacks=[ProbeCallback(...)])``. The base is
    read once, when training begins; nothing of it but hidden states (and its head, if that
    trains) is kept. Measuring changes no weight, mode or random state. Results are in
    ``history``, and in the trainer's ``log_history`` as ``probe/NAME/MEASURE``.

    Args:
        probes: names of probes that can run in training, with or without settings.
        processor: of the model.
        prompts: what to read, a few dozen.
        every: measure after every so many optimizer steps.
        steps: or after exactly these (1, 10, 100, 1000).
        base: a model to compare with instead, for a run that goes on from a checkpoint.
        on_result: called with the step and each result.

    Raises:
        UsageError: a probe that cannot run in training, or no step to measure at.
        UnknownName: a probe that does not exist.
    """

    def __init__(
        self,
        probes: Sequence[str] | Mapping[str, Mapping[str, Any]],
        processor: Any,
        prompts: Sequence[Record],
        *,
        every: int | None = None,
        steps: Sequence[int] = (),
        base: nn.Module | None = None,
        on_result: OnResult | None = None,
    ) -> None:
        if (every is None and not steps) or (every is not None and every < 1):
            raise UsageError(f"every={every}, steps={list(steps)}: say at which steps to measure.")
        self.settings = dict(probes) if isinstance(probes, Mapping) else {n: {} for n in probes}
        for name in self.settings:
            if PROBES[name].value.prepare is None:
                live = [e.name for e in PROBES if e.value.prepare is not None]
                raise UsageError(
                    f"the probe '{name}' needs both models at once, so it cannot run in training; "
                    f"there is: {', '.join(live)}."
                )
        self.processor, self.prompts, self.base = processor, prompts, base
        self.every, self.steps, self.on_result = every, frozenset(steps), on_result
        self.history: list[tuple[int, ProbeResult]] = []
        self._measures: list[Measure] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read the base."""
        if not state.is_world_process_zero:
            return
        if state.global_step > 0 and self.base is None:
            raise UsageError(
                f"training goes on from step {state.global_step}, so the model is no longer the "
                "base; give ProbeCallback the base with base=."
            )
        live = self.base is None
        base = kwargs["model"] if self.base is None else self.base
        self._measures = []
        for name, settings in self.settings.items():
            prepare = PROBES[name].value.prepare
            assert prepare is not None
            self._measures.append(
                prepare(base, self.processor, self.prompts, own_head=live, **settings)
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure, if it is time."""
        step = state.global_step
        due = step in self.steps or (self.every is not None and step % self.every == 0)
        if not due or not state.is_world_process_zero:
            return
        for measure in self._measures:
            result = measure(kwargs["model"])
            self.history.append((step, result))
            state.log_history.append({**logged(result), "step": step})
            if self.on_result is not None:
                self.on_result(step, result)


def logged(result: ProbeResult) -> dict[str, float]:
    """The comparing rows of a result as ``probe/NAME/MEASURE[/CLASS]``."""
    return {
        "/".join(
            ["probe", r.probe, r.measure, *([r.token_class] if r.token_class else [])]
        ): r.value
        for r in result.rows
        if r.side in ("change", "pair")
    }
