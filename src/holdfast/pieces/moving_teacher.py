"""A teacher that follows the model slowly: the moving average of its trained weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from holdfast.carried import State
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(kw_only=True)
class MovingTeacher:
    """w' <- decay w' + (1 - decay) w after every optimizer step, w' = w as the stage begins.

    Mean teacher (Tarvainen and Valpola 2017, arXiv 1703.01780). Terms whose reference is ``ema``
    compare with it. It is one more copy of the trained weights, in float32 at least, in memory
    and in every checkpoint; the next stage begins a new one. decay 1 is the model as the stage
    began, 0 the model of the step before.
    """

    decay: float = 0.99
    name: str = "moving-teacher"
    teaches: Literal["ema"] = field(default="ema", init=False, repr=False)
    weights: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)
    """By name in the live model; changed in place."""
    _taken_up: bool = field(default=False, init=False, repr=False, compare=False)

    def anchor(self, parameters: Mapping[str, Tensor]) -> None:
        """The stage begins with these trained weights."""
        import torch

        self._taken_up = False
        self.weights = {
            name: p.detach().to(torch.promote_types(p.dtype, torch.float32), copy=True)
            for name, p in parameters.items()
        }

    def begin(self, step: int, steps: int) -> None:
        """The stage has ``steps`` steps, of which ``step`` are done.

        Raises:
            UsageError: some are, and the trainer's checkpoint did not hold the teacher.
        """
        if step and not self._taken_up:
            raise UsageError(
                f"the teacher of teacher=ema is the average of {step} steps that this trainer's "
                "checkpoint does not hold; use holdfast.tune, whose checkpoints do, begin the "
                "stage anew, or take a teacher that stays (teacher=stage)."
            )

    def before_step(self, parameters: Mapping[str, Tensor]) -> None:
        """Nothing."""

    def after_step(self, parameters: Mapping[str, Tensor]) -> None:
        import torch

        with torch.no_grad():
            for name, parameter in parameters.items():
                # on the device that the model has gone to since the stage began
                average = self.weights[name] = self.weights[name].to(parameter.device)
                if average.shape != parameter.shape:
                    raise UsageError(
                        "teacher=ema averages whole weights, and FSDP and DeepSpeed spread each "
                        "over the processes; run it in one process or under DDP."
                    )
                average.lerp_(parameter.detach().to(average.dtype), 1 - self.decay)

    # A killed run

    def state(self) -> State:
        return dict(self.weights)

    def load(self, state: State) -> None:
        for name, value in state.items():
            self.weights[name].copy_(value)
        self._taken_up = True
