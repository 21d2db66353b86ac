"""Power-law rehearsal: earlier stages come back as things do in the world."""

from __future__ import annotations

from typing import Literal

from holdfast.methods._registry import Count, NotNegative, Positive, published
from holdfast.pieces.naturalistic import Naturalistic, World
from holdfast.plan import Plan


@published(
    "power-law",
    summary="earlier stages come back with a share that falls as a power of their age",
    paper="Gandhi et al. 2024, arXiv 2401.10393",
)
def power_law(
    share: Positive = 0.5,
    decay: NotNegative = 1.0,
    world: World = "power",
    mix: Literal["interleave", "after"] = "interleave",
    meet: Literal["share", "event"] = "share",
    chance: Positive = 1.0,
    capacity: Count | None = None,
) -> Plan:
    """In stage t, of B rehearsed examples stage i gets the share (t - i)^-d / sum_j (t - j)^-d.

    Gandhi, Shah, Marupudi and Varma, "Natural mitigation of catastrophic interference: continual
    learning in power-law learning environments", 2024. It is an environment more than a
    method: plain training in such a stream is the baseline that others should beat. Nothing is
    rehearsed in the first stage. It chooses no weights: ``full | power-law``.

    No code was released and the paper's schedule could not be read: shares by age, whole
    numbers by largest remainders, and B in proportion to the stage's own data are ours. The
    controls rehearse as many examples.

    Args:
        share: B for each example of the stage's own data.
        decay: d; or the rate of the exponential world.
        world: ``power``, or a control: ``exponential``, exp(-d (t - i)); ``uniform``; ``recent``,
            the stage before alone.
        mix: ``interleave`` shuffles rehearsed and new examples together; ``after`` reads the
            rehearsed ones behind each epoch of new ones.
        meet: ``share`` rehearses all earlier stages, by their age; ``event`` each one with
            probability min(1, chance * a^-d), a the stages since it was last met, and then in
            equal parts. What comes back is young again.
        chance: of meeting, for a stage that was met in the one before.
        capacity: examples that are remembered, as many of each stage; ``none``: all.
    """
    feed = Naturalistic(
        share=share, decay=decay, world=world, mix=mix, meet=meet, chance=chance, capacity=capacity
    )
    return Plan(name="power-law", feed=feed)
