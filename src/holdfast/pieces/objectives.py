"""Losses per position: pure functions of tensors, in float32 whatever the inputs are.

N positions, V words. Nothing here knows about a model, a batch or a trainer, and nothing
is reduced: the engine averages over the positions of a whole optimizer step.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

Direction = Literal["forward", "reverse"]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(logits)[target] in nats, [N] float32; 0 where the target is -100.

    Args:
        logits: [N, V].
        targets: [N] integer.
    """
    return F.cross_entropy(logits.float(), targets, reduction="none", ignore_index=-100)


def kl(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    direction: Direction = "forward",
    chunk: int | None = None,
) -> Tensor:
    """Kullback-Leibler divergence of two next-token distributions in nats, [N] float32.

    ``forward`` is KL(teacher || student), sum_v p_t log(p_t / p_s), which asks the student
    to cover what the teacher says; ``reverse`` is KL(student || teacher). Words that the
    first distribution gives probability 0 add 0, also where the logits are -inf.

    Args:
        student: [N, V] logits.
        teacher: [N, V] logits; no gradient flows into them.
        temperature: T > 0; both logits are divided by it. The result is not multiplied by T^2.
        direction: see above.
        chunk: compute this many positions at a time and again in the backward pass, so that
            only the logits themselves are held. The same numbers, less memory.

    Raises:
        ValueError: the shapes differ, or temperature or chunk is not positive.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"student logits {tuple(student.shape)} and teacher logits {tuple(teacher.shape)} "
            "must have one shape"
        )
    if not temperature > 0 or (chunk is not None and chunk < 1):
        raise ValueError(f"temperature ({temperature}) and chunk ({chunk}) must be positive")
    teacher = teacher.detach()
    if chunk is None or len(student) <= chunk:
        return _kl(student, teacher, temperature, direction)
    pieces = zip(torch.split(student, chunk), torch.split(teacher, chunk), strict=True)
    return torch.cat([_kl_again(s, t, temperature, direction) for s, t in pieces])


def _kl_again(student: Tensor, teacher: Tensor, temperature: float, direction: str) -> Tensor:
    result = checkpoint(_kl, student, teacher, temperature, direction, use_reentrant=False)
    assert isinstance(result, Tensor)
    return result


def _kl(student: Tensor, teacher: Tensor, temperature: float, direction: str) -> Tensor:
    log_student = F.log_softmax(student.float() / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher.float() / temperature, dim=-1)
    if direction == "forward":
        log_p, log_q = log_teacher, log_student
    else:
        log_p, log_q = log_student, log_teacher
    p = log_p.exp()
    # Masked before the product: 0 * (inf - inf) would be NaN in the value and the gradient.
    ratio = torch.where(p > 0, log_p - log_q, torch.zeros_like(p))
    return (p * ratio).sum(dim=-1)
