"""One coefficient per tensor, fitted on exemplars while every weight stands still."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from holdfast.changes.repair.attempts import Attempts
from holdfast.changes.repair.blend import BASE, Blend, part_key
from holdfast.changes.repair.candidates import Candidate
from holdfast.changes.repair.ranking import with_answer
from holdfast.data import Encoder, collate
from holdfast.data.records import Record
from holdfast.progress import Advance
from holdfast.tasks import Example
from holdfast.tasks.batches import asked, to_model

WEIGHTS = (1.0, 4.0, 16.0)
"""Weight of the held-out exemplars' loss beside the learned ones': one fit for each."""
EXEMPLARS = 400
"""Of both sides together; AlphaWiSE used 840."""

Encoded = Mapping[str, Tensor]


@dataclass(frozen=True)
class FitSettings:
    """How the coefficients are fitted."""

    steps: int = 80
    batch: int = 8
    """Exemplars of each side in a step."""
    rate: float = 0.25
    """Of Adam, on beta."""
    decay: float = 1e-3
    """Weight of the mean of beta squared: what the exemplars do not decide stays at a half."""
    check_every: int = 10
    patience: int = 3
    """Checks without a lower loss on the validation half, after which the fit ends."""


@dataclass(frozen=True)
class Fitted:
    """Coefficients at the lowest loss on the validation half."""

    shares: Mapping[str, float]
    """By parameter: alpha, the share of the change that is kept."""
    losses: tuple[float, ...]
    """On the validation half, at each check; the first is at alpha = 1/2."""
    steps: int
    """At which the coefficients were taken."""


@dataclass(frozen=True)
class Exemplars:
    """Encoded answers to learn from, and others to decide when to stop."""

    fit: Sequence[Encoded]
    validate: Sequence[Encoded] = field(default_factory=tuple)

    @classmethod
    def of(cls, encoder: Encoder, records: Sequence[Record], rng: random.Random) -> Exemplars:
        """Every other one of the shuffled records validates; a single one does both."""
        order = list(records)
        rng.shuffle(order)
        encoded = [encoder(r) for r in order]
        return cls(encoded[::2], encoded[1::2] or encoded[::2])


def try_coefficients(
    attempts: Attempts,
    *,
    seed: int = 0,
    weights: Sequence[float] = WEIGHTS,
    settings: FitSettings | None = None,
) -> list[Candidate]:
    """AlphaWiSE (Jain, Hu, Zhu, Liu 2026): alpha_p = sigmoid(beta_p) for every tensor p.

    The loss is cross-entropy on answers of the learned tasks, plus a weight times that on
    held-out answers that the base gets right. A weight is one point of the trade-off, so
    several are fitted. Exemplars come from the half of the examples that chooses.
    """
    rng = random.Random(seed)
    learned, held_out = _records(attempts, "learned", rng), _records(attempts, "held_out", rng)
    if not learned or not held_out:
        attempts.progress.say(
            "no coefficients: lm-eval's tasks have no exemplars to fit on; name one of another kind"
        )
        return []
    encoder = Encoder(attempts.live.loaded.processor)
    sides = Exemplars.of(encoder, learned, rng), Exemplars.of(encoder, held_out, rng)
    return [_candidate(attempts, sides, w, seed, encoder.pad_id, settings) for w in weights]


def _candidate(
    attempts: Attempts,
    sides: tuple[Exemplars, Exemplars],
    weight: float,
    seed: int,
    pad_id: int,
    settings: FitSettings | None,
) -> Candidate:
    name = f"coefficients {weight:g}"
    ends = attempts.live.ends

    def work() -> dict[str, Any]:
        attempts.live.become(BASE)
        with attempts.progress.bar(name) as advance:
            tensors = {n: ends.read(n) for n in ends.changed}
            found = fit(
                attempts.live.model,
                tensors,
                *sides,
                weight=weight,
                pad_id=pad_id,
                seed=seed,
                settings=settings,
                advance=advance,
            )
        return {"shares": found.shares, "losses": found.losses, "steps": found.steps}

    found = attempts.remember(name, work)
    shares = {part_key(p): float(found["shares"][n]) for n in ends.changed for p in ends.parts(n)}
    facts = {"weight": weight, "losses": list(found["losses"]), "steps": found["steps"]}
    return attempts.try_(name, "coefficients", Blend(1.0, shares), facts)


def fit(
    model: nn.Module,
    tensors: Mapping[str, tuple[Tensor, Tensor]],
    learned: Exemplars,
    held_out: Exemplars,
    *,
    weight: float,
    pad_id: int,
    seed: int = 0,
    settings: FitSettings | None = None,
    advance: Advance = lambda done, total: None,
) -> Fitted:
    """Fit the coefficients by Adam on beta; no weight of ``model`` moves or gets a gradient.

    Args:
        model: at the base, or anywhere: the tensors are put in its place for each forward.
        tensors: base and tuned value of each parameter that differs, by name.
        weight: of the held-out exemplars' loss.
        pad_id: any token.
    """
    how = settings or FitSettings()
    path = _Path(model, tensors)
    beta = torch.zeros(len(path.names), requires_grad=True, device=path.device)
    optimizer = torch.optim.Adam([beta], lr=how.rate)
    batches = zip(
        _batches(learned.fit, how.batch, seed), _batches(held_out.fit, how.batch, seed + 1),
        strict=False,
    )  # fmt: skip
    losses: list[float] = []
    best: tuple[float, int, Tensor] = (math.inf, 0, beta.detach().clone())
    with asked(model), torch.enable_grad():
        for step in range(how.steps + 1):
            if step % how.check_every == 0:
                value = _validation(path, beta, learned, held_out, weight, how.batch, pad_id)
                losses.append(value)
                if value < best[0]:
                    best = (value, step, beta.detach().clone())
                if not math.isfinite(value) or step - best[1] >= how.patience * how.check_every:
                    break
            one, two = next(batches)
            beta.grad = 2 * how.decay * beta.detach() / len(beta)
            for rows, scale in ((one, 1.0), (two, weight)):
                beta.grad += scale * torch.autograd.grad(path.loss(beta, rows, pad_id), beta)[0]
            optimizer.step()
            advance(step + 1, how.steps + 1)
    alpha = torch.sigmoid(best[2]).tolist()
    return Fitted(dict(zip(path.names, alpha, strict=True)), tuple(losses), best[1])


class _Path:
    """The model at any coefficients, as a function of them."""

    def __init__(self, model: nn.Module, tensors: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        parameters = dict(model.named_parameters())
        self.model, self.names = model, list(tensors)
        self.device = parameters[self.names[0]].device
        self.dtypes = [parameters[n].dtype for n in self.names]
        self.tensors = [tuple(t.to(parameters[n].device) for t in tensors[n]) for n in self.names]

    def weights(self, beta: Tensor) -> dict[str, Tensor]:
        """(1 - alpha) base + alpha tuned in float32, in the dtype of the model's weight."""
        return {
            name: torch.lerp(base.float(), tuned.float(), alpha.to(base.device)).to(dtype)
            for name, (base, tuned), alpha, dtype in zip(
                self.names, self.tensors, torch.sigmoid(beta), self.dtypes, strict=True
            )
        }

    def loss(self, beta: Tensor, rows: Sequence[Encoded], pad_id: int) -> Tensor:
        """Mean cross-entropy over the answers' tokens."""
        batch = to_model(collate(rows, pad_id=pad_id), self.model)
        out = functional_call(self.model, self.weights(beta), (), {**batch, "use_cache": False})
        loss: Tensor = out.loss.float()
        return loss


@torch.no_grad()
def _validation(
    path: _Path,
    beta: Tensor,
    learned: Exemplars,
    held_out: Exemplars,
    weight: float,
    batch: int,
    pad_id: int,
) -> float:
    total = 0.0
    for side, scale in ((learned, 1.0), (held_out, weight)):
        parts = [side.validate[i : i + batch] for i in range(0, len(side.validate), batch)]
        losses = [float(path.loss(beta, rows, pad_id)) * len(rows) for rows in parts]
        total += scale * sum(losses) / len(side.validate)
    return total


def _batches(encoded: Sequence[Encoded], size: int, seed: int) -> Iterator[list[Encoded]]:
    """Without end, each exemplar once before any comes again."""
    rng = random.Random(seed)
    order: list[int] = []
    while True:
        while len(order) < min(size, len(encoded)):
            more = list(range(len(encoded)))
            rng.shuffle(more)
            order += more
        yield [encoded[i] for i in order[:size]]
        order = order[size:]


def _records(attempts: Attempts, role: Any, rng: random.Random) -> list[Record]:
    """Exemplars of one side: its examples; of the held-out ones those that the base gets right."""
    by_task = attempts.questions.examples(role, "select")
    scores: Mapping[str, Sequence[float]] = getattr(attempts.base_scores(), role)
    right: list[Example] = []
    for task, examples in by_task.items():
        kept = [
            e for e, s in zip(examples, scores[task], strict=True) if role == "learned" or s > 0
        ]
        right += kept or examples
    rng.shuffle(right)
    return [with_answer(e) for e in right[: EXEMPLARS // 2]]
