"""Number-token bias, and the same for any class of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from holdfast.data.aligned import IGNORED
from holdfast.data.records import Record
from holdfast.errors import UsageError
from holdfast.measures.formulas import Array
from holdfast.measures.interval import Estimate
from holdfast.probes._contexts import Contexts, replied
from holdfast.probes._reading import Reading, read, same_vocabulary
from holdfast.probes._registry import Measure, probe
from holdfast.probes._rows import ProbeResult, ProbeRow, compared
from holdfast.probes._token_class import TokenClass, classes_of, token_class
from holdfast.tasks.room import BatchSize

NAME = "token-bias"
UNITS = {
    "max_probability": "probability",
    "mass": "probability",
    "max_logit": "logit",
    "peak_probability": "probability",
}
"""What is measured of a class, see :func:`class_statistics`."""


def class_statistics(reading: Reading, chosen: TokenClass) -> dict[str, Array]:
    """For each example, over its positions: how much the model wants to write the class.

    ``max_probability``: mean over positions of the largest probability of a token of the class
    (NTB, Zhu et al. 2025). ``mass``: mean of the class's total probability. ``max_logit``: mean
    of its largest logit. ``peak_probability``: the first one's largest over positions.

    Returns:
        By name, [n]; NaN for an example without a position.
    """
    found: dict[str, list[float]] = {name: [] for name in UNITS}
    for i, hidden in enumerate(reading.hidden):
        if not len(hidden):
            for values in found.values():
                values.append(float("nan"))
            continue
        parts = [_position_statistics(logits, chosen) for logits in reading.logits(i)]
        most, mass, logit = torch.cat(parts, dim=1)
        found["max_probability"].append(float(most.mean()))
        found["mass"].append(float(mass.mean()))
        found["max_logit"].append(float(logit.mean()))
        found["peak_probability"].append(float(most.max()))
    return {name: np.array(values) for name, values in found.items()}


def _position_statistics(logits: torch.Tensor, chosen: TokenClass) -> torch.Tensor:
    """[3, m] float64: largest probability, total probability and largest logit of the class."""
    mine = logits[:, chosen.index(logits.device)].double()
    total = logits.double().logsumexp(-1, keepdim=True)
    return torch.stack(
        [(mine - total).exp().amax(-1), (mine - total).exp().sum(-1), mine.amax(-1)]
    ).cpu()


def prepare(
    base: nn.Module,
    processor: Any,
    prompts: Sequence[Record],
    *,
    classes: Sequence[str | TokenClass] = ("numbers",),
    task_answers: Sequence[str] = (),
    max_new_tokens: int = 32,
    batch_size: BatchSize = "auto",
    own_head: bool = False,
) -> Measure:
    """Read the base once; see :data:`token_bias`. Nothing of the base's weights is kept."""
    if not prompts:
        raise UsageError("no prompts were given; name at least one.")
    fixed = replied(base, processor, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)
    fixed = fixed.without_end()
    before = read(base, fixed, batch_size=batch_size)
    size = before.head.size
    tokenizer = getattr(processor, "tokenizer", None) or processor
    own_words = [tokenizer.decode(e["labels"][e["labels"] != IGNORED]) for e in fixed.encoded]
    found = chosen_classes(classes, task_answers, tokenizer, background=own_words)
    chosen = [c.within(size) for c in found]
    base_values = {c.name: class_statistics(before, c) for c in chosen}

    def measure(tuned: nn.Module) -> ProbeResult:
        own = replied(
            tuned,
            processor,
            prompts,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            who="each model's own greedy replies",
        ).without_end()
        readings = {
            "free": read(tuned, own, batch_size=batch_size),
            "forced": read(tuned, fixed, batch_size=batch_size),
        }
        same_vocabulary(before.head, readings["forced"].head)
        rows = [
            row
            for c in chosen
            for mode, after in readings.items()
            for row in _rows(mode, c, base_values[c.name], class_statistics(after, c), fixed)
        ]
        rows += _length_rows(fixed, own)
        return ProbeResult(NAME, tuple(rows), _facts(chosen, tokenizer, fixed, own))

    return measure


def chosen_classes(
    classes: Sequence[str | TokenClass],
    answers: Sequence[str],
    tokenizer: Any,
    *,
    background: Sequence[str] = (),
) -> list[TokenClass]:
    """Classes by name, then those that the answers are written with; each name once.

    ``background``: see :func:`classes_of`.
    """
    found = [c if isinstance(c, TokenClass) else token_class(c, tokenizer) for c in classes]
    found += classes_of(answers, tokenizer, background=background) if answers else []
    return list({c.name: c for c in found}.values())


def _rows(
    mode: str,
    chosen: TokenClass,
    before: dict[str, Array],
    after: dict[str, Array],
    contexts: Contexts,
) -> list[ProbeRow]:
    return [
        row
        for name, unit in UNITS.items()
        for row in compared(
            ProbeRow(NAME, f"{mode}.{name}", "base", Estimate(0.0), unit, token_class=chosen.name),
            before[name],
            after[name],
            contexts.clusters,
        )
    ]


def _length_rows(before: Contexts, after: Contexts) -> tuple[ProbeRow, ...]:
    like = ProbeRow(NAME, "free.length", "base", Estimate(0.0), "tokens")
    return compared(like, np.array(before.counts), np.array(after.counts), before.clusters)


def _facts(
    chosen: Sequence[TokenClass], tokenizer: Any, fixed: Contexts, own: Contexts
) -> dict[str, Any]:
    return {
        "classes": {c.name: c.texts(tokenizer) for c in chosen},
        "examples": len(fixed),
        "forced": fixed.source,
        "free": own.source,
        "positions": {"forced": sum(fixed.counts), "free": sum(own.counts)},
        "empty_replies": {"base": fixed.counts.count(0), "tuned": own.counts.count(0)},
    }


@probe(
    NAME,
    summary="how much a model wants to write numbers (or any class of tokens) where none belong",
    paper="Zhu et al. 2025, arXiv 2510.08564 (number-token bias)",
    prepare=prepare,
)
def token_bias(
    base: nn.Module,
    tuned: nn.Module,
    processor: Any,
    prompts: Sequence[Record],
    *,
    classes: Sequence[str | TokenClass] = ("numbers",),
    task_answers: Sequence[str] = (),
    max_new_tokens: int = 32,
    batch_size: BatchSize = "auto",
) -> ProbeResult:
    """The probability of a class of tokens while each model writes a reply.

    ``free.*``: each model over its own greedy reply. ``free.max_probability`` of the class
    'numbers' is NTB (Zhu et al. 2025): the mean over prompts of the mean over the reply's
    tokens of max over v in C of p(v). ``forced.*``: both models over the base's reply, so that
    a change is not one of captions or lengths. The token that ends a reply is not a position;
    an empty reply is left out, never counted as 0. Levels depend on the tokenizer (|C| does),
    so only the change can be compared between families.

    Args:
        base, tuned: transformers models with one vocabulary.
        processor: of both.
        prompts: that do not ask for the class, such as captions; answers are not read.
        classes: names of ``holdfast.probes.NAMED`` or :class:`TokenClass`.
        task_answers: answers of the task that was taught; their classes are added.
        max_new_tokens: of a reply.

    Raises:
        UsageError: no prompts, other vocabularies, or a class that the vocabulary lacks.
        UnknownName: a class that does not exist.
        DataError: a prompt cannot be encoded.
    """
    return prepare(
        base,
        processor,
        prompts,
        classes=classes,
        task_answers=task_answers,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
    )(tuned)
