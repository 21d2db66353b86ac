"""MoRA: each stage adds rank-one experts that say themselves when they are meant."""

from __future__ import annotations

from typing import Literal

from holdfast.methods._registry import Count, Finite, Positive, published
from holdfast.pieces.lora import LINEAR_OF_LANGUAGE
from holdfast.pieces.mora import RankOneExperts
from holdfast.plan import Plan


@published(
    "mora",
    summary="each stage adds rank-one experts; each scores its own relevance, a few fire",
    paper="Lu et al. 2025, arXiv 2506.21035",
)
def mora(
    rank: Count = 16,
    budget: Count | None = None,
    temperature: Positive = 0.1,
    threshold: Finite | None = 0.0,
    softmax: Literal["all", "kept"] = "all",
    scope: str = LINEAR_OF_LANGUAGE,
) -> Plan:
    """After t stages a layer has R = t * rank atoms (a_i, b_i), W frozen:

        s_i = a_i^T x / sqrt(sum_j (a_j^T x)^2)            over all R atoms
        w_i = softmax(s / tau)_i   if s_i is among the k largest, and s_i >= delta; else 0
        y   = W x + sum_i w_i b_i (a_i^T x)

    Lu et al., "Little By Little: Continual Learning via Self-Activated Sparse
    Mixture-of-Rank Adaptive Learning", 2025 (its third version calls it MoRAM). Another method
    of the name MoRA, for high-rank updates, has nothing to do with it. There is no trained
    router and no balancing loss. Only the newest stage's atoms train; the earlier ones are
    frozen and stay active. a_i begins random and b_i at 0. Pruning by delta is for evaluation.

    There is no official code. Not settled by what is public: rank, k, tau, delta, the learning
    rate (that of ``lora`` here), and whether the softmax is over all atoms or the k best.

    Args:
        rank: atoms that a stage adds to each layer.
        budget: k, how many atoms of all stages fire on a token; ``rank`` unless given.
        temperature: tau.
        threshold: delta, from -1 to 1; ``none`` prunes nothing.
        softmax: over ``all`` atoms, the rest put to 0, or over the ``kept`` ones alone.
        scope: a selector. Default: all linear layers of the language model except the head.
    """
    adapter = RankOneExperts(
        rank=rank,
        budget=budget or rank,
        temperature=temperature,
        threshold=threshold,
        softmax=softmax,
        scope=scope,
    )
    return Plan(name="mora", adapt=adapter, learning_rate=5e-5)
