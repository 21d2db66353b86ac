"""Forgetting-prioritised finetuning: repair the few parts that forget, on a small memory."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from holdfast.carried import AGAIN
from holdfast.methods._registry import Count, NotNegative, published
from holdfast.pieces.refit import OnlyInPhases, Phases
from holdfast.pieces.rehearse import Policy
from holdfast.pieces.replayed import Distance, StoredLogits
from holdfast.plan import Plan

PAPER = "Zhao et al. 2023, arXiv 2304.04158"
SELECT = "language.norm + head"


@published(
    "fpf",
    summary="at the end of each stage, finetune norms and head on a memory of all stages",
    paper=PAPER,
)
def fpf(
    select: str = SELECT,
    capacity: Count | None = 500,
    iterations: Count = 100,
    replay: NotNegative = 0.0,
    policy: Policy = "balanced",
    distill: NotNegative = 0.0,
    distance: Distance = "squared",
) -> Plan:
    """Train the stage, then freeze all but the task-specific parts and train these on a buffer.

        c'_l = (1 / |theta_l|) * || theta_l(task t+1) - theta_l(task t) ||_1

    Zhao et al., "Does Continual Learning Equally Forget All Parameters?", 2023. The metric c'
    finds that the last layer and the norms change most from task to task; finetuning them on a
    small memory repairs most of what was forgotten.
    :func:`holdfast.pieces.sensitivity.sensitivity` measures it on any model, and
    ``selector`` there writes its result as ``select``. It chooses no weights for the stage
    itself: combine it with a recipe (full). The rate must be constant
    (``train.schedule=constant_with_warmup``), because the phase comes last. One process only.

    Not settled by what is public: the length of the phase, its rate (the stage's), and the
    formula by which parts are chosen, so that the choice is yours. Departure: the memory holds
    earlier stages, and the stage's own part of the buffer is drawn from its own data; the
    first stage has no phase.

    Args:
        select: a selector of what is finetuned in the phase.
        capacity: examples that are remembered; ``none`` remembers all.
        iterations: steps of the phase.
        replay: remembered examples per new one in the stage itself; above 0 it is experience
            replay with this repair after it.
        policy: ``balanced`` or ``reservoir``, see :class:`holdfast.pieces.rehearse.Rehearse`.
        distill: lambda of :func:`k_fpf`; above 0 the phase pulls logits to stored ones too.
        distance: see :func:`k_fpf`.
    """
    feed = Phases(capacity=capacity, policy=policy, iterations=iterations, replay=replay)
    return _plan("fpf", feed, select, distill, distance)


@published(
    "k-fpf",
    summary="no replay, but k times in a stage norms and head are finetuned on a memory",
    paper=PAPER,
)
def k_fpf(
    k: Annotated[int, Field(ge=0)] = 9,
    select: str = SELECT,
    capacity: Count | None = 500,
    iterations: Count = 100,
    policy: Policy = "reservoir",
    distill: NotNegative = 0.0,
    distance: Distance = "squared",
) -> Plan:
    """Plain training, with a phase of :func:`fpf` after every tau = steps / k steps.

        phase: CE + distill * D(h(x'), z'),   D = ||h - z||^2, x' and z' from the memory

    Zhao et al. 2023, "k-FPF-CE"; with ``distill`` above 0 it is "k-FPF-KD", which stores the
    logits z' of what it remembers as dark experience replay does. Steps on the memory are
    k * iterations, where experience replay takes one with every step. With k=0 it is plain
    training. Departure: k counts the phases of one stage, not of the whole stream, and the
    first stage has none. The paper's lambda is not public; that of DER++ is 0.1.

    Args:
        k: phases in a stage.
        select: a selector of what is finetuned in a phase.
        capacity: examples that are remembered; ``none`` remembers all.
        iterations: steps of a phase.
        policy: ``reservoir``, ``balanced`` or ``uniform``, as in ``er``.
        distill: lambda, the weight of the stored logits in a phase; 0 is k-FPF-CE.
        distance: ``squared`` is the mean over words, ``sum-squared`` the sum; see
            :class:`holdfast.pieces.replayed.StoredLogits`.
    """
    feed = Phases(capacity=capacity, policy=policy, count=k, iterations=iterations)
    return _plan("k-fpf", feed, select, distill, distance)


def _plan(name: str, feed: Phases, select: str, distill: float, distance: Distance) -> Plan:
    dark = StoredLogits(weight=distill, distance=distance, source=AGAIN)
    return Plan(
        name=name,
        feed=feed,
        learn=(dark,) if distill else (),
        update=(OnlyInPhases(select=select),),
    )
