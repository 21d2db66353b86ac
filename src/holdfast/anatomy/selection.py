"""Which parts of a model a selector means, and what that asks of its parameters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from holdfast.anatomy.parts import TOWERS, Part, RowMask, Tower
from holdfast.anatomy.selector import (
    All,
    Blocks,
    Combination,
    Named,
    Path,
    Selector,
    parse,
    printable,
)
from holdfast.errors import ModelError, SelectorError

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Selection:
    """The parts of one model that a selector means."""

    text: str
    parts: tuple[Part, ...]
    """In the order of ``model.named_parameters()``."""
    parameters: dict[str, RowMask | None] = field(repr=False)
    """Name of each parameter that is touched: None if all of it is selected, else which rows."""
    notes: tuple[str, ...] = ()
    """What a user should know: shared weights, units without a role, terms that did nothing."""

    @property
    def count(self) -> int:
        """Number of selected elements; a row-masked parameter counts with its rows."""
        return sum(p.count for p in self.parts)

    def apply(self, model: nn.Module) -> None:
        """Set ``requires_grad`` to True on the selected parameters and to False on all others.

        A parameter of which only some rows are selected requires grad as a whole: whoever
        takes the optimizer step must keep its other rows as they are (see :meth:`masks`).
        Raises :class:`holdfast.errors.ModelError` if ``model`` lacks a selected parameter.
        """
        named = dict(model.named_parameters())
        missing = [name for name in self.parameters if name not in named]
        if missing:
            raise ModelError(
                f"the selection '{self.text}' was made on another model: this one has no "
                f"parameter '{missing[0]}' ({len(missing)} of {len(self.parameters)} are missing). "
                "Select on the model that is trained."
            )
        for name, parameter in named.items():
            parameter.requires_grad_(name in self.parameters)

    def masks(self, model: nn.Module) -> dict[str, Tensor]:
        """For each parameter that is selected in part: bool, True on its selected rows.

        Each mask lies on its parameter's device and broadcasts to the parameter's shape.
        """
        named = dict(model.named_parameters())
        return {
            name: rows.mask(tuple(named[name].shape), named[name].device)
            for name, rows in self.parameters.items()
            if rows is not None
        }


def select(parts: Sequence[Part], text: str) -> Selection:
    """The parts that ``text`` means.

    Raises :class:`holdfast.errors.SelectorError` if the text is malformed, if it names blocks
    that the model does not have, or if it or one of its terms selects nothing.
    """
    resolver = _Resolver(parts, text)
    chosen = resolver.resolve(parse(text))
    if not chosen:
        raise SelectorError(
            f"the selector '{printable(text):.200}' selects nothing: what it adds, it takes "
            f"away again. {existing(parts)}"
        )
    taken = tuple(parts[i] for i in sorted(chosen))
    notes = (*resolver.notes, *_notes(taken))
    return Selection(text, taken, _parameters(parts, taken), notes)


def of_parts(parts: Sequence[Part], taken: Iterable[Part], text: str) -> Selection:
    """The selection of exactly these parts of a model, whatever they have in common.

    Args:
        parts: all of the model's.
        taken: those that are selected.
        text: what they are, in words; it need not be a selector.

    Raises :class:`holdfast.errors.SelectorError` if none is taken.
    """
    wanted = set(taken)
    chosen = tuple(p for p in parts if p in wanted)
    if not chosen:
        raise SelectorError(f"{printable(text):.200} is nothing in this model. {existing(parts)}")
    return Selection(text, chosen, _parameters(parts, chosen), tuple(_notes(chosen)))


class _Resolver:
    """Turns a parsed selector into the indices of parts."""

    def __init__(self, parts: Sequence[Part], text: str) -> None:
        self.parts, self.text = parts, text
        self.notes: list[str] = []

    def resolve(self, selector: Selector, may_be_empty: bool = False) -> frozenset[int]:
        if isinstance(selector, All):
            return frozenset(range(len(self.parts)))
        if isinstance(selector, Path):
            return self._path(selector, may_be_empty)
        if isinstance(selector, Named):
            return self._recipe(selector, may_be_empty)
        return self._combination(selector, may_be_empty)

    def _combination(self, it: Combination, may_be_empty: bool) -> frozenset[int]:
        left = self.resolve(it.left, may_be_empty)
        right = self.resolve(it.right, may_be_empty or it.operator == "-")
        if it.operator == "+":
            return left | right
        if it.operator == "&":
            return left & right
        if left and not left & right:
            self.notes.append("a term after '-' takes nothing away here.")
        return left - right

    def _recipe(self, it: Named, may_be_empty: bool) -> frozenset[int]:
        found = self.resolve(it.body, True)
        if not found and not may_be_empty:
            raise SelectorError(
                f"the recipe '{it.name:.80}' selects nothing in this model. {existing(self.parts)}"
            )
        return found

    def _path(self, it: Path, may_be_empty: bool) -> frozenset[int]:
        here = [i for i, p in enumerate(self.parts) if p.tower == it.tower]
        if not here:
            return self._nothing(it, may_be_empty, f"this model has no {it.tower} tower")
        if it.blocks is not None:
            wanted = self._range(it, it.blocks)
            here = [i for i in here if self.parts[i].block in wanted]
        if not it.units:
            return frozenset(here)
        found: set[int] = set()
        for unit in it.units:
            matches = {i for i in here if self.parts[i].plays(unit)}
            if not matches and not (unit == "mlp.gate" and "mlp.up" in it.units):
                return self._nothing(it, may_be_empty, f"it has no '{unit}' there") | found
            found |= matches
        return frozenset(found)

    def _nothing(self, it: Path, may_be_empty: bool, why: str) -> frozenset[int]:
        if may_be_empty:
            return frozenset()
        raise SelectorError(
            f"'{printable(it.text):.200}' selects nothing in this model: {why}. "
            f"{existing(self.parts)}"
        )

    def _range(self, it: Path, blocks: Blocks) -> range:
        total = blocks_of(self.parts, it.tower)
        if blocks.single:
            assert blocks.start is not None
            first = blocks.start + total if blocks.start < 0 else blocks.start
            stop = first + 1
        else:
            first, stop = (
                edge + total if edge < 0 else edge
                for edge in (
                    blocks.start if blocks.start is not None else 0,
                    blocks.stop if blocks.stop is not None else total,
                )
            )
        if not 0 <= first < stop <= total:
            raise SelectorError(
                f"'{printable(it.text):.200}' in '{printable(self.text):.200}' names blocks "
                f"that are not there: the {it.tower} tower "
                f"has {total} blocks{f', 0 to {total - 1}' if total else ''}."
            )
        return range(first, stop)


def blocks_of(parts: Iterable[Part], tower: Tower) -> int:
    """Number of blocks of a tower."""
    return 1 + max((p.block for p in parts if p.tower == tower and p.block is not None), default=-1)


def existing(parts: Iterable[Part]) -> str:
    """A sentence that lists the towers of a model with their blocks and units."""
    parts = list(parts)
    lines = []
    for tower in TOWERS:
        units = sorted({u for p in parts if p.tower == tower for u in p.units})
        if units:
            blocks = blocks_of(parts, tower)
            size = f" ({blocks} blocks)" if blocks else ""
            lines.append(f"{tower}{size}: {', '.join(units)}")
    return f"There is: {'; '.join(lines)}."


def _parameters(parts: Sequence[Part], taken: tuple[Part, ...]) -> dict[str, RowMask | None]:
    pieces: dict[str, int] = {}
    for p in parts:
        pieces[p.parameter] = pieces.get(p.parameter, 0) + 1
    chosen: dict[str, list[Part]] = {}
    for p in taken:
        chosen.setdefault(p.parameter, []).append(p)
    return {
        name: None
        if len(those) == pieces[name]
        else RowMask(tuple(p.rows for p in those if p.rows is not None))
        for name, those in chosen.items()
    }


def _notes(taken: tuple[Part, ...]) -> list[str]:
    notes = [
        f"'{p.parameter}' is tied: it is {' and '.join(p.units)} in one ({', '.join(p.aliases)})."
        for p in taken
        if p.also
    ]
    unnamed = [p for p in taken if p.unit == "other"]
    if unnamed:
        notes.append(
            f"{len(unnamed)} of the selected weights have no known role, for example "
            f"'{unnamed[0].parameter}' ({unnamed[0].reason})."
        )
    return notes
