"""RegLoRA, the half of SEFE that regularises: spare where earlier updates were largest."""

from __future__ import annotations

from holdfast.methods._registry import Count, NotNegative, Positive, Probability, Share, published
from holdfast.pieces.lora import LINEAR_OF_LANGUAGE
from holdfast.pieces.reg_lora import RegLoRA
from holdfast.plan import Plan


@published(
    "reg-lora",
    summary="low-rank adapters that spare where earlier stages' updates were largest (SEFE)",
    paper="Chen et al. 2025, arXiv 2505.02486",
)
def reg_lora(
    rank: Count = 128,
    alpha: Positive | None = None,
    dropout: Probability = 0.05,
    scope: str = LINEAR_OF_LANGUAGE,
    top: Share = 0.02,
    weight: NotNegative = 2.5e3,
    also_train: str | None = None,
) -> Plan:
    """Each stage trains a new adapter on the model that earlier ones were merged into.

        L = CE + weight * (1/L) sum_l mean_{(i,j) in P_l} |(B_l A_l)[i, j]|

    over the L adapted matrices, where P_l holds, for every earlier stage, the positions of the
    ``top`` share of largest |B_l A_l| of that stage's adapter. The lists are concatenated: a
    position that mattered to two stages counts twice. B A is the product without alpha / rank.
    In the first stage P is empty and this is :func:`holdfast.methods.lora`. (Chen, Cong, Zhao,
    Yang, Hu, Ip and Kwong, "SEFE: Superficial and Essential Forgetting Eliminator for
    Multimodal Continual Instruction Tuning", 2025, as in the released code.) The other half of
    SEFE is a change of the data: :mod:`holdfast.data.styles`.

    Departures: the released code divides by the literal 224, the matrices of a model of 32
    blocks; here L is their number. It forms the whole product; here only its entries in P.

    Args:
        rank: r.
        alpha: the scale is alpha / rank; 2 * rank unless given, as in the paper.
        dropout: on the adapter's input.
        scope: a selector of linear layers. Default: those of the language model but the head.
        top: M, the share of each matrix's entries that a stage protects.
        weight: lambda; 0 turns the term off.
        also_train: a selector of modules that train in full and are not regularised; the
            paper's is ``projector``, at a tenth of the adapters' learning rate.
    """
    adapter = RegLoRA(
        rank=rank,
        alpha=2.0 * rank if alpha is None else alpha,
        dropout=dropout,
        scope=scope,
        also_train=also_train,
        top=top,
        weight=weight,
    )
    scale = ((also_train, 0.1),) if also_train else ()
    return Plan(
        name="reg-lora", adapt=adapter, learn=(adapter,), learning_rate=2e-4, lr_scale=scale
    )
