"""Learning without Forgetting: distil the model of the stage before on the new data."""

from __future__ import annotations

from typing import Literal

from holdfast.methods._registry import NotNegative, Positive, Share, published
from holdfast.pieces.distill import Distill
from holdfast.pieces.moving_teacher import MovingTeacher
from holdfast.plan import Plan, Reference


@published(
    "lwf",
    summary="keep the output distribution of the model that the stage began with",
    paper="Li & Hoiem 2016, arXiv 1606.09282; Zhu et al. 2025, arXiv 2510.08564",
)
def lwf(
    weight: NotNegative = 1.0,
    temperature: Positive = 2.0,
    positions: Literal["answer", "all_text", "all", "llava_lmmcl_compat"] = "answer",
    teacher: Reference = "stage",
    decay: Share = 0.99,
) -> Plan:
    """Cross-entropy on the answers plus a distillation term on the same inputs.

        L = CE + weight * T^2 * mean_t KL(softmax(z_teacher(t) / T) || softmax(z_student(t) / T))

    Li and Hoiem, "Learning without Forgetting", 2016, as used for sequences of skills by Zhu
    et al. 2025 (weight 1, T 2, teacher = the model at the start of the stage). No old data is
    read. It chooses no weights: the paper's baseline is ``mlp | lwf``. With ``weight=0`` it
    is plain fine-tuning and the teacher is never run.

    Departures: the released code's student carries no labels, so instead of the answer it
    distils on a fifth of all positions, most of them image and system tokens; here the
    answer positions are used, shifted so that position t predicts token t+1. The code's
    choice is ``positions='llava_lmmcl_compat'``.

    Args:
        weight: of the term; 0 turns it off.
        temperature: T, above 0.
        positions: see :class:`holdfast.pieces.distill.Distill`.
        teacher: ``stage`` (the model this stage began with), ``base`` (the run began with), or
            ``ema``, the moving average of the model's weights since the stage began
            (:class:`holdfast.pieces.moving_teacher.MovingTeacher`).
        decay: of the moving average at each optimizer step.
    """
    if weight == 0:
        return Plan(name="lwf")
    term = Distill(weight=weight, temperature=temperature, at=positions, teacher=teacher)
    moving = (MovingTeacher(decay=decay),) if teacher == "ema" else ()
    return Plan(name="lwf", learn=(term,), update=moving)
