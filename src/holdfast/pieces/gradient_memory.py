"""Rehearsal by gradients: which examples are remembered, and which of them are replayed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from holdfast.carried import MEMORY, Ahead, Ended, State
from holdfast.pieces.rehearse import Place, Rehearse
from holdfast.plan import source_id

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Diverse(Rehearse):
    """Remembers examples whose gradients point in different directions.

    Aljundi et al. 2019, "Gradient based sample selection", algorithm 2 (greedy), over a stage's
    examples in batches. Departure: gradients are those of the model that the stage ended with,
    where the paper takes them as the stream passes by.

    Args:
        batch: examples that are met at once, and in one batch of the memory.
        references: batches of the memory that a new one is compared with.
    """

    batch: int = 10
    references: int = 10
    name: str = "diverse"
    scores: tuple[float, ...] = field(default=(), repr=False)
    """Of what is remembered: its largest cosine with others when it came in."""

    def keep(self, ended: Ended) -> dict[str, Tensor]:
        import torch

        drawn = random.Random(f"{ended.seed}-{ended.stage}-memory")
        stream: list[Place] = [(ended.stage, i) for i in range(len(ended.examples))]
        drawn.shuffle(stream)
        memory = Greedy(
            self.capacity, _gradient_of(ended), drawn, self.references,
            self.batch, list(self.places), list(self.scores),
        )  # fmt: skip
        for start in range(0, len(stream), self.batch):
            memory.meet(stream[start : start + self.batch])
        return {
            "places": torch.tensor(memory.places, dtype=torch.int64).reshape(-1, 2),
            "scores": torch.tensor(memory.scores, dtype=torch.float64),
            "met": torch.tensor([self.met + len(stream)]),
        }

    def recall(self, state: State) -> Diverse:
        known = super().recall(state)
        assert isinstance(known, Diverse)
        scores = tuple(state["scores"].tolist()) if state else ()
        return replace(known, scores=scores)


Gradient = Callable[[Sequence[Place]], "Tensor"]
"""Examples -> [P], the gradient of their mean loss."""


@dataclass
class Greedy:
    """GSS-Greedy: a memory that examples enter if their gradient points away from it.

    The score of an example is the largest cosine of its gradient with those of ``references``
    random batches of ``size`` examples of the memory. It fills unconditionally; its first batch
    has the scores 0.1. Once full, a batch is looked at only if its own gradient scores below 0.
    Then for each new example an old one is drawn with probability proportional to its score
    (scaled to 0..1), and gives way with probability c / (c + s), where c and s are the scores of
    the old and the new one as (cosine + 1) / 2.
    """

    capacity: int | None
    gradient: Gradient
    drawn: random.Random
    references: int = 10
    size: int = 10
    places: list[Place] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def meet(self, batch: Sequence[Place]) -> None:
        """A batch of the stream passes by."""
        room = len(batch) if self.capacity is None else self.capacity - len(self.places)
        first, rest = batch[: max(0, room)], batch[max(0, room) :]
        if first:
            others = self._references()
            self.scores += [self._score([place], others) if others else 0.1 for place in first]
            self.places += first
        if not rest:
            return
        others = self._references()
        if self._score(rest, others) >= 0:
            return
        for place, old in zip(rest, self._candidates(len(rest)), strict=False):
            new = self._score([place], others)
            c, s = (self.scores[old] + 1) / 2, (new + 1) / 2
            if self.drawn.random() < (c / (c + s) if c + s else 0.5):
                self.places[old], self.scores[old] = place, new

    def _references(self) -> list[Tensor]:
        """Gradients of random batches of the memory, the last of which may be smaller."""
        order = self.drawn.sample(self.places, len(self.places))
        starts = range(0, len(order), self.size)[: self.references]
        return [self.gradient(order[i : i + self.size]) for i in starts]

    def _score(self, places: Sequence[Place], others: Sequence[Tensor]) -> float:
        """The largest cosine between a gradient and others."""
        from torch.nn.functional import cosine_similarity

        own = self.gradient(places)
        return max(float(cosine_similarity(own, other, dim=0)) for other in others)

    def _candidates(self, count: int) -> list[int]:
        """Places that may be given up, drawn by score without repetition."""
        low, high = min(self.scores), max(self.scores)
        shares = [(c - low) / (high - low + 0.01) for c in self.scores]
        chosen: list[int] = []
        left = list(range(len(self.scores)))
        while left and len(chosen) < count:
            total = sum(shares[i] for i in left)
            one = self.drawn.choices(left, [shares[i] for i in left])[0] if total else left[0]
            left.remove(one)
            chosen.append(one)
        return chosen


def _gradient_of(ended: Ended) -> Gradient:
    """Of the mean log-likelihood of answers, over what the stage trained."""
    import torch

    from holdfast.pieces.importance import log_likelihood

    weights = [p for n, p in ended.model.named_parameters() if n in set(ended.weights)]

    def gradient(places: Sequence[Place]) -> Tensor:
        batch = ended.remembered(places)
        wanted = [p.requires_grad for p in weights]
        for p in weights:
            p.requires_grad_(True)
        try:
            with torch.enable_grad():
                loss = -log_likelihood(ended.model, batch).mean()
                found = torch.autograd.grad(loss, weights, allow_unused=True)
        finally:
            for p, was in zip(weights, wanted, strict=True):
                p.requires_grad_(was)
        return torch.cat(
            [
                (torch.zeros_like(p) if g is None else g).flatten().float()
                for p, g in zip(weights, found, strict=True)
            ]
        )

    return gradient


@dataclass(frozen=True, kw_only=True)
class Interfered(Rehearse):
    """Replays the remembered examples whose loss the coming step would raise most.

    Aljundi et al. 2019, "Online continual learning with maximal interfered retrieval": of
    ``candidates`` remembered examples those with the largest

        l(theta - eta grad L_new(theta)) - l(theta)

    are replayed, as many as ``share`` says. L_new is the plan's loss on the stage's own
    examples of the step, eta the step's learning rate or ``rate``, l an example's mean
    cross-entropy. A candidate that is not replayed has no part in the step.
    """

    candidates: int = 50
    rate: float | None = None
    name: str = "interfered"

    def counts(self, batch: int, memory: int) -> tuple[int, int]:
        own, old = super().counts(batch, memory)
        return own, max(old, min(self.candidates, memory)) if old else 0

    def replayed(self, own: int) -> int:
        """How many are replayed beside ``own`` examples of the stage."""
        share = self.share if self.extra else self.share / (1 - self.share)
        return max(1, round(share * own))

    def look_ahead(self, step: Ahead) -> None:
        """Take the candidates that interfere least out of the step."""
        import torch

        old = [b["source"] == source_id(MEMORY) for b in step.batches]
        if not any(bool(o.any()) for o in old):
            return
        rises = torch.cat([r[o.to(r.device)] for r, o in zip(self.rises(step), old, strict=True)])
        own = sum(int((~o).sum()) for o in old)
        best = torch.zeros(len(rises), dtype=torch.bool)
        best[rises.cpu().argsort(descending=True, stable=True)[: self.replayed(own)]] = True
        left = iter(best.tolist())
        for i, batch in enumerate(step.batches):
            stays = torch.tensor([next(left) if o else True for o in old[i].tolist()])
            step.batches[i] = only(batch, stays)

    def rises(self, step: Ahead) -> list[Tensor]:
        """For each pass [B]: how much the coming step would raise each row's loss."""
        import torch

        old = [b["source"] == source_id(MEMORY) for b in step.batches]
        own = [answers_of(b, ~o) for b, o in zip(step.batches, old, strict=True)]
        gradients = step.gradients(own)
        before = step.losses(step.batches)
        rate = step.rate if self.rate is None else self.rate
        values = {n: p.detach().clone() for n, p in step.parameters.items()}
        with torch.no_grad():
            for name, parameter in step.parameters.items():
                parameter -= rate * gradients[name]
            after = step.losses(step.batches)
            for name, parameter in step.parameters.items():
                parameter.copy_(values[name])
        return [a - b for a, b in zip(after, before, strict=True)]


def answers_of(batch: dict[str, Any], rows: Tensor) -> dict[str, Any]:
    """A batch in which only some rows, [B] bool, have answers to learn."""
    labels = batch["labels"]
    return {**batch, "labels": labels.masked_fill(~rows.to(labels.device)[:, None], -100)}


def only(batch: dict[str, Any], rows: Tensor) -> dict[str, Any]:
    """A batch of some of its rows, [B] bool; where entries are not one to a row (images), or no
    row is left, the others stay without an answer."""
    whole = all(len(v) == len(rows) for v in batch.values() if hasattr(v, "shape") and v.ndim)
    if not (whole and bool(rows.any())):
        return answers_of(batch, rows)
    return {
        k: v[rows.to(v.device)] if hasattr(v, "shape") and v.ndim else v for k, v in batch.items()
    }
