"""Refresh learning: unlearn a little before each step of any other method."""

from __future__ import annotations

from typing import Literal

from holdfast.methods._registry import Count, NotNegative, Positive, published
from holdfast.pieces.refresh import Refresh
from holdfast.plan import Plan


@published(
    "refresh",
    summary="before each step, climb the loss a little where earlier stages do not mind",
    paper="Wang et al. 2024, arXiv 2403.13249",
)
def refresh(
    gamma: NotNegative = 1e-7,
    repeats: Count = 1,
    noise: bool = True,
    damping: Positive = 1.0,
    form: Literal["paper", "code"] = "paper",
    delta: NotNegative = 1e-5,
    examples: Count | None = 512,
) -> Plan:
    """theta <- theta + gamma F^-1 grad L + N(0, 2 gamma F^-1), then the method's own step.

    Wang et al., "A unified and general framework for continual learning", 2024, algorithm 1,
    for any loss L that the rest of the plan makes. F is damping + the Fisher information of
    the earlier stages. One more gradient per step and repeat, in one process. Combine it with
    a recipe and, as the paper does, with ``der``.

    By the formula the noise is of size sqrt(2 gamma / F), which for a small gamma is much more
    than the climb gamma g / F; ``noise=false`` leaves the climb, which is what makes the
    following step descend L + gamma/2 g^T F^-1 g. With ``gamma=0`` nothing happens.

    Departure of the released code, ``form=code``: see :class:`holdfast.pieces.refresh.Refresh`.
    Its Fisher information is weighted with p(y|x) and practically the last task's only.

    Args:
        gamma: size of the unlearning step.
        repeats: unlearning steps before each step (the paper's J).
        noise: whether to add the noise term.
        damping: added to F.
        form: ``paper`` or ``code``.
        delta: size of the step of ``form=code``, relative to each tensor's norm.
        examples: sequences per stage that F is read from; ``none``: all.
    """
    piece = Refresh(
        gamma=gamma, repeats=repeats, noise=noise, damping=damping, form=form, delta=delta,
        kind="fisher" if form == "paper" else "weighted-fisher",
        decay=1.0 if form == "paper" else 1e-5, examples=examples,
    )  # fmt: skip
    return Plan(name="refresh", update=(piece,))
