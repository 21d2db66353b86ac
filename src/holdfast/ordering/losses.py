"""Each example's own loss, and what is read off its predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.engine.forward import next_labels
from holdfast.errors import DataError
from holdfast.ordering._registry import Work


def features(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A batch without its labels."""
    return {k: v for k, v in batch.items() if k != "labels"}


def precise(x: Tensor) -> Tensor:
    """At least float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def mean_by_row(values: Tensor, positions: Tensor) -> Tensor:
    """[B]: each row's mean of ``values`` [N] at the True ones of ``positions`` [B, T]."""
    counts = positions.sum(1)
    if not bool(counts.all()):
        raise DataError("an example has no supervised token, so it has no loss to be scored by")
    rows = positions.nonzero()[:, 0]
    return values.new_zeros(len(positions)).index_add(0, rows, values) / counts


def example_losses(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """[B]: the mean cross-entropy of each example's supervised tokens."""
    targets = next_labels(batch["labels"])
    positions = targets != -100
    logits = model(**features(batch), use_cache=False).logits[positions]
    nll = F.cross_entropy(precise(logits), targets[positions], reduction="none")
    return mean_by_row(nll, positions)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Within, no weight requires a gradient."""
    flags = [(p, p.requires_grad) for p in model.parameters()]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextmanager
def moving(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Within, the weights ``names`` and no others require a gradient."""
    with frozen(model):
        named = dict(model.named_parameters())
        chosen = {name: named[name].requires_grad_(True) for name in names}
        yield chosen


def scoped(work: Work) -> list[str]:
    """Names of the weights whose gradients count; a tied weight once."""
    named = [n for n, p in work.model.named_parameters() if p.is_floating_point()]
    return named if work.scope is None else [n for n in named if n in set(work.scope)]
