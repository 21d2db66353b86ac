"""Token weighting: EAFT by what the model is sure of, TALR by what it finds likely."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from holdfast.methods._registry import NotNegative, Positive, Share, published
from holdfast.pieces.token_weights import (
    EntropyWeighted,
    LikelihoodWeighted,
    StepLikelihoodWeighted,
)
from holdfast.plan import Plan


@published(
    "eaft",
    summary="tokens count by the model's entropy: what it is sure of moves little",
    paper="EAFT 2026, arXiv 2601.02151",
)
def eaft(
    top: Annotated[int, Field(ge=2)] = 20, power: NotNegative = 1.0, code_compat: bool = False
) -> Plan:
    """L = mean over answer tokens of (H_K / ln K)^power * -log p(token).

    "Entropy-Adaptive Fine-Tuning", 2026 (EAFT). H_K is the entropy of the K likeliest words,
    normalised among them. Tokens of low entropy and low probability, where data contradict the
    model, do most of the damage; their factor is small. Not for teaching a model to take back
    what it is sure of (editing of knowledge). It replaces the cross-entropy and chooses no
    weights: ``mlp | eaft``.

    Args:
        top: K.
        power: 0 is plain tuning, larger leaves out more.
        code_compat: H_20 / 3 as in the authors' training code; ln 20 is 2.996.
    """
    term = EntropyWeighted(top=top, power=power, unit=3.0 if code_compat else None)
    return Plan(name="eaft", learn=(term,))


@published(
    "talr",
    summary="tokens count by their likelihood: hard ones count less",
    paper="Lin et al. 2025, arXiv 2509.20758",
)
def talr(temperature: Positive | None = None, floor: Share = 0.01) -> Plan:
    """L = mean over answer tokens of max(p(token)^(1 / tau), floor) * -log p(token).

    Lin et al., "SFT Doesn't Always Hurt General Capabilities", 2025 (TALR: token-adaptive loss
    reweighting). tau is the median over the step's examples of their mean loss, which takes one
    more forward pass per step, in one process. It replaces the cross-entropy and chooses no
    weights: ``full | talr``. The authors find that a smaller learning rate does most of it.

    No code was released; the median, the floor and the mean over all tokens follow others'
    accounts of the paper.

    Args:
        temperature: tau, for all steps; none: the median.
        floor: the least factor, so that no token is given up; 1 is plain tuning.
    """
    if temperature is None:
        return Plan(name="talr", learn=(StepLikelihoodWeighted(floor=floor),))
    return Plan(name="talr", learn=(LikelihoodWeighted(temperature=temperature, floor=floor),))
