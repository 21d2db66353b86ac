"""Lengths in logit space without logits: ||W x||^2 = x' (W' W) x with d x d matrices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

ROWS = 8192
"""Rows of the unembedding that are worked on at one time."""


@dataclass(frozen=True)
class Gram:
    """Of a tuned unembedding W1 and a base's W0 ([V, d] each), with E = W1 - W0.

    ``||W1 x - W0 y||`` is computed as ``||W1 (x - y) + E y||``: the differences are taken
    before anything is squared, so nothing cancels when the models are near to each other.
    """

    tuned: Tensor
    """W1' W1, [d, d] float32."""
    moved: Tensor | None
    """E' E, or None if the unembedding did not move."""
    cross: Tensor | None
    """W1' E."""

    def length(self, x: Tensor, y: Tensor) -> Tensor:
        """[N] of ``||W1 x - W0 y||`` for [N, d] ``x`` and ``y``."""
        apart = x - y
        square = _quadratic(apart, self.tuned, apart)
        if self.moved is not None and self.cross is not None:
            square = square + _quadratic(y, self.moved, y) + 2 * _quadratic(apart, self.cross, y)
        return square.clamp_min(0).sqrt()

    def tuned_length(self, x: Tensor) -> Tensor:
        """[N] of ``||W1 x||``."""
        return _quadratic(x, self.tuned, x).clamp_min(0).sqrt()

    def without(self, part: Gram) -> Gram:
        """Of the rows that are not in ``part``, which is made of some of these rows."""

        def less(a: Tensor | None, b: Tensor | None) -> Tensor | None:
            return None if a is None or b is None else a - b

        return Gram(self.tuned - part.tuned, less(self.moved, part.moved),
                    less(self.cross, part.cross))  # fmt: skip


def _quadratic(x: Tensor, matrix: Tensor, y: Tensor) -> Tensor:
    return ((x @ matrix) * y).sum(-1)


def gram(
    tuned: Tensor,
    base: Tensor,
    *,
    rows: Tensor | None = None,
    tuned_scale: Tensor | None = None,
    base_scale: Tensor | None = None,
) -> Gram:
    """The Gram matrices of two unembeddings [V, d], a few thousand rows at a time in float32.

    Args:
        rows: indices of the tokens to look at; by default all.
        tuned_scale, base_scale: [d] factors of the columns (a final norm's gain).
    """
    index = torch.arange(len(tuned), device=tuned.device) if rows is None else rows.to(tuned.device)
    sums: list[Tensor] = [torch.zeros(tuned.shape[1], tuned.shape[1], device=tuned.device)] * 3
    same = True
    for part in torch.split(index, ROWS):
        one, zero = tuned[part].float(), base[part.to(base.device)].to(tuned.device).float()
        one = one if tuned_scale is None else one * tuned_scale
        zero = zero if base_scale is None else zero * base_scale
        apart = one - zero
        same = same and not bool(apart.any())
        sums = [sums[0] + one.T @ one, sums[1] + apart.T @ apart, sums[2] + one.T @ apart]
    return Gram(sums[0], *((None, None) if same else (sums[1], sums[2])))


def unembedding(head: nn.Module) -> Tensor:
    """[V, d] weights of a head, with an adapter's share if it has one."""
    module: Any = head
    if hasattr(module, "get_delta_weight"):
        weight = module.base_layer.weight
        deltas = [module.get_delta_weight(name) for name in module.active_adapters]
        return torch.as_tensor(sum(deltas, start=weight)).detach()
    return torch.as_tensor(module.weight).detach()


@dataclass(frozen=True)
class FinalNorm:
    """A final norm as a linear map: ``gain * (v - mean v, if it centres) * rate_t``.

    ``rate_t`` is what the norm divides by at position t, read off the *base's* residual stream
    and kept for both models (linearised there).
    """

    gain: Tensor
    """[d] float32."""
    bias: Tensor
    """[d] float32."""
    centres: bool

    def direction(self, v: Tensor) -> Tensor:
        """[N, d] before the gain."""
        return v - v.mean(-1, keepdim=True) if self.centres else v

    def rate(self, stream: Tensor, normed: Tensor) -> Tensor:
        """[N, 1]: what the norm multiplied by, given its input and output [N, d]."""
        flat = self.gain * self.direction(stream)
        wanted = normed - self.bias
        length = (flat * flat).sum(-1, keepdim=True).clamp_min(1e-30)
        return (wanted * flat).sum(-1, keepdim=True) / length


def final_norm(norm: Callable[[Tensor], Tensor], size: int, like: Tensor) -> FinalNorm:
    """Found by trying: an input of +1 and -1 in turn has mean 0 and length 1 per element.

    Args:
        norm: RMS or layer norm over the last dimension of ``size`` elements (even).
        like: any tensor of its dtype and device.
    """
    signs = torch.ones(1, size, dtype=like.dtype, device=like.device)
    signs[:, 1::2] = -1
    bias = norm(torch.zeros_like(signs)).float()
    plain = norm(signs).float()
    gain = (plain - bias) * signs.float()
    moved = (norm(signs + 3).float() - plain).abs().max()
    return FinalNorm(gain[0], bias[0], bool(moved < 0.01 * plain.abs().max()))
