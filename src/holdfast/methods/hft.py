"""Half fine-tuning: half of the matrices train, another half in each stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from holdfast.methods._registry import published
from holdfast.pieces.halves import Halves
from holdfast.plan import Plan


@published(
    "hft",
    summary="a random half of the matrices of every block, drawn anew in each stage",
    paper="Hui et al. 2025, arXiv 2404.18466",
)
def hft(
    scope: str = "language",
    level: Literal["category", "layer", "model"] = "category",
    share: Annotated[float, Field(gt=0, le=1)] = 0.5,
    outside: bool = True,
    round: Annotated[int, Field(ge=0)] = 0,
) -> Plan:
    """Train a random half of the parameter matrices and freeze the other half.

        theta = {trained, frozen},    trained <- trained - eta * grad L,    frozen <- frozen

    Hui et al., "HFT: Half Fine-Tuning for Large Language Models", 2025. In each block 2 of
    W_q, W_k, W_v, W_o train and one of the two norms; of W_gate, W_up, W_down 2 train in a
    random half of the blocks and 1 in the others. Embeddings, last norm and head train. The
    draw holds for a whole stage and follows from the run's seed and the stage, so the next
    stage trains another half. Frozen matrices are left out of the optimizer.

    The same rule covers every family: of the n matrices that a category has in L blocks alike,
    share * n * L train, spread evenly. A bias goes with its matrix. Of a fused weight the rows
    of the frozen matrices are put back after every step, to the bit; their gradients are
    computed all the same.

    Not settled by what is public: seeds, the last norm (trained here, as what else lies
    outside of the blocks) and learning rates (2e-5, that of Tulu-2, on which the paper tunes).
    Departure: for a ``share`` other than one half, we count matrices; a re-implementation
    counts weights.

    Args:
        scope: a selector of what is drawn from.
        level: ``category``, or the paper's ablations: ``layer`` draws whole blocks and
            ``model`` draws from all matrices of all blocks alike.
        share: of the matrices that train; the paper finds 0.4 to 0.6 alike.
        outside: train what the scope has outside of the blocks: embeddings, last norm, head.
        round: another draw for the same seed, for a script that trains one stage after another
            (SFT, then DPO) with one seed.
    """
    half = Halves(scope=scope, level=level, share=share, outside=outside, round=round)
    return Plan(name="hft", train=half, learning_rate=2e-5)
