"""Sums over a layer's per-example gradients, from its inputs and output gradients.

The gradient of example i's loss by a matrix is G_i = sum_t r_it c_it^T (r: its row side, c: its
column side; for y = x W^T the output gradients and the inputs). No G_i is ever kept:

    <V, G_i>   = sum_t <r_it, V c_it>
    ||G_i||^2  = sum_{t,s} <r_it, r_is> <c_it, c_is>          (T x T numbers an example)

Goodfellow 2015 (arXiv 1510.01799) for one position, Li et al. 2022 (arXiv 2110.05679, "ghost
norm") for sequences. Where T > rows * columns / (rows + columns), one G_i at a time is cheaper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PRODUCTS = 1 << 24
"""Numbers of position-by-position products that are held at once."""


@dataclass(frozen=True)
class Use:
    """One use of a matrix in a forward pass over B examples."""

    rows: Tensor
    """[B, T, R], or [B, T] integers: the rows that an embedding looked up."""
    columns: Tensor
    """[B, T, C]."""

    @property
    def looks_up(self) -> bool:
        return self.rows.dim() == 2


def dots(use: Use, v: Tensor) -> Tensor:
    """[B]: <V, G_i> for V [R, C]."""
    if use.looks_up:
        return (v[use.rows] * use.columns).sum((1, 2))
    # two dimensions: matmul would lay out v for every example where an input is not contiguous
    through = (use.columns.flatten(0, 1) @ v.T).view_as(use.rows)
    return (through * use.rows).sum((1, 2))


def squares(uses: Sequence[Use], shape: torch.Size) -> Tensor:
    """[B]: ||G_i||^2 of a matrix of ``shape`` [R, C] that was used so often."""
    rows, columns = shape
    lengths = [use.columns.shape[1] for use in uses]
    if max(lengths) * (rows + columns) > rows * columns and not any(u.looks_up for u in uses):
        return _formed(uses)
    total = uses[0].columns.new_zeros(len(uses[0].columns))
    for i, a in enumerate(uses):
        total += _inner(a, a)
        for b in uses[i + 1 :]:
            total += 2 * _inner(a, b)
    return total


def _inner(a: Use, b: Use) -> Tensor:
    """[B]: <A_i, B_i> of two gradients of one matrix."""
    count, size = len(a.columns), a.columns.shape[1] * b.columns.shape[1]
    step = max(1, PRODUCTS // max(1, size))
    parts = []
    for k in range(0, count, step):
        one, two = _cut(a, k, step), _cut(b, k, step)
        products = torch.bmm(one.columns, two.columns.transpose(1, 2))
        parts.append((products * _rows(one, two)).sum((1, 2)))
    return torch.cat(parts)


def _rows(a: Use, b: Use) -> Tensor:
    """[B, T, S]: the inner products of the row sides."""
    if a.looks_up and b.looks_up:
        return (a.rows[:, :, None] == b.rows[:, None, :]).to(a.columns.dtype)
    if a.looks_up:
        wanted = a.rows[:, None, :].expand(-1, b.rows.shape[1], -1)
        return b.rows.gather(2, wanted).transpose(1, 2)
    if b.looks_up:
        return _rows(b, a).transpose(1, 2)
    return torch.bmm(a.rows, b.rows.transpose(1, 2))


def _formed(uses: Sequence[Use]) -> Tensor:
    """[B], by forming one example's gradient at a time."""
    each = range(len(uses[0].columns))
    grads = (sum(u.rows[i].T @ u.columns[i] for u in uses) for i in each)
    return torch.stack([torch.as_tensor(g).square().sum() for g in grads])


def _cut(use: Use, start: int, step: int) -> Use:
    return Use(use.rows[start : start + step], use.columns[start : start + step])
