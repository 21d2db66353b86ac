"""The offset that tuning put on the logits of a class of tokens, and how to take it off again.

If nothing happened but an offset b on the class C, the tuned logits are z + b 1[v in C] (and
any constant per position, which a softmax does not see). Then b is what must be subtracted for
the class to get back, in total over the contexts, the probability that the base gave it:

    sum_t sigmoid(o_t - b) = sum_t sigmoid(o0_t),    o_t = log p_t(C) - log (1 - p_t(C)).

This b also minimises sum_t KL(base_t || softmax(tuned_t - b 1_C)): it is the condition of that
minimum. Unlike a mean difference of logits it is not moved by tokens that nobody would write.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LogitsProcessor

from holdfast.errors import UsageError
from holdfast.measures.formulas import Array
from holdfast.measures.interval import Estimate, percentile, unit_name
from holdfast.probes._contexts import Contexts
from holdfast.probes._reading import Reading, read, same_vocabulary
from holdfast.probes._token_class import TokenClass
from holdfast.tasks.room import BatchSize

RESAMPLES = 200
_STEPS = 60


@dataclass(frozen=True)
class ClassOffset:
    """What tuning added to the logits of a class."""

    token_class: TokenClass
    offset: Estimate
    """In nats; positive if the tuned model writes the class more."""
    kl_before: float
    """KL(base || tuned) over the contexts, nats per token."""
    kl_after: float
    """The same once the offset is subtracted."""
    positions: int

    @property
    def explained(self) -> float:
        """Share of the drift on these contexts that the offset alone accounts for, 0 to 1.

        NaN if there is no drift.
        """
        return 1 - self.kl_after / self.kl_before if self.kl_before > 0 else float("nan")


def class_offset(
    base: nn.Module,
    tuned: nn.Module,
    contexts: Contexts,
    token_class: TokenClass,
    *,
    batch_size: BatchSize = "auto",
) -> ClassOffset:
    """Estimate the offset of one class; see the module's text.

    Args:
        contexts: on which the class is not what is asked for (captions, held-out tasks): where
            it is, learning to answer and drifting are the same.
        token_class: its tokens; the offset is one number for all of them.

    Raises:
        UsageError: the contexts have no position, the vocabularies differ, or the class is
            empty or all of the vocabulary.
    """
    before = read(base, contexts, batch_size=batch_size)
    after = read(tuned, contexts, batch_size=batch_size)
    return offset_of(before, after, token_class, contexts.clusters)


def offset_of(
    before: Reading, after: Reading, token_class: TokenClass, clusters: Sequence[str]
) -> ClassOffset:
    """:func:`class_offset` of two readings."""
    same_vocabulary(before.head, after.head)
    chosen = token_class.within(before.head.size)
    examples = np.repeat(np.arange(len(before.hidden)), [len(h) for h in before.hidden])
    if not 0 < len(chosen.ids) < before.head.size or not len(examples):
        raise UsageError(
            f"the offset of '{chosen.name}' ({len(chosen.ids)} of {before.head.size} tokens) on "
            f"{len(examples)} positions cannot be estimated: the class must be a part of the "
            "vocabulary, and there must be a position to look at."
        )
    odds, odds_base = _log_odds(after, chosen), _log_odds(before, chosen)
    value = float(matching_offset(odds, odds_base, np.ones((1, len(odds))))[0])
    weights, units = _resampled(examples, clusters)
    drawn = matching_offset(odds, odds_base, weights)
    how = f"percentile bootstrap over {unit_name(clusters)}"
    estimate = percentile(value, drawn, n=units, method=how)
    kl = _divergence(before, after, chosen, 0.0), _divergence(before, after, chosen, value)
    return ClassOffset(chosen, estimate, kl[0], kl[1], len(examples))


def matching_offset(odds: Array, odds_base: Array, weights: Array) -> Array:
    """[R]: b with sum_t w_t sigmoid(odds_t - b) = sum_t w_t sigmoid(odds_base_t), by bisection.

    Args:
        odds, odds_base: [T] log-odds of the class, tuned and base.
        weights: [R, T], not negative.
    """
    change = odds - odds_base
    low, high = (np.full(len(weights), edge) for edge in (change.min(), change.max()))
    wanted = weights @ _sigmoid(odds_base)
    rest = weights @ _sigmoid(-odds_base)
    for _ in range(_STEPS):
        middle = 0.5 * (low + high)
        shifted = odds[None, :] - middle[:, None]
        # the smaller of the two masses tells apart what rounding to 1 would make equal
        more = (weights * _sigmoid(shifted)).sum(1) > wanted
        less_left = (weights * _sigmoid(-shifted)).sum(1) < rest
        up = np.where(wanted <= rest, more, less_left)
        low, high = np.where(up, middle, low), np.where(up, high, middle)
    return np.where(low == high, low, 0.5 * (low + high))


def _sigmoid(x: Array) -> Array:
    from scipy.special import expit

    return np.asarray(expit(x))


def _resampled(examples: np.ndarray[Any, Any], clusters: Sequence[str]) -> tuple[Array, int]:
    """[R, T] how often each position was drawn, and the number of units with a position."""
    names = [clusters[e] or str(e) for e in examples]
    index = np.unique(names, return_inverse=True)[1]
    units = int(index.max()) + 1
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(units, np.full(units, 1 / units), size=RESAMPLES)
    return drawn[:, index].astype(float), units


def _log_odds(reading: Reading, chosen: TokenClass) -> Array:
    """[T] log p(C) - log p(not C) at every position, in float64."""
    found = []
    for i in range(len(reading.hidden)):
        for logits in reading.logits(i):
            inside = chosen.index(logits.device)
            mine = logits[:, inside].double().logsumexp(-1)
            others = logits.double().index_fill(1, inside, float("-inf")).logsumexp(-1)
            found.append((mine - others).cpu())
    return torch.cat(found).numpy()


def _divergence(before: Reading, after: Reading, chosen: TokenClass, offset: float) -> float:
    """KL(base || tuned with the offset subtracted), nats per token."""
    from holdfast.probes._divergence import divergences

    total, count = 0.0, 0
    for i in range(len(before.hidden)):
        for a, b in zip(before.logits(i), after.logits(i), strict=True):
            b[:, chosen.index(b.device)] -= offset
            total += float(divergences(a, b)[0].sum())
            count += len(a)
    return total / count


class SubtractOffset(LogitsProcessor):  # type: ignore[misc]
    """For ``generate(logits_processor=[...])``: takes offsets off the logits of their classes.

    Args:
        offsets: nats by class.
    """

    def __init__(self, offsets: Mapping[TokenClass, float]) -> None:
        self.offsets = dict(offsets)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """[B, V] scores; returns new ones."""
        return subtracted(scores, self.offsets)


def subtracted(logits: Tensor, offsets: Mapping[TokenClass, float]) -> Tensor:
    """[..., V] logits with each offset subtracted from its class's tokens; a new tensor."""
    out = logits.clone()
    for chosen, offset in offsets.items():
        out[..., chosen.within(out.shape[-1]).index(out.device)] -= offset
    return out


@contextmanager
def debiased(model: nn.Module, offsets: Mapping[TokenClass, float]) -> Iterator[None]:
    """Within, every logit of ``model`` has the offsets subtracted.

    So the model generates, and finds choices likely, as if its drift were taken back: every
    task can be asked again in it. Nothing of the model's weights is changed.
    """

    def subtract(_: nn.Module, inputs: object, output: Any) -> Any:
        output.logits = subtracted(output.logits, offsets)
        return output

    handle = model.register_forward_hook(subtract)
    try:
        yield
    finally:
        handle.remove()
