"""Terms that keep last hidden states where a frozen model had them. No torch until one is used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from holdfast.plan import Outputs, Reference

if TYPE_CHECKING:
    from torch import Tensor


def bands(states: Iterable[Tensor], width: float = 1.0) -> tuple[Tensor, Tensor]:
    """mu - width * sigma and mu + width * sigma of each dimension, both [D] float32.

    mu and sigma are those of all N states: sigma^2 = E[h^2] - mu^2, the population variance.

    Args:
        states: pieces [n, D] that are N states together.

    Raises:
        ValueError: there is no state.
    """
    import torch

    count, mean, spread = 0, None, None
    for piece in states:
        if not len(piece):
            continue
        values = piece.detach().double()
        new = len(values)
        own_mean = values.mean(0)
        own_spread = (values - own_mean).square().sum(0)
        if mean is None or spread is None:
            mean, spread = own_mean, own_spread
        else:  # Chan, Golub and LeVeque 1979: no difference of large squares
            gap = own_mean - mean
            spread = spread + own_spread + gap.square() * count * new / (count + new)
            mean = mean + gap * new / (count + new)
        count += new
    if mean is None or spread is None:
        raise ValueError("there are no states to take thresholds from")
    sigma = torch.sqrt(spread / count)
    return (mean - width * sigma).float(), (mean + width * sigma).float()


def margin(now: Tensor, kept: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """How far each entry has left the band that it was in, [N, D] float32; 0 inside.

    kept <= low: relu(now - low); kept >= high: relu(high - now); between them:
    relu(now - high) + relu(low - now). (Zhang et al. 2025, arXiv 2508.04676, released code.)

    Args:
        now, kept: [N, D], the live and the frozen model's states.
        low, high: [D], the thresholds.
    """
    import torch

    z, h = now.float(), kept.float()
    above, below = (z - high).relu(), (low - z).relu()
    left_low, left_high = (z - low).relu(), (high - z).relu()
    return torch.where(h <= low, left_low, torch.where(h >= high, left_high, above + below))


@dataclass(kw_only=True)
class StateMargin:
    """Keeps each dimension of the states low, middle or high, as it was in the reference.

    The mean of :func:`margin` over the entries that violate it, of all positions of the step's
    examples of ``source``. Thresholds are taken once, from the reference's states on the whole
    source, before the first step.
    """

    weight: float = 100.0
    source: str = "general"
    width: float = 1.0
    """Thresholds are so many standard deviations from the mean."""
    slack: float = 1e-4
    """A state that leaves its band by no more than this share of sigma is within rounding."""
    balance: tuple[str, ...] = ()
    """Terms whose mean this one is scaled to equal at every step; none: ``weight`` counts."""
    reference: Reference | None = "base"
    name: str = "states"
    states: Literal[True] = field(default=True, init=False)
    fits: bool = field(default=False, init=False)
    _bands: tuple[Tensor, Tensor] | None = field(default=None, init=False, repr=False)

    def survey(self, states: Iterable[Tensor]) -> None:
        """Take the thresholds from the reference's states."""
        self._bands = bands(states, self.width)

    def positions(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Every token of the source's examples, the last ones too."""
        return _tokens(batch, self.source)

    def __call__(self, outputs: Outputs) -> Tensor:
        return self._violations(outputs).sum(1)

    def sizes(self, outputs: Outputs) -> Tensor:
        """[N]: the violating entries of each position."""
        return (self._violations(outputs) > 0).sum(1)

    def weigh(self, means: Mapping[str, Tensor]) -> Tensor | float:
        """``weight``, or what makes this term as large as the mean of those it is balanced with."""
        beside = [means[name] for name in self.balance if name in means]
        if not beside:
            return self.weight
        return sum(beside) / len(beside) / (means[self.name] + 1e-8)

    def _violations(self, outputs: Outputs) -> Tensor:
        import torch

        now, kept = _both(outputs)
        if not len(now):
            return now.float()
        assert self._bands is not None, "a survey comes before the first step"
        low, high = (band.to(now.device) for band in self._bands)
        found = margin(now, kept, low, high)
        return torch.where(found > self.slack * (high - low) / (2 * self.width), found, 0.0)


@dataclass(kw_only=True)
class StateDistance:
    """The mean distance of the states from the reference's: L1 or L2 (squared) per entry."""

    power: Literal[1, 2] = 1
    weight: float = 1.0
    source: str = "general"
    reference: Reference | None = "base"
    name: str = "states"
    states: Literal[True] = field(default=True, init=False)
    fits: bool = field(default=False, init=False)

    def positions(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Every token of the source's examples, the last ones too."""
        return _tokens(batch, self.source)

    def __call__(self, outputs: Outputs) -> Tensor:
        now, kept = _both(outputs)
        return (now.float() - kept.float()).abs().pow(self.power).mean(1)


def _both(outputs: Outputs) -> tuple[Tensor, Tensor]:
    """The live states and the reference's."""
    assert outputs.hidden is not None, "the engine gives the states a term asks for"
    assert outputs.reference_hidden is not None, "the engine gives the states a term asks for"
    return outputs.hidden, outputs.reference_hidden


def _tokens(batch: Mapping[str, Tensor], source: str) -> Tensor:
    import torch

    from holdfast.pieces.positions import of_source

    mask = batch.get("attention_mask")
    tokens = torch.ones_like(batch["input_ids"]) if mask is None else mask
    return of_source(tokens.bool(), batch, source)
