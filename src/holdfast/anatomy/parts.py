"""What an anatomy is made of: parts, and the rows of a fused weight that a part occupies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Tower = Literal["language", "vision", "projector", "other"]
TOWERS: tuple[Tower, ...] = ("language", "vision", "projector", "other")


@dataclass(frozen=True)
class Rows:
    """A slice of one dimension of a fused weight.

    Index ``i`` of dimension ``dim`` belongs to the slice if ``start <= i mod period < stop``.
    With ``period == size`` that is one contiguous range (Phi-3's ``qkv_proj``); with
    ``period == 3 * head_dim`` it is one range per head (GPT-NeoX's ``query_key_value``);
    with ``period == 2`` it is every other row (GPT-OSS's experts).
    """

    dim: int
    size: int
    start: int
    stop: int
    period: int

    def __post_init__(self) -> None:
        assert 0 <= self.start < self.stop <= self.period, self
        assert self.size % self.period == 0, self

    @property
    def count(self) -> int:
        """Number of indices of ``dim`` in the slice."""
        return (self.stop - self.start) * (self.size // self.period)

    def __str__(self) -> str:
        span = f"{self.start}:{self.stop}"
        each = "" if self.period == self.size else f" of every {self.period}"
        return f"dim {self.dim}, {span}{each}"


@dataclass(frozen=True)
class RowMask:
    """The selected rows of a parameter that is selected in part: a union of slices."""

    rows: tuple[Rows, ...]

    def mask(self, shape: tuple[int, ...], device: torch.device | str | None = None) -> Tensor:
        """Bool tensor, True on the selected rows, broadcastable to ``shape``.

        It has the size of ``shape`` in the sliced dimension and 1 in every other.
        """
        import torch

        dim = self.rows[0].dim
        index = torch.arange(shape[dim], device=device)
        kept = torch.zeros(shape[dim], dtype=torch.bool, device=device)
        for r in self.rows:
            assert r.dim == dim, "the parts of one parameter are cut along one dimension"
            assert r.size == shape[dim], f"the mask is for size {r.size}, not {shape[dim]}"
            kept |= (index % r.period >= r.start) & (index % r.period < r.stop)
        view = [1] * len(shape)
        view[dim] = shape[dim]
        return kept.view(view)

    @property
    def share(self) -> float:
        """Selected share of the parameter's elements (the slices of an anatomy are disjoint)."""
        return sum(r.count for r in self.rows) / self.rows[0].size


@dataclass(frozen=True)
class Part:
    """One weight, or the rows of one fused weight, named by what it does."""

    tower: Tower
    block: int | None
    """Index in the tower's list of blocks, None outside of it (embeddings, final norm, head)."""
    unit: str
    """``attn.q``, ``mlp.gate``, ``norm``, ``embed``, ``head``, ``router`` ...; else ``other``."""
    parameter: str
    """Name in ``model.named_parameters()``."""
    shape: tuple[int, ...]
    """Of the whole parameter."""
    rows: Rows | None = None
    """The slice of a fused weight that this part is, or None for the whole parameter."""
    bias: bool = False
    aliases: tuple[str, ...] = ()
    """Other names of the same parameter (tied weights)."""
    also: tuple[str, ...] = ()
    """Units that the aliases play: ``("head",)`` for an embedding that is tied to the head."""
    place: str = ""
    """Where a norm stands: ``attn.in``, ``attn.out``, ``mlp.in``, ``mlp.out``, ``q``, ``k``."""
    macs: float = 0.0
    """Multiply-adds for one position of its tower, forward; 0 for norms, biases, look-ups."""
    reason: str = ""
    """For a part that no role describes: what it is, or why it could not be named."""

    @property
    def count(self) -> int:
        """Number of elements of this part."""
        total = math.prod(self.shape)
        if self.rows is None:
            return total
        return total // self.rows.size * self.rows.count

    @property
    def units(self) -> tuple[str, ...]:
        """Every unit that this part plays; more than one for tied weights."""
        return (self.unit, *self.also)

    def plays(self, unit: str) -> bool:
        """Whether ``unit`` (``attn``, ``attn.q``, ``head`` ...) names this part."""
        return any(u == unit or u.startswith(f"{unit}.") for u in self.units)
