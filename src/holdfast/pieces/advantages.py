"""What each of a model's answers counts for, from the rewards of several to one question.

Pure functions of rewards [Q, G], of G answers to each of Q questions, in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor


def group_normalised(rewards: Tensor, eps: float = 1e-6) -> Tensor:
    """(r - mean) / (std + eps) over each question's answers (Shao et al. 2024, GRPO).

    The deviation is that of a sample (G - 1), as in EasyR1 and TRL. Equal rewards give exactly 0.
    """
    centred = rewards - rewards.mean(1, keepdim=True)
    # a mean of equal numbers may be off by rounding, which eps would blow up
    equal = (rewards == rewards[:, :1]).all(1, keepdim=True)
    return torch.where(equal, 0.0, centred / (rewards.std(1, keepdim=True) + eps))


def leave_one_out(rewards: Tensor) -> Tensor:
    """r minus the mean of the question's other answers (Ahmadian et al. 2024, RLOO)."""
    count = rewards.shape[1]
    return (rewards * count - rewards.sum(1, keepdim=True)) / (count - 1)


def over_greedy(rewards: Tensor, greedy: Tensor) -> Tensor:
    """r minus the reward of the greedy answer, ``greedy`` [Q] (Li et al. 2023, ReMax)."""
    return rewards - greedy[:, None]
