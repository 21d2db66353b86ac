"""Synaptic intelligence: how much each weight did for the loss on the way that it went.

No torch until a step is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from holdfast.carried import Ended, State
from holdfast.pieces.anchors import Quadratic

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(kw_only=True)
class PathIntegral(Quadratic):
    """weight * sum_i Omega_i (w_i - w*_i)^2, and the importances gathered while a stage trains.

        omega_i = sum over steps of -g_i * d_i,    Omega_i += omega_i / (D_i^2 + damping)

    Zenke, Poole and Ganguli 2017, equations 3 to 5. g is the gradient of the loss without this
    term, before clipping; d is what the weight really moved in the step, so that momentum,
    Adam's scaling, clipping and decoupled weight decay are in it; D is the sum of the moves of
    the stage. sum_i omega_i is then, to first order, by how much the stage lowered its loss.
    The anchor w* are the weights that the stage was settled with.

    One object is a term and an update of the same plan. Held beside the importances: two
    numbers per trained weight, and two more during a step.

    Args:
        damping: the paper's xi; what a weight that hardly moved is divided by.
        clamp: Omega is never negative, as in the authors' code; False: as the equations say.
    """

    kind: Literal["outputs"] = field(default="outputs", init=False, repr=False)  # nothing is read
    combine: Literal["latest"] = field(default="latest", init=False, repr=False)
    half: float = field(default=1.0, init=False, repr=False)
    damping: float = 1e-3
    clamp: bool = True
    name: str = "si"
    path: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    """omega of this stage, by weight, float32."""
    moved: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    """D of this stage."""
    _here: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)
    """Weight and gradient before the step."""

    def before_step(self, parameters: Mapping[str, Tensor]) -> None:
        import torch

        with torch.no_grad():
            for name, weight in parameters.items():
                if weight.grad is not None:
                    own = self._pull(name, weight)
                    self._here[name] = weight.detach().clone(), weight.grad.float() - own

    def after_step(self, parameters: Mapping[str, Tensor]) -> None:
        for name, (was, gradient) in self._here.items():
            move = parameters[name].detach().float() - was.float()
            for held, value in ((self.path, -gradient * move), (self.moved, move)):
                held[name] = held[name].to(value.device) + value if name in held else value
        self._here = {}

    def _pull(self, name: str, weight: Tensor) -> Tensor | float:
        """The gradient of this term, which the loss of the stage has no part in."""
        if name not in self.importances:
            return 0.0
        importance, centre = self._on(weight.device, name)
        return 2 * self.weight * self.half * importance * (weight.detach().float() - centre)

    def state(self) -> State:
        held = {f"path/{n}": v for n, v in self.path.items()}
        return held | {f"moved/{n}": v for n, v in self.moved.items()}

    def load(self, state: State) -> None:
        for key, value in state.items():
            kind, _, name = key.partition("/")
            (self.path if kind == "path" else self.moved)[name] = value

    def keep(self, ended: Ended) -> dict[str, Tensor]:
        """Importances, and the weights that they are of."""
        new = {
            n: (v / (self.moved[n].square() + self.damping)).double().cpu()
            for n, v in self.path.items()
        }
        weights = dict(ended.model.named_parameters())
        held = self.joined(new, {n: weights[n].detach().double().cpu() for n in new})
        if self.clamp:
            for name in new:
                held[f"importance/{name}"].clamp_(min=0)
        return held
