"""What tuning did to a matrix's singular values and directions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TOP = 10
"""Leading directions of the tuned matrix that are looked at."""
SIMILAR = 0.5
"""Cosine below which none of the base's directions is like a new one."""


@dataclass(frozen=True)
class Spectrum:
    """Of one matrix [m, n], in float32."""

    spectral_change: float
    """Largest singular value of the change over that of the base."""
    singular_value_change: float
    """Length of the change of all singular values over the length of the base's."""
    stable_rank: float
    """``||D||_F^2 / ||D||_2^2`` of the change D: 1 for one direction; NaN for no change."""
    intruders: int
    """See :func:`intruder_dimensions`."""


def spectrum(base: Tensor, tuned: Tensor, *, top: int = TOP, similar: float = SIMILAR) -> Spectrum:
    """Compare two matrices [m, n]. Exact zeros if they are equal."""
    base, tuned = base.float(), tuned.float()
    apart = tuned - base
    if not bool(apart.any()):
        return Spectrum(0.0, 0.0, float("nan"), 0)
    u0, s0, _ = torch.linalg.svd(base, full_matrices=False)
    u1, s1, _ = torch.linalg.svd(tuned, full_matrices=False)
    moved = torch.linalg.svdvals(apart)
    scale = float(s0[0]) or float("nan")
    return Spectrum(
        float(moved[0]) / scale,
        float((s1 - s0).norm()) / (float(s0.norm()) or float("nan")),
        float((moved**2).sum() / moved[0] ** 2),
        intruder_dimensions(u0, u1, top=top, similar=similar),
    )


def intruder_dimensions(
    base: Tensor, tuned: Tensor, *, top: int = TOP, similar: float = SIMILAR
) -> int:
    """How many of the tuned matrix's ``top`` left singular vectors no vector of the base's is like.

    A vector is an intruder if its absolute cosine with *every* left singular vector of the base
    is below ``similar`` (Shuttleworth et al. 2024, arXiv 2410.21228, algorithm 1). Directions
    of equal singular values are not unique: where the base has many of these, vectors that
    merely turned among them count too.

    Args:
        base: [m, r] left singular vectors, one per column.
        tuned: the same, in the order of their singular values.
    """
    cosines = (base.T @ tuned[:, :top]).abs()
    return int((cosines.amax(0) < similar).sum())
