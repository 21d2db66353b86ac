"""View-batch: many views of few examples in a step, so that an example rests longer."""

from __future__ import annotations

from typing import Literal

from holdfast.methods._registry import Count, NotNegative, Share, published
from holdfast.pieces.views import ViewBatch, ViewConsistency
from holdfast.plan import Plan


@published(
    "view-batch",
    summary="several views of fewer examples in a step, and their predictions alike",
    paper="Do Your Best and Get Enough Rest, CVPR 2025, arXiv 2503.18371",
)
def view_batch(
    views: Count = 4,
    weight: NotNegative = 1.0,
    image: Literal["colour", "rand", "none"] = "colour",
    operations: Count = 2,
    strength: Share = 0.5,
    mask: Share = 0.15,
) -> Plan:
    """View-batch replay and its self-distillation.

        L = CE + weight * mean_{i, j >= 2, t} KL(p_i1(t) || p_ij(t)),    p_i1 without gradient

    "Do Your Best and Get Enough Rest for Continual Learning", CVPR 2025. A step of B examples is
    B / V examples in V views each: as many steps, as many visits of each example, but in bursts
    that are V times further apart. View 1 is the example as it is, the others are changed. With
    ``views=1`` it is ordinary training, to the bit. It chooses no weights: ``full | view-batch``.

    Departures: views of an example are known by its index; the released code takes neighbours
    with equal labels for views of one another, divides the KL by the number of classes, starts it
    after five epochs and loses up to 255 examples of a cycle to rounding. The paper crops and
    flips view 1. For text, which the paper does not have, a view hides some of the prompt's
    tokens; for images in a conversation the default changes colours only, since turning and
    moving would change answers.

    Args:
        views: V.
        weight: of the KL; 0 leaves the schedule alone.
        image: ``colour``; ``rand`` for RandAugment's list, which the paper uses; or ``none``.
        operations: on an image, one after the other.
        strength: of each, 0 to 1.
        mask: share of the prompt's text tokens that a view hides.
    """
    feed = ViewBatch(views=views, image=image, operations=operations, strength=strength, mask=mask)
    learn = (ViewConsistency(weight=weight, views=views),) if weight and views > 1 else ()
    return Plan(name="view-batch", feed=feed, learn=learn)
