"""Averaging with the start of the stage while the stage trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from holdfast.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(kw_only=True)
class Average:
    """theta <- (1 - beta) theta + beta theta_old, after every ``period`` of the stage's steps.

    theta_old are the trained weights at the start of the stage. With T steps it happens after
    step round(j * period * T) for j = 1, 2, ... and after the last (Kleiman et al. 2025). The
    optimizer's moments go on as they are.
    """

    beta: float
    period: float
    name: str = "sfa"
    _start: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    _at: frozenset[int] = field(default=frozenset(), init=False, repr=False)
    _step: int = field(default=0, init=False, repr=False)

    def anchor(self, parameters: Mapping[str, Tensor]) -> None:
        """The stage begins with these trained weights."""
        self._start = {name: value.detach().clone() for name, value in parameters.items()}

    def begin(self, step: int, steps: int) -> None:
        """The stage has ``steps`` steps, of which ``step`` are done."""
        self._step, self._at = step, moments(steps, self.period)

    def before_step(self, parameters: Mapping[str, Tensor]) -> None:
        """Nothing."""

    def after_step(self, parameters: Mapping[str, Tensor]) -> None:
        import torch

        self._step += 1
        if self._step not in self._at:
            return
        with torch.no_grad():
            for name, parameter in parameters.items():
                old = self._start[name]
                if old.shape != parameter.shape:
                    raise UsageError(
                        f"'{self.name}' averages whole weights, and FSDP and DeepSpeed spread each "
                        "over the processes; run it in one process or under DDP."
                    )
                parameter.lerp_(old.to(parameter.device, parameter.dtype), self.beta)


def moments(steps: int, period: float) -> frozenset[int]:
    """The steps, from 1, after which is averaged: every ``period * steps``, and the last."""
    each = max(1.0, period * steps)
    return frozenset({steps, *(round(j * each) for j in range(1, int(steps / each + 1e-9) + 1))})
