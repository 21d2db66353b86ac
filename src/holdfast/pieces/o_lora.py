"""Adapters whose input directions are held orthogonal to those of earlier stages' (O-LoRA)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from holdfast.carried import Ended, State
from holdfast.errors import ConfigError
from holdfast.pieces.lora import LoRA

if TYPE_CHECKING:
    from torch import Tensor, nn

_A = ".lora_A.default.weight"


@dataclass(kw_only=True)
class OLoRA(LoRA):
    """A :class:`LoRA` per stage, merged, that is a loss term too.

    The term is the overlap of its A with those of earlier stages:
    sum over layers and earlier stages t of sum_ij |(A A_t^T)_ij|, or of their squares (Wang et
    al. 2023). 0 in the first stage. An adapter that was merged computes what one that stays
    active and frozen computes.
    """

    weight: float = 0.5
    penalty: Literal["absolute", "squared"] = "absolute"
    name: str = "o-lora"
    earlier: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    """By layer, the rows of A of all earlier stages, [sum of ranks, in]."""
    _own: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stages != "merge":
            raise ConfigError("O-LoRA merges each stage's adapter before the next one.")

    def __call__(self, parameters: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> Tensor:
        """The term's value without its weight; a scalar."""
        import torch

        total = torch.zeros((), device=next(iter(parameters.values())).device)
        for name, a in parameters.items():
            rows = self.earlier.get(name.removesuffix(_A)) if name.endswith(_A) else None
            if rows is not None:
                overlap = a.float() @ rows.to(a.device, torch.float32).T
                total = (
                    total
                    + (overlap.abs() if self.penalty == "absolute" else overlap.square()).sum()
                )
        return total

    def detach(self, model: nn.Module, folder: Path | None) -> nn.Module:
        """As :meth:`LoRA.detach`; notes first this stage's A."""
        self._own = {
            name.removesuffix(_A): a.detach().float().cpu().clone()
            for name, a in model.named_parameters()
            if name.endswith(_A)
        }
        return super().detach(model, folder)

    def keep(self, ended: Ended) -> State:
        """The rows of this stage below those of the stages before."""
        import torch

        kept = dict(self.earlier)
        for layer, rows in self._own.items():
            kept[layer] = torch.cat([kept[layer].cpu(), rows]) if layer in kept else rows
        return kept

    def recall(self, state: State) -> Self:
        """The same with the rows of all stages before."""
        return replace(self, earlier=dict(state), adapters=0)


@dataclass(kw_only=True)
class AdapterNorm:
    """sum over the adapter's matrices of ||.||_2, the root of the sum of squares."""

    weight: float
    name: str = "adapter-norm"

    def __call__(self, parameters: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> Tensor:
        import torch

        norms = [p.float().norm() for name, p in parameters.items() if ".lora_" in name]
        return torch.stack(norms).sum()
