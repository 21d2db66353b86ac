"""What a plan's token terms make of a pass, and of the whole optimizer step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from holdfast.engine.forward import next_labels
from holdfast.engine.recall import last_states
from holdfast.plan import TAGS, Outputs, Sized, StateTerm, Surveying, TokenTerm, Weighed, source_id

if TYPE_CHECKING:
    from torch import nn

    from holdfast.engine.drawn import Drawn
    from holdfast.engine.forward import Reference

AHEAD = 8
"""Examples in a batch of a survey."""


@dataclass(frozen=True)
class Pass:
    """One forward pass, at the union of the terms' positions."""

    inputs: Mapping[str, Any]
    """The batch with labels and :data:`holdfast.plan.TAGS`."""
    places: Sequence[Tensor]
    """[B, T] for each term."""
    logits: Tensor
    """[N, V], N positions in the union."""
    hidden: Tensor | None
    """[N, D], where a term reads states."""
    logits_of: Mapping[str, Tensor]
    """[N, V] by reference."""
    states_of: Mapping[str, Tensor]
    """[N, D] by reference."""

    def outputs(self, term: TokenTerm, place: Tensor) -> Outputs:
        """What one term reads at its own positions."""
        inside = place[torch.stack(list(self.places)).any(0)]
        labels = self.inputs["labels"]
        rows = torch.arange(len(labels), device=labels.device)[:, None].expand_as(labels)[place]
        tags = {f"{tag}s": self.inputs[tag][rows] for tag in TAGS if tag in self.inputs}
        targets = next_labels(labels)[place]
        if isinstance(term, StateTerm):
            known = self.states_of[term.reference][inside] if term.reference else None
            assert self.hidden is not None, "the engine gives the states a term asks for"
            states = {"hidden": self.hidden[inside], "reference_hidden": known}
            return Outputs(self.logits[inside], targets, rows, None, **tags, **states)
        reference = self.logits_of[term.reference][inside] if term.reference else None
        return Outputs(self.logits[inside], targets, rows, reference, **tags)

    def sums(self, terms: Sequence[TokenTerm]) -> list[tuple[Tensor, Tensor | None]]:
        """Each term's summed loss and, if its outputs decide it, the size of its mean."""
        found: list[tuple[Tensor, Tensor | None]] = []
        for term, place in zip(terms, self.places, strict=True):
            outputs = self.outputs(term, place)
            size = term.sizes(outputs).sum().detach() if isinstance(term, Sized) else None
            found.append((term(outputs).sum(), size))
        return found


class Totals(NamedTuple):
    """The sums of a whole optimizer step, over its passes and all processes."""

    losses: Tensor
    """[K], of K terms, without gradient."""
    sizes: Tensor
    """[K]: what the terms' means are over."""
    counts: Tensor
    """[K]: the terms' positions."""

    def means(self, terms: Sequence[TokenTerm]) -> dict[str, Tensor]:
        """Unweighted means by term, of the terms that had a position."""
        means, here = self.losses / self.sizes.clamp(min=1), self.counts.tolist()
        return {t.name: m for t, m, n in zip(terms, means, here, strict=True) if n}


def need_totals(terms: Sequence[TokenTerm]) -> bool:
    """Whether a term's share of the loss depends on the outputs of the whole step."""
    return any(isinstance(t, Sized | Weighed) for t in terms)


def totals(
    sums: Sequence[Sequence[tuple[Tensor, Tensor | None]]], counts: Sequence[Tensor]
) -> Totals:
    """Add up the passes of one process.

    Args:
        sums: what :meth:`Pass.sums` gave for each pass.
        counts: each term's positions in all these passes.
    """
    losses = torch.stack([torch.stack([v.detach().float() for v, _ in s]) for s in sums]).sum(0)
    sizes = []
    for k, count in enumerate(counts):
        own = [size for s in sums if (size := s[k][1]) is not None]
        sizes.append(torch.stack(own).sum() if own else count)
    return Totals(
        losses,
        torch.stack([s.to(losses) for s in sizes]),
        torch.stack([c.to(losses) for c in counts]),
    )


def wanted_references(terms: Sequence[TokenTerm], *, states: bool) -> list[str]:
    """Names of the references whose states, or else logits, some term reads."""
    mine = (t for t in terms if isinstance(t, StateTerm) == states)
    return list(dict.fromkeys(t.reference for t in mine if t.reference is not None))


def survey(
    terms: Sequence[TokenTerm], drawn: Drawn, references: Mapping[str, Reference], model: nn.Module
) -> None:
    """Show each surveying term its reference's states on all of its source."""
    for term in terms:
        looks: Any = term
        if isinstance(looks, Surveying) and looks.source in drawn.sources.sizes:
            assert term.reference is not None, "a survey is of a reference"
            looks.survey(_states(looks, drawn, references[term.reference], model))


def _states(term: Any, drawn: Drawn, reference: Reference, model: nn.Module) -> Iterator[Tensor]:
    size = drawn.sources.sizes[term.source]
    for begin in range(0, size, AHEAD):
        draws = [(term.source, i) for i in range(begin, min(begin + AHEAD, size))]
        rows = [drawn.sources.read(draw) for draw in draws]
        batch = {k: v.to(drawn.device) for k, v in dict(drawn.collate(rows)).items()}
        tagged = {**batch, "source": torch.full((len(rows),), source_id(term.source))}
        inputs = {k: v for k, v in batch.items() if k != "labels"}
        yield last_states(reference, model, inputs, term.positions(tagged))
