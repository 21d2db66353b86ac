"""CorDA and LoRA-Null: which part of a weight trains follows from what its inputs look like."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from holdfast.errors import need
from holdfast.pieces.cut_out import CutOut, Factors

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(kw_only=True)
class CorDA(CutOut):
    """The last (``kpm``) or first (``ipm``) components of W, ordered by the data's covariance C.

        SVD(W C) = U S V^T,    W = U S (V^T C^-1)

    C is damped until its inverse is exact enough (Yang et al. 2024); damping, inverse and SVD
    are PEFT's.
    """

    mode: Literal["kpm", "ipm"] = "kpm"
    name: str = "corda"

    def part(self, layer: nn.Module, weight: Tensor, covariance: Tensor) -> Factors:
        need("peft", "lora")
        from peft import LoraConfig
        from peft.tuners.lora.corda import collect_eigens_for_layer

        layer.covariance_matrix = covariance
        found = collect_eigens_for_layer(layer, LoraConfig())
        del layer.covariance_matrix
        width = min(self.rank, len(found.S_WC))
        chosen = slice(0, width) if self.mode == "ipm" else slice(len(found.S_WC) - width, None)
        root = found.S_WC[chosen].sqrt()
        u, v = found.U_WC.to(root.device)[:, chosen], found.V_WC.to(root.device)[:, chosen]
        return u * root, root[:, None] * v.T


@dataclass(kw_only=True)
class Null(CutOut):
    """W on the ``rank`` directions in which the inputs vary least (Tang et al. 2026).

        C = U S U^T,  U_n its last r columns,  M = W U_n U_n^T = B A

    With ``freeze_down`` only B trains, so that inputs orthogonal to U_n give what they gave.
    """

    freeze_down: bool = False
    name: str = "lora-null"

    def part(self, layer: nn.Module, weight: Tensor, covariance: Tensor) -> Factors:
        import torch

        width = min(self.rank, *weight.shape)
        # eigenvalues ascend; in float64, because what is sought are the smallest
        directions = torch.linalg.eigh(covariance.double()).eigenvectors[:, : self.rank]
        part = weight.double() @ directions @ directions.T
        u, s, vh = torch.linalg.svd(part, full_matrices=False)
        root = s[:width].sqrt()
        return (u[:, :width] * root).float(), (root[:, None] * vh[:width]).float()

    def trainable(self, model: nn.Module) -> Iterable[str]:
        for name in super().trainable(model):
            if not (self.freeze_down and ".lora_A." in name):
                yield name
