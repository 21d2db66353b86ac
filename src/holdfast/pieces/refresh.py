"""Refresh learning: unlearn the batch a little, then learn it. No torch until a step is taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from holdfast.carried import Ahead, Ended, State
from holdfast.plan import NEW, source_id

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.pieces.importance import Kind


@dataclass(kw_only=True)
class Refresh:
    """Before each optimizer step, ``repeats`` times

        theta <- theta + gamma (damping + F)^-1 grad L(theta) + N(0, 2 gamma (damping + F)^-1)

    with L the plan's whole loss on the step's examples and F the diagonal Fisher information
    of earlier stages: Wang et al. 2024, algorithm 1. To first order the step that follows
    descends L + (gamma / 2) g^T (damping + F)^-1 g. In the first stage F is 0.

    ``form="code"`` is what the released code does: theta + delta (v + 0.001 noise) /
    (1 + 0.001 F) with v the direction in which the plan's loss on the stage's own examples rises
    (beside ``der``, as there, their cross-entropy), scaled to each tensor's own norm.
    ``gamma=0`` and ``delta=0`` change nothing, to the bit.

    F is F * decay + F_new, read at the end of each stage on ``examples`` sequences. A weight
    whose F is not known (an adapter's) has 0.
    """

    gamma: float = 1e-7
    repeats: int = 1
    noise: bool = True
    damping: float = 1.0
    form: Literal["paper", "code"] = "paper"
    delta: float = 1e-5
    kind: Kind = "fisher"
    decay: float = 1.0
    examples: int | None = 512
    batch_size: int = 8
    name: str = "refresh"
    fisher: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def look_ahead(self, step: Ahead) -> None:
        import torch

        if not (self.gamma if self.form == "paper" else self.delta):
            return
        for _ in range(self.repeats):
            own = step.batches if self.form == "paper" else [_new_answers(b) for b in step.batches]
            gradients = step.gradients(own)
            with torch.no_grad():
                for name, parameter in step.parameters.items():
                    move = self._paper if self.form == "paper" else self._code
                    parameter += move(name, parameter, gradients[name])

    def _paper(self, name: str, parameter: Tensor, gradient: Tensor) -> Tensor:
        import torch

        inverse = 1 / (self.damping + self._fisher(name, parameter))
        move = self.gamma * inverse * gradient
        if self.noise:
            move += (2 * self.gamma * inverse).sqrt() * torch.randn_like(parameter)
        return move

    def _code(self, name: str, parameter: Tensor, gradient: Tensor) -> Tensor:
        import torch

        rise = 0.01 * gradient
        direction = rise * parameter.norm() / (rise.norm() + 1e-20)
        if self.noise:
            direction += 0.001 * torch.randn_like(parameter)
        moved: Tensor = self.delta * direction / (1 + 0.001 * self._fisher(name, parameter))
        return moved

    def _fisher(self, name: str, parameter: Tensor) -> Tensor:
        import torch

        if name not in self.fisher:
            return torch.zeros_like(parameter)
        if self.fisher[name].device != parameter.device:
            self.fisher[name] = self.fisher[name].to(parameter.device)
        return self.fisher[name].to(parameter.dtype)

    def before_step(self, parameters: Mapping[str, Tensor]) -> None:
        """Nothing: the step that follows is the plan's own."""

    def after_step(self, parameters: Mapping[str, Tensor]) -> None:
        """Nothing."""

    def keep(self, ended: Ended) -> dict[str, Tensor]:
        """The Fisher information of what the stage trained, joined with the earlier stages'."""
        from holdfast.pieces.importance import importance

        new = importance(
            self.kind,
            ended.model,
            ended.weights,
            ended.batches(self.batch_size, self.examples),
            seed=ended.seed * 1000 + ended.stage,
        )
        held = {n: self.decay * f.cpu() for n, f in self.fisher.items()}
        return held | {n: f.cpu() + held.get(n, 0.0) for n, f in new.items()}

    def recall(self, state: State) -> Refresh:
        return replace(self, fisher=dict(state))


def _new_answers(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch with answers of the stage's own examples only."""
    if "source" not in batch:
        return dict(batch)
    own = (batch["source"] == source_id(NEW)).to(batch["labels"].device)
    return {**batch, "labels": batch["labels"].masked_fill(~own[:, None], -100)}
