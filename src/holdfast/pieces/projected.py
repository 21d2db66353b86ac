"""Adapters that cannot reach a weight's largest singular directions (OPLoRA)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.errors import ConfigError
from holdfast.pieces.cut_out import only_layers
from holdfast.pieces.lora import LoRA

if TYPE_CHECKING:
    from torch import Tensor, nn

    from holdfast.anatomy import Anatomy


@dataclass(kw_only=True)
class Orthogonal(LoRA):
    """W x + s P_L B A P_R x,  P_L = I - U_k U_k^T,  P_R = I - V_k V_k^T,  W = U S V^T.

    The ``keep`` largest singular triples of W, at most half of a matrix's, are exact triples of
    W + P_L B A P_R too (Xiong and Xie 2026). They are its largest only while the change stays
    smaller than the last of them.
    """

    keep: int = 128
    name: str = "oplora"
    _spared: dict[str, tuple[Tensor, Tensor]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stages != "merge":
            raise ConfigError(f"'{self.name}' merges each stage's adapter before the next one.")

    def attach(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """As :meth:`LoRA.attach`. Raises ConfigError if the scope has packed experts."""
        from holdfast.pieces.lora_scope import scope

        only_layers(self, model, anatomy)
        paths = scope(model, anatomy, self.scope).modules
        attached = super().attach(model, anatomy)
        self._spared = {}
        if next(model.parameters()).is_meta:
            return attached
        for path in paths:
            layer: Any = attached.get_submodule(f"base_model.model.{path}")
            weight = layer.base_layer.weight.detach().float()
            u, v = largest_directions(weight.T if layer.fan_in_fan_out else weight, self.keep)
            self._spared[path] = u, v
            layer.lora_A["default"].register_forward_pre_hook(_before(v))
            layer.lora_B["default"].register_forward_hook(_after(u))
        return attached

    def detach(self, model: nn.Module, folder: Path | None) -> nn.Module:
        """Put the projections into A and B, then as :meth:`LoRA.detach`."""
        import torch

        with torch.no_grad():
            for path, (u, v) in self._spared.items():
                layer: Any = model.get_submodule(f"base_model.model.{path}")
                a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
                a.copy_(without(a, v))
                b.copy_(without(b.T, u).T)
        self._spared = {}
        return super().detach(model, folder)


def largest_directions(weight: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """U_k [out, k] and V_k [in, k] of a weight [out, in], k at most half of its smaller side."""
    import torch

    u, _, vh = torch.linalg.svd(weight, full_matrices=False)
    k = min(keep, max(1, min(weight.shape) // 2))
    return u[:, :k].contiguous(), vh[:k].T.contiguous()


def without(x: Tensor, directions: Tensor) -> Tensor:
    """x [..., d] less what lies in the span of orthonormal columns [d, k]."""
    own = directions.to(x.device, x.dtype)
    return x - (x @ own) @ own.T


def reached(change: Tensor, u: Tensor, v: Tensor) -> float:
    """rho_k = ||U_k^T dW V_k||_F^2 / ||dW||_F^2: the share of a change in the top directions."""
    return float((u.T @ change @ v).square().sum() / change.square().sum())


def _before(v: Tensor) -> Callable[..., Any]:
    return lambda layer, inputs: (without(inputs[0], v), *inputs[1:])


def _after(u: Tensor) -> Callable[..., Any]:
    return lambda layer, inputs, output: without(output, u)
