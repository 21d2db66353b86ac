"""Merges of tuned models, weight by weight: pure functions of the base's value and the others'.

A task vector is what tuning changed: tau_i = theta_i - theta_0 (Ilharco et al. 2023). All
arithmetic is in float32 (float64 for float64 weights).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol, Self

from holdfast.errors import UsageError

if TYPE_CHECKING:
    from torch import Generator, Tensor

Values = Callable[[str], tuple["Tensor", Sequence["Tensor"]]]
"""By a weight's name: its value in the base, and in each of the other models."""
Rescale = Literal["density", "l1", "none"]
Trim = Literal["model", "tensor", "code_compat"]
Average = Literal["weights", "peft_compat", "mergekit_compat"]
COLLINEAR = 0.9995
"""|cos| above which SLERP is linear."""
NOTHING = 1e-8
"""The length up to which a weight has no direction."""


class Merge(Protocol):
    """One model out of several."""

    def survey(self, names: Sequence[str], read: Values) -> Self:
        """The same, knowing what it has to know of all weights together."""
        ...

    def __call__(self, name: str, base: Tensor, models: Sequence[Tensor]) -> Tensor:
        """A weight of the merged model, in float32 (float64 for float64 weights)."""
        ...


def precise(*tensors: Tensor) -> list[Tensor]:
    """The same values, in float32 or float64."""
    import torch

    wide = torch.float32
    for tensor in tensors:
        wide = torch.promote_types(wide, tensor.dtype)
    return [tensor.to(wide) for tensor in tensors]


def soup(models: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """sum_i w_i theta_i (Wortsman et al. 2022; Xiao et al. 2023). Equal models stay as they are.

    Args:
        weights: they sum to 1; equal ones unless given.

    Raises:
        UsageError: they do not sum to 1, or are not as many as the models.
    """
    import torch

    shares = check_shares(weights, len(models))
    first, *others = every = precise(*models)
    if 1 in shares:
        return every[shares.index(1)].clone()
    moved = torch.zeros_like(first)
    for share, other in zip(shares[1:], others, strict=True):
        moved += share * (other - first)
    return torch.where(moved == 0, first, first + moved)  # -0.0 + 0.0 would be 0.0


def check_shares(weights: Sequence[float] | None, count: int) -> list[float]:
    """``weights``, or equal ones. Raises :class:`UsageError` unless ``count`` that sum to 1."""
    shares = [1 / count] * count if weights is None else list(weights)
    if len(shares) != count or abs(sum(shares) - 1) > 1e-6:
        raise UsageError(
            f"the weights {', '.join(f'{s:g}' for s in shares)} are {len(shares)} and sum to "
            f"{sum(shares):g}; an average of {count} models needs {count} that sum to 1."
        )
    return shares


def largest(delta: Tensor, density: float) -> Tensor:
    """``delta`` with all but its int(density * n) entries of largest size set to 0."""
    import torch

    if density >= 1:
        return delta
    size = delta.abs().flatten()
    kept = torch.zeros_like(size, dtype=torch.bool)
    kept[size.topk(int(density * size.numel()), sorted=False).indices] = True
    return torch.where(kept.view_as(delta), delta, 0)


def dropped(
    delta: Tensor, drop: float, generator: Generator, rescale: Rescale = "density"
) -> Tensor:
    """``delta`` with each entry set to 0 with probability ``drop`` (Yu et al. 2024, DARE).

    The rest is divided by 1 - drop, so that the mean over draws is ``delta``; or scaled to the
    sum of sizes that all entries had (``l1``, as mergekit does); or left.
    """
    import torch

    if drop == 0:
        return delta
    draw = torch.rand(delta.shape, generator=generator, dtype=torch.float32)
    left = torch.where((draw >= drop).to(delta.device), delta, 0)
    if rescale == "density":
        return left / (1 - drop)
    rest = left.abs().sum()
    if rescale == "l1" and rest > 0:
        return left * (delta.abs().sum() / rest)
    return left


def elect(deltas: Tensor, tied: float = 1.0) -> Tensor:
    """The sign of the sum over models [...] of task vectors [models, ...]; ``tied`` where 0."""
    import torch

    signs = deltas.sum(0).sign()
    return torch.where(signs == 0, tied, signs)


def disjoint_mean(
    deltas: Tensor, weights: Tensor, tied: float = 1.0, average: Average = "weights"
) -> Tensor:
    """The mean over the models whose entry has the elected sign; 0 where none has.

    Args:
        deltas: [models, ...] task vectors.
        weights: [models].
        tied: see :func:`elect`.
        average: ``weights``: the weighted entries elect, and their sum is divided by the weights
            of those that agree, as in mergekit's TIES; ``peft_compat``: entries elect before
            they are weighted, and the divisor is how many agree; ``mergekit_compat``: as
            ``weights``, and nothing is divided by, as in its DARE-TIES. All weights 1: the
            first two are one.
    """
    import torch

    shares = weights.view(-1, *[1] * (deltas.dim() - 1))
    weighted = deltas * shares
    voting = deltas if average == "peft_compat" else weighted
    agree = (voting.sign() == elect(voting, tied)).to(deltas.dtype)
    total = (weighted * agree).sum(0)
    if average == "mergekit_compat":
        return total
    counted = (agree if average == "peft_compat" else agree * shares).sum(0)
    return total / torch.where(counted == 0, 1, counted)


def slerp(one: Tensor, two: Tensor, t: float) -> Tensor:
    """The point at ``t`` on the arc between two weights (Shoemake 1985).

        sin((1 - t) phi) / sin(phi) * one + sin(t phi) / sin(phi) * two

    phi is the angle between the flattened weights, which themselves are not normalised; where
    |cos phi| > 0.9995 the point lies on the line instead. Weights of no length are at a right
    angle to all others, as in mergekit. 0 and 1 give the ends, to the bit.
    """
    import torch

    first, second = precise(one, two)
    if t in (0, 1):
        return (second if t else first).clone()
    cosine = float(_direction(first) @ _direction(second).to(first.device))
    if abs(cosine) > COLLINEAR:
        return torch.where(first == second, first, torch.lerp(first, second, t))
    phi = torch.arccos(torch.tensor(cosine, dtype=first.dtype))
    share = torch.sin((1 - t) * phi) / torch.sin(phi), torch.sin(t * phi) / torch.sin(phi)
    return share[0].to(first.device) * first + share[1].to(first.device) * second


def _direction(weight: Tensor) -> Tensor:
    """Flattened, of length 1; before a product, which of large entries would overflow."""
    length = weight.norm()
    return weight.flatten() / length if length > NOTHING else weight.flatten()


@dataclass(frozen=True, kw_only=True)
class Soup:
    """:func:`soup` of the models, the base not among them unless ``base`` is its weight."""

    weights: tuple[float, ...] | None = None
    base: float | None = None

    def survey(self, names: Sequence[str], read: Values) -> Self:
        return self

    def __call__(self, name: str, base: Tensor, models: Sequence[Tensor]) -> Tensor:
        if self.base is None:
            return soup(models, self.weights)
        return soup([base, *models], [self.base, *(self.weights or ())])


@dataclass(frozen=True, kw_only=True)
class Slerp:
    """:func:`slerp` between two models, or between the base and one."""

    t: float = 0.5

    def survey(self, names: Sequence[str], read: Values) -> Self:
        return self

    def __call__(self, name: str, base: Tensor, models: Sequence[Tensor]) -> Tensor:
        ends = [base, *models] if len(models) == 1 else list(models)
        if len(ends) != 2:
            raise UsageError(f"slerp lies between two models, and {len(ends)} were given.")
        return slerp(ends[0], ends[1], self.t)


@dataclass(frozen=True, kw_only=True)
class TaskVectors:
    """theta_0 + scale * (a combination of sparsified task vectors).

    ``elect=False``: sum_i w_i tau_i (task arithmetic, Ilharco et al. 2023). ``elect=True``: the
    entries whose sign is that of their sum, averaged (TIES, Yadav et al. 2023). Before that each
    tau_i keeps its ``density`` share of largest entries, and loses entries at random with
    probability ``drop`` (DARE, Yu et al. 2024).
    """

    weights: tuple[float, ...] | None = None
    """One for each model; 1 unless given."""
    scale: float = 1.0
    density: float = 1.0
    trim: Trim = "model"
    """The largest entries of the whole task vector, as in the paper's code; or of each tensor, as
    PEFT and mergekit have it; ``code_compat`` is ``model`` with one entry more, which that code
    keeps. Where the models' entries cancel to exactly 0 the majority of all signs decides, and
    with ``tensor`` +."""
    elect: bool = False
    average: Average = "weights"
    """Of the entries that agree, see :func:`disjoint_mean`."""
    drop: float = 0.0
    rescale: Rescale = "density"
    seed: int = 0
    bounds: tuple[float, ...] | None = field(default=None, repr=False)
    """For each model, the size of the smallest entry that it keeps; known after the survey."""
    tied: float = 1.0

    def survey(self, names: Sequence[str], read: Values) -> Self:
        """Finds what a trim of the whole model keeps, and the majority of signs."""
        if self.trim == "tensor" or not names:
            return self
        known = self
        if self.density < 1:
            count = len(read(names[0])[1])
            sizes: list[Callable[[], Iterable[Tensor]]] = [
                lambda i=i: (self._deltas(n, *read(n))[i].abs() for n in names)  # type: ignore[misc]
                for i in range(count)
            ]
            more = int(self.trim == "code_compat")
            found = tuple(threshold(each, self.density, more) for each in sizes)
            known = replace(self, bounds=found)
        if not self.elect:
            return known
        signs = (known._votes(n, *read(n)).sum(0).sign().sum().item() for n in names)
        return replace(known, tied=1.0 if sum(signs) > 0 else -1.0)

    def __call__(self, name: str, base: Tensor, models: Sequence[Tensor]) -> Tensor:
        import torch

        start, *others = precise(base, *models)
        if self._is_one(others):
            return others[0].clone()
        deltas = self._sparse(name, base, models)
        shares = deltas.new_tensor(self._shares(len(models)))
        if self.elect:
            mixed = disjoint_mean(deltas, shares, self.tied, self.average)
        else:
            mixed = (deltas * shares.view(-1, *[1] * base.dim())).sum(0)
        change = self.scale * mixed
        return torch.where(change == 0, start, start + change)  # -0.0 + 0.0 would be 0.0

    def _is_one(self, models: Sequence[Tensor]) -> bool:
        """One whole task vector: base + (tuned - base) would lose the last bit."""
        share = self._shares(len(models))[0]
        whole = self.density >= 1 and self.drop == 0
        mean = self.elect and self.average == "weights" and share != 0
        return len(models) == 1 and whole and self.scale * (1 if mean else share) == 1

    def _shares(self, count: int) -> tuple[float, ...]:
        shares = self.weights if self.weights is not None else (1.0,) * count
        if len(shares) != count:
            raise UsageError(f"{len(shares)} weights were given for {count} models.")
        return shares

    def _deltas(self, name: str, base: Tensor, models: Sequence[Tensor]) -> list[Tensor]:
        start, *others = precise(base, *models)
        return [
            dropped(other - start, self.drop, generator(f"{self.seed} {i} {name}"), self.rescale)
            for i, other in enumerate(others)
        ]

    def _sparse(self, name: str, base: Tensor, models: Sequence[Tensor]) -> Tensor:
        """[models, ...]: sparsified."""
        import torch

        found = []
        for i, delta in enumerate(self._deltas(name, base, models)):
            if self.bounds is not None:
                delta = torch.where(delta.abs().float() >= self.bounds[i], delta, 0)
            elif self.density < 1:
                delta = largest(delta, self.density)
            found.append(delta)
        return torch.stack(found)

    def _votes(self, name: str, base: Tensor, models: Sequence[Tensor]) -> Tensor:
        """[models, ...]: what elects the signs."""
        deltas = self._sparse(name, base, models)
        if self.average == "peft_compat":
            return deltas
        shares = deltas.new_tensor(self._shares(len(models)))
        return deltas * shares.view(-1, *[1] * base.dim())


def generator(text: str) -> Generator:
    """Random numbers that follow from a text, the same on every machine and in any order."""
    import torch

    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def threshold(sizes: Callable[[], Iterable[Tensor]], density: float, more: int = 0) -> float:
    """The size of the k-th largest of all entries, k = int(density * n) + more, without sorting.

    Sizes are counted by the upper and then by the lower half of their bits, which for numbers
    from 0 up are in the same order as the numbers: exact for float32 in two readings.

    Args:
        sizes: gives the entries from 0 up, tensor by tensor, each time it is called.

    Returns inf if k is 0.
    """
    import torch

    total = sum(int(t.numel()) for t in sizes())
    wanted = min(int(density * total) + more, total)
    if wanted == 0:
        return float("inf")

    def bits() -> Iterable[Tensor]:
        return (t.float().flatten().view(torch.int32) for t in sizes())

    upper = sum(torch.bincount(b >> 16, minlength=1 << 15) for b in bits())
    high, above = _kth(torch.as_tensor(upper), wanted)
    lower = sum(torch.bincount((b & 0xFFFF)[(b >> 16) == high], minlength=1 << 16) for b in bits())
    low, _ = _kth(torch.as_tensor(lower), wanted - above)
    return float(torch.tensor([(high << 16) | low], dtype=torch.int32).view(torch.float32))


def _kth(counts: Tensor, k: int) -> tuple[int, int]:
    """The bin of the k-th largest, and how many lie in higher bins."""
    from_top = counts.flip(0).cumsum(0)
    place = int((from_top < k).sum())
    return len(counts) - 1 - place, int(from_top[place - 1]) if place else 0
