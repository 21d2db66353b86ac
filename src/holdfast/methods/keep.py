"""Keeping what the model says to random words; and the recipe that kept the most."""

from __future__ import annotations

from dataclasses import replace

from holdfast.data.random_words import RANDOM_WORDS
from holdfast.methods._registry import NotNegative, Positive, Probability, published
from holdfast.methods.narrow import gate_up
from holdfast.pieces.distill import CrossEntropy, Distill
from holdfast.pieces.pooled import Interpolated
from holdfast.plan import NEW, Plan, Reference

PAPERS = "Krishna et al. 2020, arXiv 1910.12366; Li & Hoiem 2016, arXiv 1606.09282"


@published(
    "random-words",
    summary="keep what the model says to random words about the new pictures; no old data",
    paper=PAPERS,
)
def random_words(
    weight: NotNegative = 1.0,
    share: Probability = 0.375,
    temperature: Positive = 1.0,
    teacher: Reference = "base",
) -> Plan:
    """Cross-entropy on the answers, and the base's distribution where nonsense is answered.

        L = CE_new + weight * T^2 * mean_q KL(softmax(z_base(q) / T) || softmax(z(q) / T))

    q are questions of random words from the tokenizer's vocabulary, each with the picture of one
    of the stage's own examples if those have any (:mod:`holdfast.data.random_words`); z(q) are
    the logits where an answer begins and after its first word. The old questions are not needed:
    what a network says to random words is enough to copy it (Krishna et al. 2020), and a copy of
    the base is what is to be kept. It is learning without forgetting (Li and Hoiem 2016) with
    questions that the new data does not ask, and composes with any choice of weights.

    Args:
        weight: of the term; with 0 the method does nothing.
        share: of every step; random questions take the place of new examples.
        temperature: T.
        teacher: ``base`` (the model that the run began with) or ``stage`` (the stage).
    """
    if weight == 0 or share == 0:
        return Plan(name="random-words")
    kept = Distill(
        weight=weight, temperature=temperature, teacher=teacher, source=RANDOM_WORDS,
        name="random-words",
    )  # fmt: skip
    feed = Interpolated(RANDOM_WORDS, share, name="random-words")
    return Plan(name="random-words", learn=(CrossEntropy(source=NEW), kept), feed=feed)


@published("keep", summary="gate-up and random-words: our recipe against forgetting", paper=PAPERS)
def keep(
    weight: NotNegative = 1.0, share: Probability = 0.375, teacher: Reference = "base"
) -> Plan:
    """MLP gate and up, and the base's answers to random words: ``gate_up | random_words``.

    Gate and up after Zhu et al. 2025 (arXiv 2510.08564), the term after Krishna et al. 2020 and
    Li and Hoiem 2016. It reads no old data, and is what lost least on the lab at equal learning.

    Args:
        weight, share, teacher: as in :func:`random_words`.
    """
    plan = gate_up() | random_words(weight, share, teacher=teacher)
    return replace(plan, name="keep", owners={})
