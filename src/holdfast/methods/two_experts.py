"""The two-expert mixture: the original MLP beside a copy that may learn, and a router."""

from __future__ import annotations

from typing import Literal

from holdfast.methods._registry import Finite, published
from holdfast.pieces.experts import TwoExpertMixture
from holdfast.plan import Plan


@published(
    "two-experts",
    summary="each MLP beside a tunable copy of itself, mixed by a learned router",
    paper="Zhu et al. 2025, arXiv 2510.08564 (Mixture-of-Experts baseline)",
)
def two_experts(
    evaluate: Literal["hard", "soft"] = "hard",
    bias: Finite = 0.0,
    seed: int = 0,
    lmmcl_compat: bool = False,
) -> Plan:
    """In every decoder block, y = w_0 E_0(h) + w_1 E_1(h), w = softmax(W_r h + b_r).

    The Mixture-of-Experts baseline of Zhu et al. 2025. E_0 is the original MLP and stays
    frozen; E_1 begins as its copy; W_r of [2, d] begins as N(0, 0.02). Only E_1 and the
    router train. Both carry over from stage to stage: there are two experts however many
    skills are taught. While training both experts run with soft weights; in evaluation each
    token goes to the more likely expert alone, a mismatch that ``evaluate='soft'`` removes.

    Departures: the released code runs E_0 without gradient, so that the blocks below get
    only a part of the loss's gradient; ours is exact unless ``lmmcl_compat``. The three
    phases of its schedule (expert alone, both, router on held-out captions with an auxiliary
    loss) are not offered: the released script runs only the second.

    Args:
        evaluate: ``hard`` routes each token to one expert in evaluation mode, ``soft`` mixes.
        bias: b, the router's bias begins as (+b, -b); above 0 prefers the original MLP.
        seed: of the router's first weights.
        lmmcl_compat: stop the gradient at the original MLP, as the released code does.
    """
    adapter = TwoExpertMixture(evaluate=evaluate, bias=bias, seed=seed, stop_gradient=lmmcl_compat)
    return Plan(name="two-experts", adapt=adapter, learning_rate=5e-6)
