"""Edits of the weights when a stage ends: pure functions of named tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from holdfast.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

Anchor = Literal["previous", "base", "both"]


@dataclass(kw_only=True)
class Interpolate:
    """theta = alpha * anchor + (1 - alpha) * tuned (Wortsman et al. 2022, equation 1).

    Computed in float32 (float64 for float64 weights), then cast to the dtype of the tuned
    weight. ``alpha=0`` returns the tuned weights and ``alpha=1`` the anchor, to the bit, and
    a weight that did not move stays as it is.
    """

    alpha: float
    anchor: Anchor = "previous"
    """``previous``: the start of the stage; ``base``: of the run; ``both``: half of each."""
    name: str = "interpolate"

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise UsageError(f"alpha is the anchor's share, from 0 to 1; it was {self.alpha}.")

    def __call__(
        self, tuned: Mapping[str, Tensor], start: Mapping[str, Tensor], base: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        same_weights(tuned, {"start of the stage": start, "start of the run": base})
        return {
            name: self._between(weight, start[name], base[name]) for name, weight in tuned.items()
        }

    def _between(self, tuned: Tensor, start: Tensor, base: Tensor) -> Tensor:
        import torch

        precise = torch.promote_types(tuned.dtype, torch.float32)
        previous, first = start.to(tuned.device, precise), base.to(tuned.device, precise)
        choices = {"previous": previous, "base": first, "both": (previous + first) / 2}
        return between(tuned, choices[self.anchor], self.alpha)


def between(tuned: Tensor, anchor: Tensor, alpha: float) -> Tensor:
    """``alpha * anchor + (1 - alpha) * tuned`` in the dtype of ``tuned``, see Interpolate."""
    import torch

    precise = torch.promote_types(tuned.dtype, torch.float32)
    anchor = anchor.to(tuned.device, precise)
    if alpha in (0, 1):  # lerp would turn -0.0 into 0.0
        return (anchor if alpha else tuned).to(tuned.dtype, copy=True)
    return torch.lerp(tuned.to(precise), anchor, alpha).to(tuned.dtype)


def same_weights(tuned: Mapping[str, Tensor], others: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Raise unless every other side has exactly the names and shapes of ``tuned``.

    Raises:
        UsageError: the message has the first name or shape that differs.
    """
    for side, weights in others.items():
        differing = sorted(tuned.keys() ^ weights.keys())
        if differing:
            where = "tuned weights" if differing[0] in tuned else side
            raise UsageError(
                f"'{differing[0]}' is only among the {where}: {len(differing)} weights of the "
                f"tuned model and of the {side} have no counterpart. Both must come from one run."
            )
        for name, weight in tuned.items():
            if weight.shape != weights[name].shape:
                raise UsageError(
                    f"'{name}' has shape {tuple(weight.shape)} when tuned and "
                    f"{tuple(weights[name].shape)} at the {side}; they cannot be averaged."
                )
