"""A trainer's own loop, one optimizer step at a time.

Calling a trainer's inner functions by hand would leave out what its loop costs, and timing
whole runs would time their set-up. So each trainer runs its loop in a thread of its own that
waits at the end of every step; only one of them ever runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import TrainerCallback

from benchmarks._measure import Kept, Saved, counter

Gate = Callable[[], None]


class _Closed(BaseException):
    """Ends a loop from inside; no handler of ordinary errors stops it."""


class Steps:
    """One call is one optimizer step; the first also sets the trainer up.

    Args:
        start: runs the whole loop and calls its argument at the end of each step.
    """

    def __init__(self, start: Callable[[Gate], object]) -> None:
        self._start = start
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._closing = False
        self._around: Any = None
        self._entered = ExitStack()

    def __call__(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        else:
            self._go.release()
        self._done.acquire()
        if self._error is not None:
            raise RuntimeError("the training loop failed") from self._error
        assert self._closing or self._thread.is_alive(), "the training loop ended by itself"

    def flops(self) -> int:
        """FLOPs of the next step."""
        count = self._within(counter())
        return int(count.get_total_flops())

    def saved(self, model: nn.Module) -> Kept:
        """What autograd holds at once during the next step."""
        kept: Kept = self._within(Saved(model)).kept
        return kept

    def close(self) -> None:
        """End the loop and let go of its model."""
        if self._thread is not None and self._thread.is_alive():
            self._closing = True
            self._go.release()
            self._thread.join()

    def _within(self, context: Any) -> Any:
        assert self._thread is not None, "set the trainer up with a first step"
        self._around = context  # modes and hooks belong to a thread: the loop's own enters them
        self()
        return context

    def _run(self) -> None:
        try:
            self._start(self._gate)
        except _Closed:
            pass
        except BaseException as error:
            self._error = error
        self._done.release()

    def _gate(self) -> None:
        self._entered.close()
        self._done.release()
        self._go.acquire()
        if self._closing:
            raise _Closed
        if self._around is not None:
            self._entered.enter_context(self._around)
            self._around = None


class AtStepEnd(TrainerCallback):  # type: ignore[misc]
    """Calls a gate from a transformers trainer, after everything else at the end of a step."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.gate()


def through(make: Callable[[], Any]) -> Steps:
    """The steps of a transformers trainer that ``make()`` builds."""

    def start(gate: Gate) -> None:
        trainer = make()
        trainer.add_callback(AtStepEnd(gate))
        trainer.train()

    return Steps(start)


def first_step(side: Any) -> dict[str, Tensor]:
    """Run the next step of a side; the gradients that its optimizer got, by weight.

    Keeps the optimizer as ``side.optimizer``.
    """
    found: dict[str, Tensor] = {}

    def keep(optimizer: Any, args: Any, kwargs: Any) -> None:
        side.optimizer = optimizer
        for name, parameter in side.model.named_parameters():
            if parameter.grad is not None:
                found[name] = parameter.grad.detach().clone()

    handle = register_optimizer_step_pre_hook(keep)
    try:
        side.steps()
    finally:
        handle.remove()
    return found
