"""What a benchmark found: checks that both sides agree, then ratios with their goals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks._measure import UNSTEADY, Timing

Quantity = Literal["FLOPs", "saved bytes", "bytes", "time", "speed", "share"]


class Unequal(AssertionError):
    """Two sides that should compute the same do not: nothing of them may be compared."""


@dataclass(frozen=True)
class Check:
    """Two sides computed the same numbers, up to rounding."""

    what: str
    error: float
    tolerance: float

    @classmethod
    def close(cls, what: str, ours: Any, theirs: Any, tolerance: float) -> Check:
        """The largest difference relative to the largest number. Raises :class:`Unequal`.

        ``ours``, ``theirs``: numbers, tensors, or sequences of them, of equal shapes.
        """
        pairs = list(zip(_tensors(ours), _tensors(theirs), strict=True))
        scale = max((float(b.abs().max()) for _, b in pairs if b.numel()), default=1.0) or 1.0
        error = max((float((a - b).abs().max()) for a, b in pairs if a.numel()), default=0.0)
        return cls._of(what, error / scale, tolerance)

    @classmethod
    def same(cls, what: str, ours: Sequence[object], theirs: Sequence[object]) -> Check:
        """Answer for answer the same; the error is the share that differs."""
        differ = sum(a != b for a, b in zip(ours, theirs, strict=True))
        return cls._of(what, differ / max(1, len(ours)), 0.0)

    @classmethod
    def _of(cls, what: str, error: float, tolerance: float) -> Check:
        if not error <= tolerance:
            raise Unequal(f"{what}: off by {error:.3g}, and {tolerance:.3g} is allowed")
        return cls(what, error, tolerance)


@dataclass(frozen=True)
class Goal:
    """A ratio is to be at most or at least this, or 1 within this."""

    limit: float
    side: Literal["most", "least", "within"] = "most"

    def met(self, ratio: float) -> bool:
        if self.side == "within":
            return abs(ratio - 1) <= self.limit
        return ratio <= self.limit if self.side == "most" else ratio >= self.limit

    def __str__(self) -> str:
        return {"most": "≤ ", "least": "≥ ", "within": "1 ± "}[self.side] + f"{self.limit:g}"


@dataclass(frozen=True)
class Row:
    """One ratio."""

    what: str
    baseline: str
    quantity: Quantity
    ours: float
    """Absolute, in ``unit``; a median for time."""
    theirs: float
    unit: str
    ratio: float
    interval: tuple[float, float] | None = None
    """95% bootstrap interval of a timed ratio."""
    predicted: float | None = None
    """The ratio that a formula gives, worked out before measuring."""
    goal: Goal | None = None
    steady: bool = True
    """False: the machine was busy, and the ratio is not to be believed."""
    note: str = ""
    least: tuple[float, float] | None = None
    """The fastest turn of each side."""

    @property
    def verdict(self) -> str:
        if not self.steady:
            return "discarded: unsteady"
        if self.goal is None:
            return ""
        if self.goal.met(self.ratio):
            return "met"
        off = self.ratio - 1 if self.goal.side == "within" else self.ratio / self.goal.limit - 1
        return f"missed by {abs(off):.0%}"

    @classmethod
    def counted(
        cls, what: str, baseline: str, quantity: Quantity, ours: float, theirs: float,
        unit: str, **more: Any,
    ) -> Row:  # fmt: skip
        """A ratio of exact counts."""
        return cls(what, baseline, quantity, ours, theirs, unit, ours / theirs, **more)

    @classmethod
    def timed(
        cls, what: str, baseline: str, timing: Timing, ours: str, theirs: str,
        *, per: int = 1, unit: str = "s", **more: Any,
    ) -> Row:  # fmt: skip
        """Time of ours over time of theirs; ``per``: units of work in a turn."""
        ratio, low, high = timing.ratio(ours, theirs)
        return cls(
            what, baseline, "time", timing.median(ours) / per, timing.median(theirs) / per,
            unit, ratio, (low, high), steady=timing.spread(ours, theirs) <= UNSTEADY,
            least=(timing.least(ours) / per, timing.least(theirs) / per), **more,
        )  # fmt: skip

    @classmethod
    def faster(
        cls, what: str, baseline: str, timing: Timing, ours: str, theirs: str,
        *, work: int, unit: str, **more: Any,
    ) -> Row:  # fmt: skip
        """How many times the baseline's rate; ``work``: items in a turn, of ``unit`` (items/s)."""
        ratio, low, high = timing.ratio(theirs, ours)
        return cls(
            what, baseline, "speed", work / timing.median(ours), work / timing.median(theirs),
            unit, ratio, (low, high), steady=timing.spread(ours, theirs) <= UNSTEADY,
            least=(work / timing.least(ours), work / timing.least(theirs)), **more,
        )  # fmt: skip


@dataclass
class Section:
    """One comparison's part of the page."""

    title: str
    setting: str
    """What ran: model, data, batch, dtype, and who the baselines are. A paragraph."""
    checks: list[Check] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    """Why a goal is missed, what a number cannot show."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Section:
        rows = [_row(r) for r in value["rows"]]
        checks = [Check(**c) for c in value["checks"]]
        return cls(value["title"], value["setting"], checks, rows, list(value["remarks"]))


def _row(value: dict[str, Any]) -> Row:
    goal = Goal(**value["goal"]) if value["goal"] else None
    pair = {k: tuple(value[k]) if value[k] else None for k in ("interval", "least")}
    return Row(**{**value, **pair, "goal": goal})


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values.detach().double()]
    if isinstance(values, Sequence):
        return [t for v in values for t in _tensors(v)]
    return [torch.tensor(float(values), dtype=torch.float64)]
