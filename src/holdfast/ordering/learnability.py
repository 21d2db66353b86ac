"""Learnability: how fast an example's gradient shrinks while a proxy trains."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from holdfast.ordering._registry import Work, scorer
from holdfast.ordering.chunks import by_chunks
from holdfast.ordering.per_example import PerExample
from holdfast.ordering.proxy import Proxy, visits

Steps = Annotated[int, Field(ge=1, le=1_000_000)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
SMALLEST = 1e-6
"""A gradient norm below this counts as this: an example that is learned to the end."""


@scorer(
    "learnability",
    summary="how fast an example's gradient shrinks while a proxy trains",
    paper="Dai et al. 2025, arXiv 2506.21545",
    precise=True,
)
def learnability(
    work: Work, steps: Steps = 100, rate: Rate = 0.008, batch: Steps = 16, interval: Steps = 10
) -> list[float]:
    """L(x_n) = sum_t ||grad l_n(theta_t)|| / ||grad l_n(theta_{t+1})||.

    Dai et al., "Data Efficacy for Language Model Training", 2025, equation 6. The proxy is the
    model itself under ``steps`` steps of plain SGD; norms are taken at every ``interval``-th
    state (10 as in the released code; 1 is the paper's sum).
    """
    proxy = Proxy(work, steps, rate, batch)
    proxy.run()
    read = PerExample(work.model, proxy.names)

    def norms(indices: Sequence[int]) -> list[list[float]]:
        found = read(work.batch(work.examples, indices))
        return [[v] for v in found.squares.sqrt().tolist()]

    seen = []
    for t in visits(steps, interval):
        proxy.at(t)
        seen.append(by_chunks(work, f"norms-{t:06d}.jsonl", norms, f"gradient norms at step {t}"))
    proxy.forget()
    total = [0.0] * len(work.examples)
    for later, earlier in itertools.pairwise(seen):
        for n, ((after,), (before,)) in enumerate(zip(later, earlier, strict=True)):
            total[n] += before / max(after, SMALLEST)
    return total
