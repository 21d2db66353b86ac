"""Terms that hold weights near where they were: L2-SP, EWC, memory-aware synapses.

No torch until one is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from holdfast.carried import Ended, State
from holdfast.plan import Reference

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.pieces.importance import Kind


@dataclass(kw_only=True)
class NearStart:
    """weight/2 sum_i (w_i - w0_i)^2 over the weights that train: L2-SP (Li et al. 2018, eq. 2).

    ``reference``: w0 is what the run began with (``base``, as the paper's pretrained weights)
    or the stage.
    """

    weight: float = 0.01
    reference: Reference = "base"
    name: str = "l2-sp"
    of_model: bool = field(default=True, init=False, repr=False)

    def __call__(self, parameters: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> Tensor:
        import torch

        squares = [(p.float() - start[n].float()).square().sum() for n, p in parameters.items()]
        return torch.stack(squares).sum() / 2


@dataclass(kw_only=True)
class Quadratic:
    """weight * half * sum_i F_i (w_i - w*_i)^2, with importances F and centres w* that it carries.

    ``combine="each"``: one such term for every earlier stage, each with its own F and w* (EWC,
    Kirkpatrick et al. 2017, equation 3). Their sum over the stages t is again of this form,

        F = sum_t F_t,   w* = sum_t F_t w_t / F,   and a constant,

    which is what is kept: one F and one centre, whatever the number of stages.
    ``combine="latest"``: F = decay * F + F_new around the weights after the latest stage (online
    EWC, Schwarz et al. 2018; memory-aware synapses with decay 1, Aljundi et al. 2018).

    Nothing is known in the first stage, and the term is 0.
    """

    weight: float
    kind: Kind = "fisher"
    combine: Literal["each", "latest"] = "each"
    decay: float = 1.0
    half: float = 0.5
    examples: int | None = 512
    """Sequences of a stage that the importances are averaged over, at most; None: all."""
    batch_size: int = 8
    """Sequences that are read at once; changes no number beyond rounding, save what is drawn."""
    batchwise: bool = False
    """See :func:`holdfast.pieces.importance.importance`; then ``batch_size`` matters."""
    name: str = "ewc"
    of_model: bool = field(default=True, init=False, repr=False)
    importances: dict[str, Tensor] = field(default_factory=dict, repr=False)
    centres: dict[str, Tensor] = field(default_factory=dict, repr=False)
    constant: float = field(default=0.0, repr=False)

    def __call__(self, parameters: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> Tensor:
        import torch

        total = torch.zeros((), device=next(iter(parameters.values())).device)
        for name, parameter in parameters.items():
            if name in self.importances:
                f, centre = self._on(parameter.device, name)
                total = total + (f * (parameter.float() - centre).square()).sum()
        return self.half * (total + self.constant)

    def _on(self, device: object, name: str) -> tuple[Tensor, Tensor]:
        """Importance and centre of a weight; they stay where they are first needed."""
        for held in (self.importances, self.centres):
            if held[name].device != device:
                held[name] = held[name].to(device)  # type: ignore[call-overload]
        return self.importances[name], self.centres[name]

    def keep(self, ended: Ended) -> dict[str, Tensor]:
        """Importances, centres and the constant, all stages taken together."""
        from holdfast.pieces.importance import importance

        new = importance(
            self.kind,
            ended.model,
            ended.weights,
            ended.batches(self.batch_size, self.examples),
            seed=ended.seed * 1000 + ended.stage,
            batchwise=self.batchwise,
        )
        weights = dict(ended.model.named_parameters())
        now = {n: weights[n].detach().double().cpu() for n in new}
        return self.joined({n: f.double().cpu() for n, f in new.items()}, now)

    def joined(
        self, importances: Mapping[str, Tensor], weights: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """What is kept once a stage with these importances has ended at these weights."""
        import torch

        old_f = {n: f.double().cpu() * self.decay for n, f in self.importances.items()}
        old_c = {n: c.double().cpu() for n, c in self.centres.items()}
        constant = self.constant
        held: dict[str, Tensor] = {}
        for name in {**old_f, **importances}:
            here = weights.get(name, old_c.get(name))
            assert here is not None, "a weight is known from this stage or an earlier one"
            new, was = (x.get(name, torch.zeros_like(here)) for x in (importances, old_f))
            total, centre = new + was, here
            if self.combine == "each" and name in old_c:
                # where nothing matters the centre is of no effect
                centre = torch.where(total > 0, (new * here + was * old_c[name]) / total, here)
                spread = (here - old_c[name]).square() * new * was / total
                constant += float(torch.where(total > 0, spread, 0.0).sum())
            held[f"importance/{name}"] = total.float()
            held[f"centre/{name}"] = centre.float()
        held["constant"] = torch.tensor([constant], dtype=torch.float64)
        return held

    def recall(self, state: State) -> Quadratic:
        def part(key: str) -> dict[str, Tensor]:
            start = f"{key}/"
            return {n.removeprefix(start): v for n, v in state.items() if n.startswith(start)}

        constant = float(state["constant"]) if state else 0.0
        return replace(
            self, importances=part("importance"), centres=part("centre"), constant=constant
        )
