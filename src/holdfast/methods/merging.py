"""Merging as a method: averages during a stage, and merges of stages at its end.

Finished runs and models are merged by ``holdfast merge`` (:mod:`holdfast.changes.merge`). These
choose no weights: ``mlp | ties``.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from holdfast.methods._registry import Finite, Probability, Share, published
from holdfast.pieces.averaging import Average
from holdfast.pieces.edits import Anchor
from holdfast.pieces.merge_edits import Arithmetic, Spherical, Ties
from holdfast.pieces.merging import Rescale, Trim
from holdfast.plan import Plan

Density = Annotated[float, Field(gt=0, le=1)]
"""A share above 0, at most 1."""


@published(
    "sfa",
    summary="while a stage trains, average now and then with the weights it began with",
    paper="Kleiman et al. 2025, arXiv 2501.05559",
)
def sfa(beta: Share = 0.5, period: Density = 0.25) -> Plan:
    """Sequential fine-tuning with averaging.

        theta <- (1 - beta) theta + beta theta_old     after every period * T steps, T of a stage

    Kleiman, Dziugaite, Frankle, Kakade and Paul, "Soup to go: mitigating forgetting during
    continual learning with model averaging", 2025. theta_old are the weights at the start of
    the stage. ``period=1`` averages once, at the end, and is ``wise-ft:alpha=beta``. Of an
    adapter the two factors are averaged, not their product.

    Not settled by what we could read: beta, and which of the paper's periods is its default.

    Args:
        beta: share of theta_old; 0 changes nothing.
        period: p, from one averaging to the next as a share of the stage's steps.
    """
    return Plan(name="sfa", update=(Average(beta=beta, period=period),))


@published(
    "task-arithmetic",
    summary="after each stage, scale what it changed",
    paper="Ilharco et al. 2023, arXiv 2212.04089",
)
def task_arithmetic(scale: Finite = 1.0, anchor: Anchor = "previous") -> Plan:
    """Scale the task vector at the end of every stage.

        theta = anchor + lambda (theta_ft - anchor)

    Ilharco et al., "Editing models with task arithmetic", 2023. With ``anchor='previous'`` K
    stages give base + lambda * sum_t tau_t. From 0 to 1 it is ``wise-ft:alpha=1-lambda``; above
    1 it goes further than training did, and below 0 away from what was learned.

    Args:
        scale: lambda; 1 keeps the tuned weights.
        anchor: ``previous`` (the start of the stage), ``base`` (of the run), or ``both``.
    """
    return Plan(name="task-arithmetic", settle=(Arithmetic(scale=scale, anchor=anchor),))


@published(
    "dare",
    summary="after each stage, drop most entries of what it changed and scale the rest up",
    paper="Yu et al. 2024, arXiv 2311.03099",
)
def dare(
    drop: Probability = 0.9,
    scale: Finite = 1.0,
    rescale: Rescale = "density",
    seed: int = 0,
    anchor: Anchor = "previous",
) -> Plan:
    """Drop and rescale the task vector at the end of every stage.

        theta = anchor + lambda * m * (theta_ft - anchor) / (1 - p),    m ~ Bernoulli(1 - p)

    Yu et al., "Language models are super Mario", 2024. The mean over draws is the tuned model;
    the variance of an entry is p / (1 - p) times its square. ``dare | ties:density=1`` is
    DARE-TIES.

    Args:
        drop: p.
        scale: lambda.
        rescale: ``density`` divides by 1 - p, as the paper and PEFT do; ``l1`` restores each
            tensor's sum of sizes, as mergekit does; ``none``.
        seed: of the draw, which differs from stage to stage and weight to weight.
        anchor: ``previous`` (the start of the stage), ``base`` (of the run), or ``both``.
    """
    edit = Arithmetic(
        scale=scale, drop=drop, rescale=rescale, seed=seed, anchor=anchor, name="dare"
    )
    return Plan(name="dare", settle=(edit,))


@published(
    "ties",
    summary="after each stage, merge what all stages changed: trim, elect signs, average",
    paper="Yadav et al. 2023, arXiv 2306.01708",
)
def ties(density: Density = 0.2, scale: Finite = 1.0, trim: Trim = "model") -> Plan:
    """TIES merging of the stages' task vectors.

        theta = base + lambda * mean{ tau_k : sign tau_k = sign sum_j tau_j, tau_k != 0 }

    entry by entry, where of each stage's tau_k = theta_ft[k] - theta[k-1] only the ``density``
    share of largest entries is left. Yadav et al., "TIES-Merging: Resolving interference when
    merging models", 2023.

    Departure: the paper merges models that were each tuned from the base; here a stage begins at
    the merge of those before it. Every stage's task vector is kept in the run's folder, a copy
    of what trains in float32.

    Args:
        density: the share of entries that is kept; the paper's 20%.
        scale: lambda.
        trim: the largest entries of the whole ``model``, or of each ``tensor``, as in PEFT and
            mergekit; ``code_compat``: of the model, one more, as in the paper's code.
    """
    return Plan(name="ties", settle=(Ties(density=density, scale=scale, trim=trim),))


@published(
    "slerp",
    summary="after each stage, the point between before and after on the arc",
    paper="Shoemake 1985; as in mergekit",
)
def slerp(t: Share = 0.5, anchor: Anchor = "previous") -> Plan:
    """Spherical interpolation of every weight at the end of every stage.

        theta = sin((1 - t) phi) / sin(phi) * anchor + sin(t phi) / sin(phi) * theta_ft

    phi is the angle between the flattened tensors (Shoemake, "Animating rotation with quaternion
    curves", 1985). Where |cos phi| > 0.9995, as after nearly all fine-tuning, the point lies on
    the straight line and this is ``wise-ft:alpha=1-t``.

    Args:
        t: 0 is the anchor, 1 the tuned weights.
        anchor: ``previous`` (the start of the stage), ``base`` (of the run), or ``both``.
    """
    return Plan(name="slerp", settle=(Spherical(t=t, anchor=anchor),))
