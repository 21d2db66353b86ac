"""L2M: a frozen model, modulated by one of many small adapters that a key calls."""

from __future__ import annotations

from typing import Literal

from holdfast.methods._registry import Count, NotNegative, Positive, published
from holdfast.pieces.modulation import KeepUnchosen, ModulationPool
from holdfast.plan import Plan


@published(
    "l2m",
    summary="a pool of adapters with keys; each sequence is modulated by the nearest one",
    paper="Schmied et al. 2023, arXiv 2306.14884",
)
def l2m(
    entries: Count = 30,
    rank: Count = 8,
    alpha: Positive | None = None,
    scope: str = "language",
    pull: NotNegative = 0.5,
    penalty: bool = True,
    init: Literal["lora", "code"] = "lora",
) -> Plan:
    """P entries of a key k_p and low-rank updates; for a sequence with the query q

        p* = argmax_p cos(k_p, q)                                in evaluation
        p* = argmax_p (cos(k_p, q) + 1) / 2 * c_p                in training, from stage 2 on
        c_p = (1 / (n_p + 1e-6)) / sum_j 1 / (n_j + 1e-6),       n_p: share of earlier choices
        L = CE - pull * mean cos(k_p*, q)

    Schmied et al., "Learning to modulate pre-trained models in RL", 2023, with the settings of
    the released code. q is the mean of the embeddings that enter the first block: the state
    tokens of a decision transformer, the patches of an image, the prompt of a text. The model
    is frozen. Queries and values get s B_p A_p x, the hidden activation h of an MLP s B_p A_p h
    before its nonlinearity (of a gated MLP, that of the gate). An entry that an earlier stage
    used is next to never chosen in training; in evaluation every entry may be.

    Departures: entries that no sequence of a step chose do not move at all, where weight decay
    and momentum move the code's. Of a text that is being answered only the prompt is read, so
    that the choice is the same before the answer is known. Learning rate: that of ``lora``.

    Args:
        entries: P; at least as many as there are tasks.
        rank: of an update.
        alpha: the scale is alpha / rank; 2 * rank unless given.
        scope: a selector of blocks of one tower: ``language``, ``vision``, ``language[4:]``.
        pull: weight of the key term.
        penalty: pass over entries of earlier stages in training; without it stages share
            entries and forget.
        init: of A, ``lora`` as usual, each by its own inputs; ``code`` as the released code, which
            applies the rule to the tensor of all of them: in its model A begins 17 times as small.
    """
    pool = ModulationPool(
        entries=entries,
        rank=rank,
        alpha=2.0 * rank if alpha is None else alpha,
        scope=scope,
        penalty=penalty,
        weight=pull,
        init=init,
    )
    return Plan(name="l2m", adapt=pool, learn=(pool,), update=(KeepUnchosen(),), learning_rate=5e-5)
