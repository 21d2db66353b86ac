"""Bregman divergences: the one form of which replay, distillation and weight penalties are cases.

    L(theta) = CE(new) + alpha D_Phi(h_theta, z) + beta D_Psi(theta, theta_old),
    D_Phi(p, q) = Phi(p) - Phi(q) - <grad Phi(q), p - q>

Wang et al. 2024, "A Unified and General Framework for Continual Learning", equation 1. The
terms that train are direct implementations; this is what they are tested against.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Potential = Callable[[Tensor], Tensor]
"""Convex, [..., V] -> [...]: one value for each vector."""


def bregman(phi: Potential, p: Tensor, q: Tensor) -> Tensor:
    """D_phi(p, q) >= 0 for each vector, [...]; 0 where p equals q.

    Gradients flow into ``p`` and ``q``.

    Args:
        phi: differentiable at q.
        p, q: [..., V].
    """
    at = q if q.requires_grad else q.detach().requires_grad_()
    with torch.enable_grad():
        value = phi(at)
        (slope,) = torch.autograd.grad(value.sum(), at, create_graph=True)
    linear: Tensor = value + (slope * (p - at)).sum(-1)
    divergence: Tensor = phi(p) - linear
    return divergence


def squared_norm(x: Tensor) -> Tensor:
    """||x||^2: its divergence is ||p - q||^2 (dark experience replay, on logits)."""
    return x.square().sum(-1)


def negative_entropy(p: Tensor) -> Tensor:
    """sum p log p of distributions: its divergence is KL(p || q) (replay, distillation)."""
    found: Tensor = torch.special.xlogy(p, p).sum(-1)
    return found


def quadratic(weights: Tensor | float = 1.0) -> Potential:
    """x^T F x / 2 with F diagonal: its divergence is (p - q)^T F (p - q) / 2 (EWC; L2-SP for 1)."""

    def phi(x: Tensor) -> Tensor:
        value: Tensor = (weights * x.square()).sum(-1) / 2
        return value

    return phi
