"""Gives an adapter the data that it looks at before it is attached."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.carried import Calibrated
from holdfast.plan import NEW, Plan

if TYPE_CHECKING:
    import torch
    from torch import nn

    from holdfast.engine.feeding import Sources


def calibration(plan: Plan) -> tuple[str, ...]:
    """The sources beside the stage's own that a plan's adapter looks at."""
    adapter: Any = plan.adapt
    return (adapter.source,) if isinstance(adapter, Calibrated) and adapter.source != NEW else ()


def calibrate(
    plan: Plan,
    model: nn.Module,
    sources: Sources,
    collate: Callable[[list[Any]], Any],
    seed: int,
) -> None:
    """Tell a plan's adapter, if it is calibrated, what it looks at: a seeded sample.

    Every process of a run looks at the same examples.
    """
    adapter: Any = plan.adapt
    if not isinstance(adapter, Calibrated):
        return
    size = sources.sizes[adapter.source]
    chosen: Sequence[int] = range(size)
    if size > adapter.examples:
        chosen = sorted(random.Random(seed).sample(chosen, adapter.examples))
    device = next(model.parameters()).device
    adapter.calibrate(_One(sources, adapter.source, chosen, collate, device))


@dataclass(frozen=True)
class _One:
    """Examples one by one, each read when its turn comes."""

    sources: Sources
    source: str
    chosen: Sequence[int]
    collate: Callable[[list[Any]], Any]
    device: torch.device

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for index in self.chosen:
            batch = dict(self.collate([self.sources.read((self.source, index))]))
            yield {k: v.to(self.device) if hasattr(v, "to") else v for k, v in batch.items()}
