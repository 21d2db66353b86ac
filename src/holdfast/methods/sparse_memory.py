"""Sparse memory finetuning: only what new data use more than background data moves."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from holdfast.methods._registry import Count, published
from holdfast.methods.narrow import LEARNING_RATE
from holdfast.pieces.slots import Beside, SlotMask
from holdfast.plan import Plan


@published(
    "sparse-memory",
    summary="in each step only those MLP slots move that new data use and background data do not",
    paper="Lin et al. 2025, arXiv 2510.15103",
)
def sparse_memory(
    background: str = "general",
    share: Annotated[float, Field(gt=0, le=1)] = 0.05,
    active: Count = 32,
    count: Count = 8,
) -> Plan:
    """Train columns of W_down: the best share of each layer's slots by TF-IDF, anew each step.

        score_i = c_i / sum_j c_j * log((|B| + 1) / (b_i + 1))

    Lin et al., "Continual learning via sparse memory finetuning", 2025. c_i counts the tokens of
    the step that use slot i, b_i the background batches that do, of |B| so far. One more forward
    pass per step, over new and background examples, in one process; the backward pass and the
    optimizer's memory are those of ``down``.

    Departures: the paper's model has memory layers of a million slots, of which a token reads
    32; here the slots are the hidden units of the MLPs that a model has, and a token uses the
    ``active`` largest. Background statistics are gathered as the stage goes on, not beforehand.
    The paper trains with SGD, which a run sets by its optimizer, not by a plan.

    Args:
        background: the source of general examples: a name that the stage's ``sources`` has, a
            data file, or ``lab:general``.
        share: of the slots of a layer that may move in a step.
        active: slots of a layer that a token uses.
        count: background examples in each step; they are one background batch.
    """
    return Plan(
        name="sparse-memory",
        train="down",
        feed=Beside(background, count),
        update=(SlotMask(source=background, share=share, active=active),),
        learning_rate=LEARNING_RATE,
    )
