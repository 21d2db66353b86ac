"""Adapters that are made or held so that they disturb what the model knows less than LoRA's."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from holdfast.methods._registry import Count, NotNegative, Positive, Probability, published
from holdfast.pieces.calibrated import CorDA, Null
from holdfast.pieces.lora import LINEAR_OF_LANGUAGE
from holdfast.pieces.o_lora import AdapterNorm, OLoRA
from holdfast.pieces.osf import OSF
from holdfast.pieces.projected import Orthogonal
from holdfast.plan import Plan

Preserved = Annotated[float, Field(gt=0, lt=1)] | Annotated[int, Field(ge=1)]
"""A share of a matrix's singular directions, or their number."""


@published(
    "o-lora",
    summary="low-rank adapters whose input directions are held orthogonal to earlier stages'",
    paper="Wang et al. 2023, arXiv 2310.14152",
)
def o_lora(
    rank: Count = 8,
    alpha: Positive = 32.0,
    dropout: Probability = 0.1,
    scope: str = LINEAR_OF_LANGUAGE,
    weight: NotNegative = 0.5,
    norm: NotNegative = 0.0,
    penalty: Literal["absolute", "squared"] = "absolute",
) -> Plan:
    """Each stage trains a new adapter on the model that earlier ones were merged into.

        L = CE + lambda_1 sum_layers sum_{t < now} sum_ij |(A A_t^T)_ij| + lambda_2 sum ||theta||_2

    Wang et al., "Orthogonal subspace learning for language model continual learning", 2023, as
    in the released code: rank 8, alpha 32, learning rate 1e-3, lambda_1 0.5 (5 late in long
    sequences) and lambda_2 from 0 to 0.3. In the first stage the term is 0. PEFT's
    initialisations ``olora`` and ``orthogonal`` are other methods.

    Departures: the paper squares the entries, the code takes their sizes; both are offered. The
    paper adapts q and v of T5 (``scope=language.attn.q+v``). Earlier adapters are merged, which
    computes the same as keeping them active, without dropout on them.

    Args:
        rank: r.
        alpha: the scale is alpha / rank.
        dropout: on the adapter's input.
        scope: a selector of linear layers. Default: those of the language model but the head.
        weight: lambda_1; 0 turns the term off.
        norm: lambda_2, of the norms of the new adapter's matrices.
        penalty: ``absolute`` as the code, ``squared`` as the paper.
    """
    adapter = OLoRA(
        rank=rank, alpha=alpha, dropout=dropout, scope=scope, weight=weight, penalty=penalty
    )
    norms = (AdapterNorm(weight=norm),) if norm else ()
    return Plan(name="o-lora", adapt=adapter, learn=(adapter, *norms), learning_rate=1e-3)


@published(
    "corda",
    summary="adapters cut out of the weights where data that must be kept needs them least",
    paper="Yang et al. 2024, arXiv 2406.05223",
)
def corda(
    rank: Count = 128,
    alpha: Positive | None = None,
    scope: str = LINEAR_OF_LANGUAGE,
    mode: Literal["kpm", "ipm"] = "kpm",
    data: str | None = None,
    examples: Count = 256,
) -> Plan:
    """Train the components of each weight that matter least to what must be kept.

        C = E[X^T X],  SVD(W C) = U S V^T,  W = U S V^T C^-1
        B = U_r sqrt(S_r),  A = sqrt(S_r) (V^T C^-1)_r,   W x + s (B A - B_0 A_0) x

    with the last r components (``kpm``, knowledge-preserved) or the first (``ipm``,
    instruction-previewed). Yang et al., "CorDA: Context-oriented decomposition adaptation of
    large language models", 2024; covariances' damping and decomposition are PEFT's. Each stage
    is calibrated anew and merged.

    Departures: W stays whole and B_0 A_0 is subtracted on the way, where the paper freezes the
    difference W - s B_0 A_0; the sum is the same. Of a matrix with less than r directions all
    are taken.

    Args:
        rank: r.
        alpha: the scale s is alpha / rank; ``rank`` unless given (scale 1).
        scope: a selector of linear layers. Default: those of the language model but the head.
        mode: ``kpm`` is calibrated on what must be kept, ``ipm`` on what is to be learned.
        data: the source of data to calibrate on: a name that the stage's ``sources`` has, a data
            file, or ``lab:general``; ``general`` for kpm, the stage's own data for ipm.
        examples: so many of them at most; the paper's 256.
    """
    adapter = CorDA(
        rank=rank,
        alpha=float(rank) if alpha is None else alpha,
        scope=scope,
        mode=mode,
        source=data or ("general" if mode == "kpm" else "new"),
        examples=examples,
    )
    return Plan(name="corda", adapt=adapter, learning_rate=2e-5)


@published(
    "lora-null",
    summary="adapters cut out of the weights on the directions that kept data never takes",
    paper="Tang et al. 2026 (AAAI), arXiv 2503.02659",
)
def lora_null(
    rank: Count = 128,
    alpha: Positive | None = None,
    scope: str = LINEAR_OF_LANGUAGE,
    freeze_down: bool = False,
    data: str = "general",
    examples: Count = 256,
) -> Plan:
    """Train each weight on the null space of the inputs that must be kept.

        C = E[X^T X] = U S U^T,  U_n its last r columns,  SVD(W U_n U_n^T) = U' S' V'^T
        B = U' sqrt(S'),  A = sqrt(S') V'^T,   W x + s (B A - B_0 A_0) x

    Tang et al., "Put the space of LoRA initialization to the extreme to preserve pre-trained
    knowledge", AAAI 2026; rank and alpha 128, 256 examples and learning rate 2e-5 are theirs.
    Each stage is calibrated anew and merged.

    Departures: as for ``corda``. C is decomposed in float64.

    Args:
        rank: r, the directions in which the data varies least.
        alpha: the scale s is alpha / rank; ``rank`` unless given (scale 1).
        scope: a selector of linear layers. Default: those of the language model but the head.
        freeze_down: A is frozen (the paper's second version): whatever B learns, inputs
            orthogonal to U_n give what they gave.
        data: the source of what must be kept, as for ``corda``.
        examples: so many of them at most.
    """
    adapter = Null(
        rank=rank,
        alpha=float(rank) if alpha is None else alpha,
        scope=scope,
        freeze_down=freeze_down,
        source=data,
        examples=examples,
    )
    return Plan(name="lora-null", adapt=adapter, learning_rate=2e-5)


@published(
    "oplora",
    summary="low-rank adapters projected off the largest singular directions of each weight",
    paper="arXiv 2510.13003 (AAAI 2026)",
)
def oplora(
    rank: Count = 16,
    alpha: Positive | None = None,
    dropout: Probability = 0.0,
    scope: str = LINEAR_OF_LANGUAGE,
    keep: Count = 128,
) -> Plan:
    """LoRA that leaves the k largest singular triples of every weight exactly as they are.

        W = U S V^T,   W x + s P_L B A P_R x,   P_L = I - U_k U_k^T,  P_R = I - V_k V_k^T

    "OPLoRA: Orthogonal projection LoRA prevents catastrophic forgetting during
    parameter-efficient fine-tuning", 2025. Needs no data. (u_i, s_i, v_i) stay singular triples;
    they stay the largest only while the change is smaller than s_k. Each stage is decomposed
    anew and merged.

    Not settled by what we could read: k and the exact form of the paper's measure rho_k; ours
    is :func:`holdfast.pieces.projected.reached`.

    Args:
        rank: r.
        alpha: the scale s is alpha / rank; 2 * rank unless given.
        dropout: on the adapter's input.
        scope: a selector of linear layers. Default: those of the language model but the head.
        keep: k; of a small matrix at most half of its directions.
    """
    adapter = Orthogonal(
        rank=rank,
        alpha=2.0 * rank if alpha is None else alpha,
        dropout=dropout,
        scope=scope,
        keep=keep,
    )
    return Plan(name="oplora", adapt=adapter, learning_rate=5e-5)


@published(
    "osf",
    summary="all weights of the smaller singular directions train, the larger ones stay",
    paper="Nayak et al. 2025, arXiv 2504.07097",
)
def osf(
    preserve: Preserved = 0.5,
    scope: str = LINEAR_OF_LANGUAGE,
    project: Literal["gradient", "weights"] = "gradient",
) -> Plan:
    """Constrained full tuning in the subspace of small singular values, by PEFT.

        W = U_h S_h V_h + U_l S_l V_l,   grad U_l <- (I - U_h U_h^T) grad U_l,   likewise V_l

    Nayak et al., "Sculpting subspaces: constrained full fine-tuning in LLMs for continual
    learning", 2025. U_l, S_l and V_l train. Each stage is decomposed anew and merged. PEFT calls
    what is preserved ``effective_rank``.

    Departures: the preserved share is the same for all matrices, as PEFT has it; the paper
    chooses it by a layer's importance. AdamW scales each entry of a projected gradient by
    itself, which leaves the subspace; ``project=weights`` puts the weights back after each step.

    Args:
        preserve: the share of singular directions that stay (below 1), or their number.
        scope: a selector of linear layers. Default: those of the language model but the head.
        project: ``gradient`` as the paper and PEFT, or ``weights`` besides.
    """
    adapter = OSF(preserve=preserve, scope=scope, project=project)
    update = (adapter,) if project == "weights" else ()
    return Plan(name="osf", adapt=adapter, update=update, learning_rate=5e-6)
