"""How far the weights moved, by role; and what became of their singular directions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.anatomy.parts import Part, RowMask
from holdfast.data.records import Record
from holdfast.errors import UsageError
from holdfast.measures.interval import Estimate
from holdfast.probes._registry import probe
from holdfast.probes._rows import ProbeResult, ProbeRow
from holdfast.probes._spectrum import SIMILAR, TOP, Spectrum, spectrum
from holdfast.probes._streams import paired

NAME = "weights"
Role = tuple[str, int | None, str]
"""Tower, block and unit."""
OTHER: Role = ("other", None, "other")


@dataclass
class _Sums:
    """What is added up over the tensors of a role."""

    moved: float = 0.0
    """Sum of squares of the change."""
    held: float = 0.0
    """Sum of squares of the base."""
    changed: int = 0
    """Elements that differ."""
    count: int = 0
    spectra: list[Spectrum] = field(default_factory=list)

    def add(self, base: Tensor, tuned: Tensor) -> None:
        one, two = base.float(), tuned.float()
        self.moved += float((two - one).double().square().sum())
        self.held += float(one.double().square().sum())
        self.changed += int((one != two).sum())
        self.count += one.numel()

    def __iadd__(self, other: _Sums) -> _Sums:
        self.moved += other.moved
        self.held += other.held
        self.changed += other.changed
        self.count += other.count
        self.spectra += other.spectra
        return self


@probe(
    NAME,
    summary="how far weights moved by role, their singular values, and intruder dimensions",
    paper="Shuttleworth et al. 2024, arXiv 2410.21228 (intruder dimensions)",
    weights=True,
)
def weights(
    base: nn.Module | str | Path,
    tuned: nn.Module | str | Path,
    processor: Any = None,
    prompts: Sequence[Record] = (),
    *,
    spectral: bool = True,
    top: int = TOP,
    similar: float = SIMILAR,
) -> ProbeResult:
    """Compare weights, tensor by tensor in float32; nothing is run.

    ``relative_change`` is ``||W1 - W0||_F / ||W0||_F`` of all weights of a role, for every
    block and unit, every unit over its blocks, every tower, and the model. ``changed`` is the
    share of elements that differ. For matrices that changed: ``spectral_change`` (largest
    singular value of the change over that of the base), ``singular_value_change``,
    ``stable_rank`` of the change, and ``intruder_dimensions`` (Shuttleworth et al. 2024):
    how many of the tuned matrix's ``top`` left singular vectors have an absolute cosine below
    ``similar`` with every one of the base's.

    Args:
        base, tuned: models in memory, or names and folders (a model's, or what Holdfast saved),
            which are read tensor by tensor, so that models larger than memory can be compared.
        processor, prompts: not read.
        spectral: False leaves the singular values out, which take most of the time.
        top: directions of the tuned matrix to look at, at least 1.
        similar: between 0 and 1.

    Raises:
        ModelError: a model cannot be read, or the two are not of one architecture.
        UsageError: a setting out of its range.
    """
    if top < 1 or not 0 < similar <= 1:
        raise UsageError(f"top={top} must be at least 1, and similar={similar} in (0, 1].")
    sums: dict[Role, _Sums] = {}
    with ExitStack() as stack:
        pair = paired(base, tuned, stack)
        for name, one, two in pair:
            for role, was, now in _pieces(pair.parts.get(name, ()), one, two):
                held = sums.setdefault(role, _Sums())
                held.add(was, now)
                if spectral and _is_matrix(was, role):
                    turned = (was.mT, now.mT) if name in pair.transposed else (was, now)
                    held.spectra += _spectra(*turned, top, similar)
        facts = {"tensors": len(pair.keys), "unmatched_tensors": pair.unmatched,
                 "top": top, "similar": similar}  # fmt: skip
    rows = [row for role, found in _with_totals(sums) for row in _rows(role, found)]
    return ProbeResult(NAME, tuple(rows), facts)


def _pieces(
    parts: Sequence[Part], one: Tensor, two: Tensor
) -> Iterator[tuple[Role, Tensor, Tensor]]:
    """A tensor cut into its roles; whole if it is itself a piece of a packed weight."""
    if not parts:
        yield OTHER, one, two
        return
    if any(p.shape != tuple(one.shape) for p in parts):
        yield (parts[0].tower, parts[0].block, "+".join(p.unit for p in parts)), one, two
        return
    for part in parts:
        role = (part.tower, part.block, "+".join(part.units))
        if part.rows is None:
            yield role, one, two
            continue
        chosen = RowMask((part.rows,)).mask(tuple(one.shape)).flatten().nonzero()[:, 0]
        chosen = chosen.to(one.device)
        dim = part.rows.dim
        yield role, one.index_select(dim, chosen), two.to(one.device).index_select(dim, chosen)


def _is_matrix(weight: Tensor, role: Role) -> bool:
    """Linear maps, also stacked ones of experts; embeddings are tables and heads are wide."""
    units = role[2].split("+")
    return weight.dim() in (2, 3) and not {"embed", "norm", "other"} & set(units)


def _spectra(one: Tensor, two: Tensor, top: int, similar: float) -> list[Spectrum]:
    stacks = (one, two) if one.dim() == 3 else (one[None], two[None])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return [
        spectrum(a.to(device), b.to(device), top=top, similar=similar)
        for a, b in zip(*stacks, strict=True)
    ]


def _with_totals(sums: dict[Role, _Sums]) -> Iterator[tuple[Role, _Sums]]:
    """The roles, then units over blocks, towers, and the whole model."""
    totals: dict[Role, _Sums] = {}
    for (tower, block, unit), found in sums.items():
        wider: list[Role] = [(tower, None, ""), ("", None, "")]
        wider += [(tower, None, unit)] if block is not None else []
        for role in wider:
            totals[role] = totals.get(role, _Sums())
            totals[role] += found
    for role in totals.keys() & sums.keys():
        totals[role] += sums.pop(role)
    yield from sums.items()
    yield from totals.items()


def _rows(role: Role, found: _Sums) -> Iterator[ProbeRow]:
    def row(measure: str, value: float, unit: str, neutral: float | None, n: int) -> ProbeRow:
        return ProbeRow(
            NAME,
            measure,
            "pair",
            Estimate(value, n=n, method="all weights, no sampling"),
            unit,
            neutral,
            tower=role[0],
            block=role[1],
            part=role[2],
        )

    size = math.sqrt(found.held) if found.held else float("nan")
    change = 0.0 if found.moved == 0 else math.sqrt(found.moved) / size
    yield row("relative_change", change, "of the base's norm", 0.0, found.count)
    yield row("changed", found.changed / max(1, found.count), "share of weights", 0.0, found.count)
    if not found.spectra:
        return
    n = len(found.spectra)
    largest = max(s.spectral_change for s in found.spectra)
    yield row("spectral_change", largest, "largest over matrices", 0.0, n)
    values = [s.singular_value_change for s in found.spectra]
    yield row("singular_value_change", sum(values) / n, "mean over matrices", 0.0, n)
    ranks = [s.stable_rank for s in found.spectra if not math.isnan(s.stable_rank)]
    if ranks:
        yield row("stable_rank", sum(ranks) / len(ranks), "mean over matrices", None, len(ranks))
    yield row("intruder_dimensions", sum(s.intruders for s in found.spectra), "count", 0.0, n)
