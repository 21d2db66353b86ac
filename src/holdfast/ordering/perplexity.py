"""Perplexity: how surprising an example's answer is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from holdfast.ordering._registry import Work, scorer
from holdfast.ordering.chunks import by_chunks
from holdfast.ordering.losses import example_losses


@scorer(
    "ppl",
    summary="perplexity of the answer; a selection keeps the lowest",
    paper="Marion et al. 2023, arXiv 2309.04564",
    keep="low",
)
def ppl(work: Work) -> list[float]:
    """exp of the mean cross-entropy of an example's supervised tokens; forward passes only."""

    @torch.no_grad()
    def losses(indices: Sequence[int]) -> list[list[float]]:
        batch = work.batch(work.examples, indices)
        return [[loss] for loss in example_losses(work.model, batch).tolist()]

    rows = by_chunks(work, "losses.jsonl", losses, "perplexity")
    return [math.exp(min(loss, 700.0)) for (loss,) in rows]
