"""A model between a base and a tuned model, part by part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from holdfast.anatomy.parts import Part, RowMask
from holdfast.errors import UsageError
from holdfast.pieces.edits import between

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def part_key(part: Part) -> str:
    """A part's name in a :class:`Blend`: its parameter, and its rows if it has not all of it."""
    return part.parameter if part.rows is None else f"{part.parameter} ({part.rows})"


@dataclass(frozen=True)
class Blend:
    """How much of the change each part keeps: 0 is the base's value, 1 the tuned model's.

    theta = (1 - share) * base + share * tuned, for every part by itself.
    """

    rest: float = 1.0
    """Share of every part that ``shares`` does not name."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """By :func:`part_key`."""

    def __post_init__(self) -> None:
        wrong = [s for s in (self.rest, *self.shares.values()) if not 0 <= s <= 1]
        if wrong:
            raise UsageError(
                f"a share of {wrong[0]} was asked for; 0 is the base and 1 the tuned model."
            )

    def of(self, parts: Sequence[Part]) -> tuple[float, ...]:
        """The share of each of a parameter's parts."""
        return tuple(self.shares.get(part_key(p), self.rest) for p in parts) or (self.rest,)

    def value(
        self, base: Tensor, tuned: Tensor, parts: Sequence[Part], dtype: torch.dtype
    ) -> Tensor:
        """One parameter of the blend, computed in float32 (float64 for float64 weights).

        Args:
            base, tuned: the parameter in both models, of one shape.
            parts: of the parameter; more than one where roles are fused in it.
            dtype: of the result. Where every share is 0 or 1 the values are taken over as they
                are: to the bit, if ``dtype`` holds them.
        """
        import torch

        shares = self.of(parts)
        wide = torch.promote_types(tuned.dtype, dtype)
        mixed = {s: between(tuned.to(wide), base, 1 - s).to(dtype) for s in set(shares)}
        found = mixed[shares[0]]
        for part, share in zip(parts[1:], shares[1:], strict=False):
            if share != shares[0] and part.rows is not None:
                rows = RowMask((part.rows,)).mask(tuple(base.shape), base.device)
                found = torch.where(rows, mixed[share], found)
        return found

    def to_json(self) -> dict[str, Any]:
        """The inverse of :meth:`from_json`."""
        return {"rest": self.rest, "shares": dict(self.shares)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Blend:
        """The inverse of :meth:`to_json`."""
        return cls(float(data["rest"]), {str(k): float(v) for k, v in data["shares"].items()})


BASE, TUNED = Blend(rest=0.0), Blend(rest=1.0)
