"""Low-rank adapters on any choice of linear layers, through PEFT."""

from __future__ import annotations

from typing import Literal

from holdfast.errors import ConfigError
from holdfast.methods._registry import Count, Positive, Probability, published
from holdfast.pieces.lora import LINEAR_OF_LANGUAGE, LoRA
from holdfast.plan import Plan

LEARNING_RATE = 5e-5


@published(
    "lora",
    summary="low-rank adapters on chosen linear layers, merged after each stage",
    paper="Hu et al. 2021, arXiv 2106.09685; Zhu et al. 2025, arXiv 2510.08564",
)
def lora(
    rank: Count | None = None,
    alpha: Positive | None = None,
    dropout: Probability | None = None,
    scope: str = LINEAR_OF_LANGUAGE,
    stages: Literal["merge", "keep", "stack"] = "merge",
    also_train: str | None = None,
    lmmcl_compat: bool = False,
) -> Plan:
    """Train W + (alpha / rank) * B A with W frozen, A of [rank, in], B of [out, rank], B = 0.

    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, equation 3,
    implemented by PEFT.

    Departures from Zhu et al. 2025: their code trains the projector in full next to the
    adapters and continues one adapter over all stages without merging; here the projector is
    frozen unless asked for, and each stage is merged before the next. Both are settings.

    Args:
        rank: r; 16 unless given.
        alpha: the scale is alpha / rank; 2 * rank unless given (scale 2).
        dropout: on the adapter's input; 0 unless given.
        scope: a selector. Default: all linear layers of the language model except the head.
        stages: what happens between stages. ``merge``: the adapter is added to the weights
            and the next stage gets a new one. ``keep``: one adapter is trained on and on.
            ``stack``: each stage adds one, the earlier ones stay active and frozen.
        also_train: a selector of modules that train in full next to the adapters, saved
            with them (PEFT's ``modules_to_save``).
        lmmcl_compat: the settings of the released code of Zhu et al. 2025: rank 256, alpha
            32, dropout 0.05, projector trained, one adapter kept over the stages. A setting
            that you give wins over it.
    """
    if lmmcl_compat:
        rank, alpha = rank or 256, alpha or 32.0
        dropout = 0.05 if dropout is None else dropout
        also_train = also_train or "projector"
        stages = "keep" if stages == "merge" else stages
    rank = rank or 16
    if not scope.strip():
        raise ConfigError("'lora' was given an empty scope; write a selector such as sa-proj.")
    adapter = LoRA(
        rank=rank,
        alpha=2.0 * rank if alpha is None else alpha,
        dropout=dropout or 0.0,
        scope=scope,
        stages=stages,
        also_train=also_train,
    )
    return Plan(name="lora", adapt=adapter, learning_rate=LEARNING_RATE)
