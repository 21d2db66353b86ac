"""Groups of changed weights that are rolled back together, named by selectors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from holdfast.anatomy.parts import Part
from holdfast.changes.repair.blend import part_key

Kind = Literal["role", "block", "cell"]


@dataclass(frozen=True)
class Group:
    """Parts of one role, of one block, or of one role's kind in one block."""

    selector: str
    """What ``holdfast anatomy`` and ``tune --train`` call it: ``language[3].mlp``."""
    kind: Kind
    keys: frozenset[str]
    """By :func:`part_key`; changed parts only."""
    block: tuple[int, str] | None = None
    """Block of the language tower, and ``attn`` or ``mlp``: what the layer probe measures."""


def roles(parts: Sequence[Part]) -> list[Group]:
    """One group for each unit of each tower (``language.mlp.down``), over all blocks."""
    return _grouped("role", ((f"{p.tower}.{p.unit}", p) for p in parts))


def blocks(parts: Sequence[Part]) -> list[Group]:
    """One group for each block of each tower (``language[3]``)."""
    return _grouped("block", ((f"{p.tower}[{p.block}]", p) for p in parts if p.block is not None))


def cells(parts: Sequence[Part]) -> list[Group]:
    """One group for attention, MLP, norms ... of each block, and for each unit outside of them."""
    inside = {(p.tower, _kind(p)) for p in parts if p.block is not None}
    return _grouped("cell", ((_cell(p, (p.tower, _kind(p)) in inside), p) for p in parts))


def rollback_groups(parts: Sequence[Part]) -> list[Group]:
    """Roles and blocks that are less than everything that changed, each set of parts once."""
    everything = frozenset(part_key(p) for p in parts)
    found: dict[frozenset[str], Group] = {}
    for group in (*roles(parts), *blocks(parts), *cells(parts)):
        if group.kind != "cell" or group.block is None:
            found.setdefault(group.keys, group)
    found.pop(everything, None)
    return list(found.values())


def _cell(part: Part, in_blocks: bool) -> str:
    """``in_blocks``: blocks have the unit too, so its bare name would mean theirs as well."""
    kind = _kind(part)
    if part.block is not None:
        return f"{part.tower}[{part.block}].{kind}"
    bare = f"{part.tower}.{kind}"
    return f"{bare} - {part.tower}[:].{kind}" if in_blocks else bare


def _kind(part: Part) -> str:
    return part.unit.split(".")[0]


def _grouped(kind: Kind, named: Iterable[tuple[str, Part]]) -> list[Group]:
    members: dict[str, list[Part]] = {}
    for name, part in named:
        members.setdefault(name, []).append(part)
    return [
        Group(
            name, kind, frozenset(part_key(p) for p in ps), _probed(ps) if kind == "cell" else None
        )
        for name, ps in members.items()
    ]


def _probed(parts: Sequence[Part]) -> tuple[int, str] | None:
    first = parts[0]
    unit = _kind(first)
    if first.tower != "language" or first.block is None or unit not in ("attn", "mlp"):
        return None
    return first.block, unit
