"""Dual-stage mixed fine-tuning: specialised data first, then general data with a little of it."""

from __future__ import annotations

from holdfast.methods._registry import Count, Share, published
from holdfast.pieces.order_feeds import DualStage
from holdfast.plan import Plan


@published(
    "dmt",
    summary="specialised stage, then general data with a small share of the specialised",
    paper="Dong et al. 2024, arXiv 2310.05492",
)
def dmt(share: Share = 1 / 256, specialised: Count = 1, beside: str = "") -> Plan:
    """A schedule over a run's stages.

        stage 1: D_1 u D_2 (specialised);    stage 2: D_3 u sample(D_1, k) u sample(D_2, k)

    Dong et al., "How Abilities in Large Language Models are Affected by Supervised Fine-tuning
    Data Composition", ACL 2024. An epoch of stage 2 has |D_3| + round(k |D_1|) + round(k |D_2|)
    examples, shuffled together; the samples are drawn once, without replacement, and nothing is
    mixed into the specialised stages. With k = 0 it is mixed sequential training, to the bit. It
    chooses no weights: the paper's is ``full | dmt``, 3 epochs a stage.

    Args:
        share: k. The paper's headline is 1/256, which its text does not sweep; it finds that
            1/4 and more hurts general ability.
        specialised: how many stages of the run are specialised; the rest are general.
        beside: names of sources with specialised data, joined with ``+`` (``math+code``), for a
            run that begins with the general stage.
    """
    names = tuple(name.strip() for name in beside.split("+") if name.strip())
    return Plan(name="dmt", feed=DualStage(share=share, specialised=specialised, beside=names))
