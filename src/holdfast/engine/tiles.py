"""Cross-entropy without logits: the head in tiles, its gradients formed on the way forward.

For hidden states h [N, D], a head W [V, D] and targets y, the loss sum_n (lse(W h_n) - W_y h_n)
has the gradient (softmax(W h_n) - e_y) W for h_n and the sum of (softmax(W h_n) - e_y) h_n^T for
W. Both need the logits of one tile of positions at a time, in one buffer, so neither logits nor
probabilities are kept for the backward pass and no product runs twice; a frozen W gets no
gradient. (As Liger Kernel, Hsu et al. 2024, arXiv 2410.10989, section 3.2, does it on a GPU.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.models.head import head_of

TILE = {"cpu": 256, "cuda": 4096}
"""Positions in a tile: on a processor the buffer should stay small, a GPU wants large products."""


def plain_head(model: nn.Module) -> nn.Linear | None:
    """The model's head, if it is one matrix (with a bias or without) and nothing more."""
    head = head_of(model)
    hooked = head._forward_hooks or head._forward_pre_hooks
    return head if type(head) is nn.Linear and not hooked else None


class PlainHead:
    """Sums the cross-entropy of a model whose logits are its head's own output.

    That nothing follows the head (soft caps, scales) is seen at the first call.
    """

    def __init__(self) -> None:
        self.fits: bool | None = None
        """Whether it is so; None before the first call."""

    def loss(
        self,
        model: nn.Module,
        inner: nn.Module,
        inputs: Mapping[str, Any],
        positions: Tensor,
        targets: Tensor,
    ) -> Tensor | None:
        """The sum over ``positions`` of -log p(target), a scalar; None if it cannot be told so.

        Args:
            model: what is called (perhaps wrapped by DDP).
            inner: the model itself.
            inputs: everything but the labels.
            positions: [B, T] bool with N true entries.
            targets: [N]; -100 adds nothing.
        """
        head = plain_head(inner) if self.fits is not False else None
        if head is None:
            return None
        chance = _chance() if self.fits is None else None
        seen: list[Tensor] = []

        def choose(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
            hidden = given[0]
            seen.extend((hidden[positions], hidden[:1, :1]))
            return (seen[1], *given[1:])

        handle = head.register_forward_pre_hook(choose)
        try:
            logits = model(**inputs, use_cache=False).logits
        finally:
            handle.remove()
        if chance is not None:
            with torch.no_grad():
                self.fits = bool(torch.equal(head(seen[1]).to(logits.dtype), logits))
            if not self.fits:
                _chance(chance)  # the pass is run again in another way, with the same dropout
                return None
        loss: Tensor = _Tiled.apply(seen[0], targets, head.weight, head.bias)  # type: ignore[no-untyped-call]
        return loss


def _chance(state: tuple[Tensor, list[Tensor]] | None = None) -> tuple[Tensor, list[Tensor]]:
    """The random generators' state; ``state``: put it back."""
    cuda = torch.cuda.is_available()
    if state is not None:
        torch.set_rng_state(state[0])
        if cuda:
            torch.cuda.set_rng_state_all(state[1])
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if cuda else []


class _Tiled(torch.autograd.Function):
    """Sum of the cross-entropies of ``hidden @ weight.T + bias``."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, targets: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        wants_hidden, _, wants_weight, wants_bias = ctx.needs_input_grad
        of_hidden = torch.empty_like(hidden) if wants_hidden else None
        wide = torch.promote_types(weight.dtype, torch.float32)
        of_weight = torch.zeros_like(weight, dtype=wide) if wants_weight else None
        of_bias = None
        if bias is not None and wants_bias:
            of_bias = torch.zeros_like(bias, dtype=wide)
        total = hidden.new_zeros((), dtype=wide)
        size = TILE.get(hidden.device.type, TILE["cuda"])
        for start in range(0, len(hidden), size):
            piece, wanted = hidden[start : start + size], targets[start : start + size]
            logits = F.linear(piece, weight, bias)
            lost, error = _error(logits, wanted)
            total += lost
            error = error.to(logits.dtype)
            if of_hidden is not None:
                of_hidden[start : start + size] = error @ weight.to(logits.dtype)
            if of_weight is not None:
                _add(of_weight, error.T, piece.to(logits.dtype))
            if of_bias is not None:
                of_bias += error.sum(0)
        ctx.save_for_backward(of_hidden, of_weight, of_bias)
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        of_hidden, of_weight, of_bias = ctx.saved_tensors
        scale = grads[0]
        dtypes = of_hidden.dtype if of_hidden is not None else None, *ctx.dtypes
        scaled = [
            None if value is None else (value * scale.to(value.dtype)).to(dtype)
            for value, dtype in zip((of_hidden, of_weight, of_bias), dtypes, strict=True)
        ]
        return scaled[0], None, scaled[1], scaled[2]


def _error(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The summed loss of a tile, and softmax(logits) - onehot(target), in float32 or wider."""
    values = logits.to(torch.promote_types(logits.dtype, torch.float32))
    ignored = targets < 0
    at = targets.clamp(min=0)[:, None]
    top = values.logsumexp(dim=1, keepdim=True)
    lost = (top - values.gather(1, at)).masked_fill(ignored[:, None], 0.0).sum()
    error = values.sub_(top).exp_()
    error.scatter_add_(1, at, -torch.ones_like(top))
    if bool(ignored.any()):
        error[ignored] = 0.0
    return lost, error


def _add(total: Tensor, a: Tensor, b: Tensor) -> None:
    """``total += a @ b`` in ``total``'s dtype."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b
