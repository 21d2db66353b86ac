"""GeRe: replay a small fixed set of general texts, and keep the base's states on them."""

from __future__ import annotations

from typing import Literal

from holdfast.errors import ConfigError
from holdfast.methods._registry import Count, NotNegative, Positive, published
from holdfast.pieces.distill import Distill, PartCrossEntropy
from holdfast.pieces.pooled import Interpolated, Pooled
from holdfast.pieces.states import StateDistance, StateMargin
from holdfast.plan import NEW, Plan, StateTerm, TokenTerm

LOSSES = ("cross-entropy", "general-text")


@published(
    "gere",
    summary="replay general texts and keep the base's last hidden states on them",
    paper="Zhang et al. 2025, arXiv 2508.04676",
)
def gere(
    texts: str = "general",
    keep: Literal["margin", "l1", "l2", "logits", "labels"] = "margin",
    weight: NotNegative | Literal["dy"] | None = None,
    interpolate: Count | None = None,
    width: Positive = 1.0,
    temperature: Positive = 2.0,
    slack: NotNegative = 1e-4,
) -> Plan:
    """Cross-entropy on new data and general texts, and a margin on the texts' states.

        L = (CE_new + CE_general) / 2 + w * TM
        TM = sum(m) / #{m > 0},   m = relu(z - low)                   where h <= low
                                      relu(z - high) + relu(low - z)  where low < h < high
                                      relu(high - z)                  where h >= high

    z is the last hidden state (what the head reads) of the live model and h the base's, at
    every token of the texts; low and high are mu -+ sigma of each dimension over all tokens of
    all texts, taken from the base. (Zhang, Jiang, Zhao, Li, Fan, Wu and Chen, "GeRe: Towards
    Efficient Anti-Forgetting in Continual Learning of LLM via General Samples Replay", 2025,
    as in the released code, which averages over the violating entries only.) It reads no data
    of earlier tasks and chooses no weights: ``full | gere`` is the paper's method.

    Departures: the released code averages each loss over a micro-batch; here every mean is over
    the whole optimizer step, so that cutting a step differently changes nothing (a step of
    several passes runs twice for that, the first time without gradient). The base's states
    are computed again or looked up in place of a file written beforehand. Violations below
    ``slack`` sigma are taken for rounding; the code counts every one. The code's KL has no T^2
    and averages over padding too: ``weight=0.25`` is its scale at T = 2.

    Args:
        texts: the source that holds them: a name that the stage's ``sources`` has, a data file,
            or ``lab:general``. With a lab model, ``general`` is the lab's own set.
        keep: ``margin`` is GeRe; the paper's baselines are ``labels`` (cross-entropy on the
            texts alone), ``logits`` (T^2 KL to the base's distribution), ``l1`` and ``l2``
            (mean distance of the states).
        weight: w; 100 for the margin and 1 for the others unless given. ``dy`` scales the
            margin at every step to be as large as the cross-entropy.
        interpolate: exactly so many texts in every step ("batch interpolation"); none: texts
            and new data are shuffled as one set, and an epoch reads both.
        width: thresholds in standard deviations; the paper's is 1.
        temperature: T of ``keep=logits``.
        slack: a state that leaves its band by no more than so many standard deviations is in it;
            0 as the released code.
    """
    kept = _kept(texts, keep, weight, width, temperature, slack)
    losses: tuple[TokenTerm, ...] = (
        PartCrossEntropy(source=NEW, beside=LOSSES, name=LOSSES[0]),
        PartCrossEntropy(source=texts, beside=LOSSES, name=LOSSES[1]),
    )
    feed = Pooled(texts) if interpolate is None else Interpolated(texts, interpolate)
    return Plan(name="gere", learn=losses + kept, feed=feed)


def _kept(
    texts: str,
    keep: str,
    weight: float | str | None,
    width: float,
    temperature: float,
    slack: float,
) -> tuple[StateTerm | Distill, ...]:
    balanced = weight == "dy"
    if balanced and keep != "margin":
        raise ConfigError(f"weight=dy scales the margin, and keep is {keep}; give a number.")
    value = float(weight) if isinstance(weight, int | float) else (100.0 if keep == "margin" else 1)
    if keep == "labels" or value == 0:
        return ()
    if keep == "margin":
        balance = LOSSES if balanced else ()
        term = StateMargin(weight=value, source=texts, width=width, slack=slack, balance=balance)
        return (term,)
    if keep == "logits":
        return (
            Distill(
                weight=value, temperature=temperature, at="all", teacher="base", source=texts,
                name="general-logits",
            ),
        )  # fmt: skip
    return (StateDistance(power=1 if keep == "l1" else 2, weight=value, source=texts),)
