"""Experience replay: examples of earlier stages are read beside the stage's own."""

from __future__ import annotations

from typing import Literal

from holdfast.methods._registry import Count, NotNegative, Positive, published
from holdfast.pieces.distill import CrossEntropy
from holdfast.pieces.gradient_memory import Diverse, Interfered
from holdfast.pieces.rehearse import Policy, Rehearse
from holdfast.pieces.replayed import Replayed
from holdfast.plan import NEW, Plan


@published(
    "er",
    summary="replay examples of earlier stages from a memory",
    paper="Chaudhry et al. 2019, arXiv 1902.10486; Vitter 1985",
)
def er(
    capacity: Count | None = 500,
    share: Positive = 1.0,
    extra: bool = True,
    policy: Policy = "reservoir",
    loss: Literal["joint", "separate"] = "joint",
    weight: NotNegative = 1.0,
) -> Plan:
    """Each step reads a batch of the stage's data and one drawn from a memory of earlier ones.

        joint:     L = mean over the answer tokens of both of -log p
        separate:  L = CE(new) + weight * CE(memory)

    Chaudhry et al., "On tiny episodic memories in continual learning", 2019 (joint). Nothing is
    replayed in the first stage. It chooses no weights: combine it with a recipe.

    Args:
        capacity: examples that are remembered; ``none`` remembers all.
        share: remembered examples per new one; with ``extra=false``, their part of a step.
        extra: whether they come on top of ``train.batch_size``, as in the paper.
        policy: which are remembered. ``reservoir``: each example met so far alike; ``balanced``:
            as many of each stage; ``uniform``: ``capacity`` of each stage, any of them alike.
        loss: see above; the released code of refresh learning has ``separate``.
        weight: of the second term of ``separate``.
    """
    feed = Rehearse(capacity=capacity, share=share, extra=extra, policy=policy)
    if loss == "joint":
        return Plan(name="er", feed=feed)
    return Plan(name="er", feed=feed, learn=(CrossEntropy(source=NEW), Replayed(weight=weight)))


@published(
    "gss",
    summary="replay from a memory of examples with diverse gradients",
    paper="Aljundi et al. 2019, arXiv 1903.08671",
)
def gss(
    capacity: Count = 300, share: Positive = 1.0, extra: bool = True, references: Count = 10
) -> Plan:
    """Experience replay whose memory is chosen by gradients.

    The memory S should minimise sum_{i,j in S} cos(g_i, g_j); the greedy algorithm of Aljundi
    et al., "Gradient based sample selection for online continual learning", 2019, approximates
    it as the examples pass by (:class:`holdfast.pieces.gradient_memory.Greedy`).

    Departure: gradients are the settled model's, at the end of each stage, because a stage may
    read its data more than once; the paper meets each batch once.

    Args:
        capacity: examples that are remembered.
        share: remembered examples per new one; with ``extra=false``, their part of a step.
        extra: whether they come on top of ``train.batch_size``.
        references: batches of the memory that a new one is compared with.
    """
    feed = Diverse(capacity=capacity, share=share, extra=extra, references=references)
    return Plan(name="gss", feed=feed)


@published(
    "mir",
    summary="replay the remembered examples that the coming step would harm most",
    paper="Aljundi et al. 2019, arXiv 1908.04742",
)
def mir(
    capacity: Count | None = 500,
    share: Positive = 1.0,
    candidates: Count = 50,
    rate: Positive | None = None,
    loss: Literal["joint", "separate"] = "joint",
) -> Plan:
    """Experience replay of maximally interfered examples.

    Of ``candidates`` random examples of the memory those with the largest
    l(theta - eta grad L_new) - l(theta) are replayed, in one step with the new ones. Aljundi et
    al., "Online continual learning with maximally interfered retrieval", 2019. A step costs one
    more gradient of the new examples and two forward passes over the candidates.

    Args:
        capacity: examples that are remembered.
        share: replayed examples per new one (the paper: 10 of each).
        candidates: drawn of the memory at each step.
        rate: eta; the step's own learning rate unless given. With Adam a step is not
            eta times the gradient: give the rate of a plain gradient step there.
        loss: ``joint``, one mean over new and replayed examples, as the paper's algorithm;
            ``separate``, the sum of two means, as the released code.
    """
    feed = Interfered(capacity=capacity, share=share, candidates=candidates, rate=rate)
    if loss == "joint":
        return Plan(name="mir", feed=feed)
    return Plan(name="mir", feed=feed, learn=(CrossEntropy(source=NEW), Replayed()))
