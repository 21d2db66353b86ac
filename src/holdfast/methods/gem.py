"""Gradient episodic memory: a step may not raise the loss on what is remembered."""

from __future__ import annotations

from holdfast.methods._registry import Count, NotNegative, Positive, published
from holdfast.pieces.constraints import Constrained, RehearseEach
from holdfast.pieces.rehearse import Policy, Rehearse
from holdfast.plan import Plan


@published(
    "a-gem",
    summary="a gradient that would raise the loss on the memory is projected",
    paper="Chaudhry et al. 2019, arXiv 1812.00420",
)
def a_gem(
    capacity: Count | None = 500, share: Positive = 1.0, policy: Policy = "reservoir"
) -> Plan:
    """g <- g - (g . g_ref / |g_ref|^2) g_ref  where g . g_ref < 0, else g.

    Chaudhry et al., "Efficient lifelong learning with A-GEM", 2019, equation 11. g_ref is the
    gradient of the cross-entropy on a batch drawn from the memory, which is not trained on. One
    more gradient per step, in one process. Nothing happens in the first stage. It chooses no
    weights: ``mlp | a-gem``.

    What is projected is the gradient. With AdamW the step is not the gradient, and may raise
    the memory's loss all the same.

    Args:
        capacity: examples that are remembered; ``none`` remembers all.
        share: drawn of the memory per new one.
        policy: ``reservoir``, ``balanced`` or ``uniform``, as in ``er``.
    """
    feed = Rehearse(capacity=capacity, share=share, policy=policy)
    return Plan(name="a-gem", feed=feed, update=(Constrained(each=False),))


@published(
    "gem",
    summary="one constraint per earlier stage: no step may raise its remembered loss",
    paper="Lopez-Paz and Ranzato 2017, arXiv 1706.08840",
)
def gem(
    capacity: Count | None = 500,
    margin: NotNegative = 0.5,
    each: Count | None = None,
    code_compat: bool = False,
) -> Plan:
    """g <- argmin_z |z - g|^2 subject to z . g_k >= 0 for each earlier stage k.

    Lopez-Paz and Ranzato, "Gradient episodic memory for continual learning", 2017, equations 8
    to 11: z = g + sum_k (v_k + margin) g_k with v >= 0 from the dual problem, where a constraint
    is broken; else z = g. g_k is the gradient of the cross-entropy on the remembered examples of
    stage k, all of them unless ``each`` is given. One more gradient per step and earlier stage,
    in one process, and as many copies of the gradient. Nothing happens in the first stage. It
    chooses no weights: ``mlp | gem``. What is projected is the gradient, not AdamW's step.

    Args:
        capacity: examples that are remembered, as many of each stage; ``none``: all.
        margin: moves every broken step further towards the remembered stages.
        each: examples of each stage that a step draws; ``none``: all, as in the paper.
        code_compat: v >= margin in the dual problem and 0.001 on its diagonal, as in the
            authors' code, instead of a margin that is added afterwards.
    """
    feed = RehearseEach(capacity=capacity, each=each)
    update = Constrained(margin=margin, code_compat=code_compat)
    return Plan(name="gem", feed=feed, update=(update,))
