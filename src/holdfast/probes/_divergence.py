"""How far a model's next-token distributions moved: KL both ways, JS, entropy, top-1, length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from holdfast.data.records import Record
from holdfast.measures.formulas import Array
from holdfast.measures.interval import Estimate
from holdfast.probes._contexts import Contexts, contexts, replied
from holdfast.probes._reading import Reading, read, same_vocabulary
from holdfast.probes._registry import Measure, probe
from holdfast.probes._rows import ProbeResult, ProbeRow, compared, per_token
from holdfast.tasks.room import BatchSize

NAME = "divergence"
MEASURES = {
    "forward_kl": ("nats per token", 0.0, "KL(base || tuned)"),
    "reverse_kl": ("nats per token", 0.0, "KL(tuned || base)"),
    "js": ("nats per token", 0.0, "Jensen-Shannon, at most ln 2"),
    "top1_agreement": ("share of tokens", 1.0, "both find the same token most likely"),
}


def divergences(base: Tensor, tuned: Tensor) -> Tensor:
    """[6, N] float64 from two [N, V] logits: the rows of :data:`MEASURES`, then both entropies.

    JS is the mean of KL(p || m) and KL(q || m) with m = (p + q) / 2. Tokens that both models
    rule out (logit -inf) add nothing.
    """
    log_p, log_q = base.float().log_softmax(-1), tuned.to(base.device).float().log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()
    gap = log_p - log_q
    # log(2p / (p + q)) = ln 2 - softplus(log q - log p), exactly 0 where p = q
    two = nn.functional.softplus(torch.zeros_like(gap[:1, :1]))
    half = [_weighted(p, two - nn.functional.softplus(-gap))]
    half += [_weighted(q, two - nn.functional.softplus(gap))]
    agree = (base.argmax(-1) == tuned.to(base.device).argmax(-1)).double()
    return torch.stack(
        [
            _weighted(p, gap).clamp_min(0),
            _weighted(q, -gap).clamp_min(0),
            (0.5 * (half[0] + half[1])).clamp(0, math.log(2)),
            agree,
            -_weighted(p, log_p),
            -_weighted(q, log_q),
        ]
    ).cpu()


def _weighted(p: Tensor, values: Tensor) -> Tensor:
    """[N]: sum over the vocabulary of p * values, 0 where p is."""
    return torch.where(p > 0, p * values, 0.0).sum(-1, dtype=torch.float64)


def example_sums(base: Reading, tuned: Reading) -> Array:
    """[6, n]: :func:`divergences` summed over each example's positions."""
    same_vocabulary(base.head, tuned.head)
    sums = np.zeros((6, len(base.hidden)))
    for i in range(len(base.hidden)):
        for a, b in zip(base.logits(i), tuned.logits(i), strict=True):
            sums[:, i] += divergences(a, b).sum(-1).numpy()
    return sums


def prepare(
    base: nn.Module,
    processor: Any,
    prompts: Sequence[Record],
    *,
    lengths: bool = True,
    max_new_tokens: int = 32,
    batch_size: BatchSize = "auto",
    own_head: bool = False,
) -> Measure:
    """Read the base once; see :data:`divergence`.

    Args:
        own_head: copy the base's head, if the base is the model that will be trained.
    """
    fixed = contexts(base, processor, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)
    before = read(base, fixed, batch_size=batch_size, own_head=own_head)
    lengths = lengths and not any(r.raw for r in prompts)
    written = None
    if lengths and fixed.replies:
        written = np.array(fixed.without_end().counts, dtype=float)
    elif lengths:
        written = _lengths(base, processor, prompts, max_new_tokens, batch_size)

    def measure(tuned: nn.Module) -> ProbeResult:
        sums = example_sums(before, read(tuned, fixed, batch_size=batch_size))
        rows = divergence_rows(sums, fixed)
        if written is not None:
            after = _lengths(tuned, processor, prompts, max_new_tokens, batch_size)
            rows += compared(_like("length", "tokens"), written, after, fixed.clusters)
        facts = {
            "answers": fixed.source,
            "examples": len(fixed),
            "positions": sum(fixed.counts),
            "direction": "forward is KL(base || tuned)",
        }
        return ProbeResult(NAME, tuple(rows), facts)

    return measure


def divergence_rows(sums: Array, fixed: Contexts) -> list[ProbeRow]:
    """The rows of per-example sums [6, n] over the contexts' positions."""
    counts = np.array(fixed.counts, dtype=float)
    rows = []
    for k, (name, (unit, neutral, note)) in enumerate(MEASURES.items()):
        value = per_token(sums[k], counts, fixed.clusters)
        rows.append(ProbeRow(NAME, name, "pair", value, unit, neutral, note=note))
    like = _like("entropy", "nats per token")
    for side, column in (("base", sums[4]), ("tuned", sums[5])):
        value = per_token(column, counts, fixed.clusters)
        rows.append(replace(like, side=side, estimate=value))  # type: ignore[arg-type]
    change = per_token(sums[5] - sums[4], counts, fixed.clusters)
    return [*rows, replace(like, side="change", estimate=change, neutral=0.0)]


def _like(measure: str, unit: str) -> ProbeRow:
    return ProbeRow(NAME, measure, "base", Estimate(0.0), unit)


def _lengths(
    model: nn.Module,
    processor: Any,
    prompts: Sequence[Record],
    max_new_tokens: int,
    batch_size: BatchSize,
) -> Array:
    """[n]: tokens of each greedy reply, its end not counted."""
    own = replied(model, processor, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)
    return np.array(own.without_end().counts, dtype=float)


@probe(
    NAME,
    summary="KL both ways, JS, entropy, top-1 agreement and answer length",
    paper="Shenfeld et al. 2025, arXiv 2509.04259 (forward KL on the task predicts forgetting)",
    prepare=prepare,
)
def divergence(
    base: nn.Module,
    tuned: nn.Module,
    processor: Any,
    prompts: Sequence[Record],
    *,
    lengths: bool = True,
    max_new_tokens: int = 32,
    batch_size: BatchSize = "auto",
) -> ProbeResult:
    """Next-token distributions of both models on the same contexts, exactly, over all tokens.

    Forward is KL(base || tuned), the quantity of RL's Razor (Shenfeld et al. 2025); each is a
    mean over all answer tokens, the end token included, where position t gives the distribution
    of token t + 1. The contexts are the prompts' own answers, or the base's greedy replies if
    they have none. Only hidden states are kept; logits are made a few positions at a time.

    Args:
        base, tuned: transformers models with one vocabulary.
        processor: of both.
        prompts: of the task that was taught, or held-out ones.
        lengths: let both models write too, and compare how long their replies are.
        max_new_tokens: of a reply.

    Raises:
        UsageError: no prompts, prompts with and without answers, or other vocabularies.
        DataError: a prompt cannot be encoded.
    """
    return prepare(
        base,
        processor,
        prompts,
        lengths=lengths,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
    )(tuned)
