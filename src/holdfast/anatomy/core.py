"""The anatomy of a model: all its parts, and what can be asked about them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from holdfast.anatomy import cost, naming, selection
from holdfast.anatomy.flow import Load
from holdfast.anatomy.parts import Part
from holdfast.anatomy.selection import Selection

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Group:
    """Like parts of several blocks, in one line of a table."""

    tower: str
    unit: str
    blocks: str
    """``0-27``, or '' outside of the blocks."""
    count: int
    selected: int


@dataclass(frozen=True)
class Anatomy:
    """Every weight of a model, named by its role."""

    family: str
    """``config.model_type``."""
    parts: tuple[Part, ...]
    """Together they cover every element of every parameter exactly once."""
    towers: tuple[naming.TowerPlace, ...] = field(repr=False)
    config: Any = field(repr=False)

    @property
    def count(self) -> int:
        """Number of elements of all parameters; tied weights count once."""
        return sum(p.count for p in self.parts)

    @property
    def other(self) -> tuple[Part, ...]:
        """Weights that the table has no role for. They move only if a selector covers them."""
        return tuple(p for p in self.parts if p.unit == "other")

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about what a user should know: weights without a role, loose ones."""
        loose = [p for p in self.parts if p.reason]
        by_reason: dict[str, list[Part]] = {}
        for p in loose:
            by_reason.setdefault(p.reason, []).append(p)
        return tuple(
            f"{len(parts)} {parts[0].tower}.{parts[0].unit} ({parts[0].parameter}"
            f"{', ...' if len(parts) > 1 else ''}): {reason}."
            for reason, parts in by_reason.items()
        )

    @cached_property
    def _selections(self) -> dict[str, Selection]:
        return {}

    def select(self, text: str) -> Selection:
        """The parts that a selector or recipe means.

        Raises :class:`holdfast.errors.SelectorError` if the text is malformed or selects
        nothing; the message lists what exists.
        """
        if text not in self._selections:
            self._selections[text] = selection.select(self.parts, text)
        return self._selections[text]

    def flops_ratio(self, chosen: Selection, load: Load | None = None) -> float:
        """Training FLOPs left: those of training ``chosen`` over those of training everything.

        Between 1/3 (a forward pass) and 1. ``load`` says how many positions each tower sees;
        by default one image, if the model reads images, and 256 tokens of text.
        """
        return cost.ratio(self, chosen, load)

    def memory(self, chosen: Selection) -> cost.Memory:
        """Bytes for weights, gradients and optimizer state, without activations."""
        return cost.memory(self, chosen)

    def groups(self, chosen: Iterable[Part] = ()) -> list[Group]:
        """The parts by tower and unit, in the order of the model. ``chosen`` fills ``selected``."""
        taken = set(chosen)
        rows: dict[tuple[str, str, bool], list[Part]] = {}
        for p in self.parts:
            name = "+".join(p.units)
            rows.setdefault((p.tower, name, p.block is not None), []).append(p)
        return [
            Group(
                tower,
                unit,
                _span([p.block for p in parts if p.block is not None]),
                sum(p.count for p in parts),
                sum(p.count for p in parts if p in taken),
            )
            for (tower, unit, _), parts in sorted(rows.items(), key=_order)
        ]


def anatomy(model: nn.Module | Any) -> Anatomy:
    """Name every weight of ``model``.

    Args:
        model: a ``transformers`` model on any device, also bare, PEFT-wrapped or on the meta
            device; or a configuration, of which the architecture is built on the meta device.

    Raises :class:`holdfast.errors.ModelError` for a family that is not in the table, with the
    families that are.
    """
    if not hasattr(model, "named_parameters"):
        from holdfast.anatomy.meta import build

        model = build(model)
    family, towers, parts = naming.name_parts(model)
    return Anatomy(family, tuple(parts), towers, naming.unwrap(model)[0].config)


def select(model: nn.Module | Any, text: str) -> Selection:
    """``anatomy(model).select(text)``."""
    return anatomy(model).select(text)


def _span(blocks: list[int]) -> str:
    if not blocks:
        return ""
    runs: list[list[int]] = []
    for b in sorted(set(blocks)):
        if runs and runs[-1][1] == b - 1:
            runs[-1][1] = b
        else:
            runs.append([b, b])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)


_TOWER_ORDER = ("vision", "projector", "language", "other")


def _order(row: tuple[tuple[str, str, bool], list[Part]]) -> tuple[int, bool, str]:
    tower, unit, in_block = row[0]
    return _TOWER_ORDER.index(tower), not in_block, unit
