"""SAPT: a low-rank block for each stage, which the prompt attends to."""

from __future__ import annotations

from holdfast.methods._registry import Count, NotNegative, Positive, published
from holdfast.pieces.shared_attention import SharedAttention
from holdfast.plan import Plan


@published(
    "sapt",
    summary="a low-rank block for each stage; the prompt's attention says how much of each",
    paper="Zhao et al. 2024, arXiv 2401.08295",
)
def sapt(
    rank: Count = 4,
    alpha: Positive = 32.0,
    scope: str = "language.attn.q+v",
    hidden: Count = 100,
    weight: NotNegative = 1.0,
    examples: Count = 512,
    through: bool = False,
) -> Plan:
    """Shared attention: one attention learns which blocks a prompt needs, and selects them.

        y = W x + sum_i a_i s B_i A_i x,     a = softmax(K q / sqrt(D))
        q = LayerNorm(SiLU(W_2 W_1 max_t e_t))         e_t: embeddings of the prompt
        L = CE + weight * sum_{t < now} mean_x KL(a_t || a(x))       (attentive reflection)

    Zhao et al., "SAPT: a shared attention framework for parameter-efficient continual learning
    of large language models", 2024; rank 4, alpha 32, learning rate 5e-5 and weight 1 are the
    released code's for LLaMA on SuperNI (weight 2 for its long sequence; 0.5 and 0.1 and 3e-4
    for T5). Stage k trains block k, its key (a row of K, from U(-1, 1)) and the query; earlier
    blocks and keys are frozen. a_t is the mean attention of stage t's prompts when it ended,
    with 0 for later blocks.

    Departures: x are prompts of the stage's own data where the paper has a model write
    pseudo-samples; of each only max_t e_t is kept, which is all that the attention reads. Every
    step reads all of them, where the code draws a batch. Padding is not pooled, as it is in the
    code. What enters the first block is pooled, which for most models is the embeddings.

    Args:
        rank: r, of a block.
        alpha: the scale s is alpha / rank.
        scope: a selector of one tower's linear layers.
        hidden: width between W_1 and W_2.
        weight: of the reflection; 0 turns it off.
        examples: prompts of a stage whose attention is held, at most.
        through: gradients flow through earlier blocks to lower layers; the code stops them.
    """
    adapter = SharedAttention(
        rank=rank, alpha=alpha, scope=scope, hidden=hidden, weight=weight, examples=examples,
        through=through,
    )  # fmt: skip
    return Plan(name="sapt", adapt=adapter, learn=(adapter,) if weight else (), learning_rate=5e-5)
