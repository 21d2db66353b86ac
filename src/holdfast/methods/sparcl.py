"""SparCL: sparse weights, sparse gradients, fewer examples."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from holdfast.methods._registry import Count, NotNegative, Probability, published
from holdfast.pieces.lora import LINEAR_OF_LANGUAGE
from holdfast.pieces.sparse import EasyLeftOut, SparseSteps
from holdfast.plan import Plan, TokenTerm, Update


@published(
    "sparcl",
    summary="dynamic masks of weights and gradients, and easy examples left out",
    paper="Wang et al. 2022, arXiv 2209.09476",
)
def sparcl(
    sparsity: Probability = 0.75,
    gradient_sparsity: Probability = 0.8,
    removal: Probability = 0.3,
    select: str = LINEAR_OF_LANGUAGE,
    period: Count = 100,
    updates: Count = 9,
    refresh: Count = 30,
    margin: Annotated[float, Field(ge=0, lt=0.5)] = 0.01,
    factor: NotNegative = 0.5,
) -> Plan:
    """Three sparsities at once, each of which 0 turns off.

        weights    w <- mask * w, the mask pruned by |w| + factor * |dL/dw| and grown at random
        gradients  only the largest 1 - q entries of each matrix move until the next refresh
        data       the examples that change least from right to wrong are left out

    Wang et al., "SparCL: Sparse Continual Learning on the Edge", 2022. A plug-in for replay
    (``er`` or ``der``). **On dense hardware only the data removal saves time**: masked
    products run as dense ones, so that the paper's FLOPs are counted, not measured. It was
    published for networks that are trained from nothing; pruning a pretrained language model
    to a quarter of its weights destroys most of what it knows, so that here it is a baseline.

    Departures: importance is that of the released code (the paper weighs the gradients of the
    task and of the memory apart); masks are renewed every so many steps, not epochs, where the
    code has 9 updates in the first 45 of 50 epochs; entries without a gradient do not move
    under any optimizer (the code uses plain SGD).

    Args:
        sparsity: share of the weights of each matrix that are 0.
        gradient_sparsity: q, of all entries of each matrix.
        removal: share of the stage's examples that are left out in the end.
        select: a selector of the matrices that are masked.
        period: steps between two renewals of the masks, and between two removals.
        updates: renewals after which the masks stay; removals end after 4.
        refresh: steps between two choices of the entries that move.
        margin: by how much density falls when pruned and rises when grown.
        factor: of the gradient in the importance.
    """
    update: tuple[Update, ...] = ()
    learn: tuple[TokenTerm, ...] = ()
    if sparsity or gradient_sparsity:
        update = (
            SparseSteps(
                select=select,
                sparsity=sparsity,
                margin=margin if sparsity else 0.0,
                period=period,
                updates=updates,
                gradient_sparsity=gradient_sparsity,
                refresh=refresh,
                factor=factor,
            ),
        )
    if removal:
        learn = (EasyLeftOut(share=removal, period=period),)
    return Plan(name="sparcl", learn=learn, update=update)
