"""The forward pass: logits at chosen positions only, from the live model or its reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from holdfast.models.head import head_sees
from holdfast.pieces import sharding

if TYPE_CHECKING:
    from collections.abc import Callable


def next_labels(labels: Tensor) -> Tensor:
    """[B, T]: the label of the token that each position predicts; -100 at the last."""
    shifted = torch.full_like(labels, -100)
    shifted[:, :-1] = labels[:, 1:]
    return shifted


def logits_at(
    model: nn.Module,
    inner: nn.Module,
    inputs: Mapping[str, Any],
    positions: Tensor,
    call: Callable[..., Any] | None = None,
    seen: list[Tensor] | None = None,
) -> Tensor:
    """[N, V] logits at ``positions`` [B, T].

    Args:
        model: what is called (perhaps wrapped by DDP).
        inner: the model itself, whose head is hooked.
        inputs: everything but the labels.
        call: how to call it; by default ``model(**inputs)``.
        seen: gets what the head reads there, [N, D].
    """
    with head_sees(inner, positions, seen):
        outputs = (call or model)(**inputs, use_cache=False)
    logits: Tensor = outputs.logits[0]
    return logits


class Reference:
    """A frozen model that shares all weights with the live one but those that move.

    Only the moving weights are kept (4 bytes each in float32), not a second model. The
    reference runs in evaluation mode (no dropout) and without gradient.

    Args:
        weights: the moving weights' values in the reference, by their names in the live model.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = dict(weights)
        self._parts: dict[str, Tensor] | None = None

    def logits(self, inner: nn.Module, inputs: Mapping[str, Any], positions: Tensor) -> Tensor:
        """[N, V] at ``positions`` [B, T]."""
        with head_sees(inner, positions):
            logits: Tensor = self.call(inner, inputs).logits[0]
        return logits

    @torch.no_grad()
    def call(self, inner: nn.Module, inputs: Mapping[str, Any]) -> Any:
        """What the reference returns for ``inputs``."""
        was_training = inner.training
        inner.eval()
        try:
            kwargs = {**inputs, "use_cache": False}
            if not any(sharding.spread(p) for p in inner.parameters()):
                return torch.func.functional_call(inner, self.weights, (), kwargs)
            if self._parts is None:
                named = dict(inner.named_parameters())
                self._parts = {n: sharding.cut(named[n], v) for n, v in self.weights.items()}
            with sharding.swapped(inner, self._parts):
                return inner(**kwargs)
        finally:
            inner.train(was_training)


class Moving(Reference):
    """One whose weights are changed in place as the live model trains, in dtypes of their own."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__({})
        self.weights = weights

    def call(self, inner: nn.Module, inputs: Mapping[str, Any]) -> Any:
        live = dict(inner.named_parameters())
        now = {n: v.to(live[n].device, live[n].dtype) for n, v in self.weights.items()}
        return Reference(now).call(inner, inputs)
