"""Selective tuning: ordinary fine-tuning of a fixed choice of weights, all others frozen.

Zhu, Gong, Xiao, Liu and Hoiem, "How to Teach Large Multimodal Models New Skills", 2025,
arXiv 2510.08564. In a decoder block

    r <- r + W_o Attn(W_q h, W_k h, W_v h),    r <- r + W_down (silu(W_gate h') * W_up h')

only W_o and W_down write into the residual stream. The paper finds that most of what is
forgotten is written there by late W_down, so it trains the attention projections alone, or
W_gate and W_up with W_down frozen.

The learning rates are the paper's, for models of 7 to 8 billion weights; smaller models
want larger ones. Weights are chosen by role (:mod:`holdfast.anatomy`), never by a part of
their name, so a vision tower that reuses the language model's names is not caught.
"""

from __future__ import annotations

from holdfast.methods._registry import Count, Positive, published
from holdfast.plan import Plan

PAPER = "Zhu et al. 2025, arXiv 2510.08564"
LEARNING_RATE = 5e-6
VISION_LEARNING_RATE = 2e-6


@published("full", summary="every weight of the model", paper=PAPER)
def full(vision_lr_scale: Positive = 0.4) -> Plan:
    """Train every weight: vision tower, projector and language model (Zhu et al. 2025).

    Args:
        vision_lr_scale: the vision tower's learning rate as a share of the others'. The
            paper's is 2e-6 / 5e-6 = 0.4; 1 trains all weights at one rate.
    """
    scale = () if vision_lr_scale == 1 else (("vision", vision_lr_scale),)
    return Plan(name="full", train="full", learning_rate=LEARNING_RATE, lr_scale=scale)


@published("full-llm", summary="the whole language model with embeddings and head", paper=PAPER)
def full_llm() -> Plan:
    """Train the language model: blocks, norms, embeddings, head (Zhu et al. 2025, "LLM").

    With tied embeddings the head trains through the embedding; both are one weight.
    """
    return _recipe("full-llm")


@published("vision", summary="the vision tower", paper=PAPER)
def vision() -> Plan:
    """Train the vision tower at the paper's 2e-6 (Zhu et al. 2025, "Vision Enc.")."""
    return Plan(name="vision", train="vision", learning_rate=VISION_LEARNING_RATE)


@published("projector", summary="what maps image features into the language model", paper=PAPER)
def projector() -> Plan:
    """Train the projector between vision tower and language model (Zhu et al. 2025)."""
    return _recipe("projector")


@published("sa-proj", summary="attention projections q, k, v, o", paper=PAPER)
def sa_proj() -> Plan:
    """Train W_q, W_k, W_v, W_o of every block, with biases (Zhu et al. 2025, "SA Proj.")."""
    return _recipe("sa-proj")


@published("qkv", summary="attention projections q, k, v; o frozen", paper=PAPER)
def qkv() -> Plan:
    """Train W_q, W_k, W_v with W_o frozen (Zhu et al. 2025, "SA Proj. (QKV)").

    Each attention output then changes only within the column space of W_o. Departure from
    the released code: its script of this name passes q, k, v *and* o; we follow the paper.
    """
    return _recipe("qkv")


@published("vo", summary="attention projections v, o; q and k frozen", paper=PAPER)
def vo() -> Plan:
    """Train W_v and W_o (a flag of the released code of Zhu et al. 2025, not in the paper).

    Where q, k and v share one weight, only the rows of v move.
    """
    return _recipe("vo")


@published("mlp", summary="MLP gate, up and down", paper=PAPER)
def mlp() -> Plan:
    """Train W_gate, W_up and W_down of every block (Zhu et al. 2025, "MLP")."""
    return _recipe("mlp")


@published("gate-up", summary="MLP gate and up; down frozen", paper=PAPER)
def gate_up() -> Plan:
    """Train W_gate and W_up with W_down frozen (Zhu et al. 2025, "MLP Gate&Up").

    Each MLP output then changes only within the column space of W_down. In an MLP of two
    layers without a gate, the first layer trains and the second is frozen.
    """
    return _recipe("gate-up")


@published("down", summary="MLP down; gate and up frozen", paper=PAPER)
def down() -> Plan:
    """Train W_down alone (a flag of the released code of Zhu et al. 2025)."""
    return _recipe("down")


@published("sa-proj-gate-up", summary="attention projections with MLP gate and up", paper=PAPER)
def sa_proj_gate_up() -> Plan:
    """Train W_q, W_k, W_v, W_o, W_gate and W_up (Zhu et al. 2025, "SA Proj. + Gate&Up")."""
    return Plan(name="sa-proj-gate-up", train="sa-proj + gate-up", learning_rate=LEARNING_RATE)


@published("last-n", summary="the last n blocks of the language model", paper=PAPER)
def last_n(n: Count, lmmcl_compat: bool = False) -> Plan:
    """Train the last ``n`` decoder blocks, all their weights (``last-4`` is ``last-n:n=4``).

    A flag of the released code of Zhu et al. 2025. Departure: that flag always trains the
    embeddings, the final norm and the head too, which are most of a small model's weights;
    ``lmmcl_compat`` does so.

    Args:
        n: number of blocks, counted from the end.
        lmmcl_compat: see above.
    """
    return _recipe(f"last-{n}-lmmcl" if lmmcl_compat else f"last-{n}")


@published("first-n", summary="the first n blocks of the language model", paper=PAPER)
def first_n(n: Count) -> Plan:
    """Train the first ``n`` decoder blocks, all their weights (``first-4`` is ``first-n:n=4``).

    The counterpart of :func:`last_n`, as in Zhu et al. 2025's flag that freezes the last
    blocks, but counted from the start and without embeddings, final norm and head.

    Args:
        n: number of blocks, counted from the start.
    """
    return _recipe(f"first-{n}")


@published(
    "bottom-freeze",
    summary="all of the language model but its embeddings and first n blocks",
    paper="Zheng et al. 2025, arXiv 2501.13453",
)
def bottom_freeze(n: Count) -> Plan:
    """Train the language model above its first ``n`` blocks, with its final norm and head.

    "Spurious forgetting in continual learning of language models", 2025: the first steps on a
    new task undo what the bottom layers align; freezing them and the embeddings keeps it. Where
    the head is tied to the embeddings, it is frozen with them. ``last-n`` differs: it freezes
    the norm and the head too.

    Args:
        n: number of blocks that are frozen, counted from the start; the paper's safety
            experiment freezes 6.
    """
    select = f"language - language.embed - language[:{n}]"
    return Plan(name="bottom-freeze", train=select, learning_rate=LEARNING_RATE)


@published("train", summary="any choice of weights, by selector", paper="none: your own choice")
def train(select: str) -> Plan:
    """Train what a selector names: ``train:select='language[8:16].attn + projector'``.

    Source: none; this is selective tuning with a choice of your own, at the learning rate
    of Zhu et al. 2025.

    Args:
        select: a selector of :mod:`holdfast.anatomy`; checked against the model when the
            run begins, before anything trains.
    """
    return Plan(name="train", train=select, learning_rate=LEARNING_RATE)


def _recipe(selector: str) -> Plan:
    return Plan(name=selector, train=selector, learning_rate=LEARNING_RATE)
