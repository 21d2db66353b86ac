"""Trainers that write answers themselves and have a loss on them: TRL's GRPO and RLOO.

Their loss stays theirs. A plan's terms on tokens read the same prompts and answers, as if the
answers were supervised, and are added; so are terms on weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.carried import LooksAhead
from holdfast.engine.carrying import pieces
from holdfast.errors import UsageError
from holdfast.plan import Plan, TokenTerm


def rolls(trainer: Any) -> bool:
    """Whether a trainer writes the answers that it learns from."""
    return hasattr(trainer, "_generate_and_score_completions")


def no_other_loss(plan: Plan, trainer: type) -> None:
    """Raise :class:`UsageError` if a plan has a loss on new data, or acts on a step's batches."""
    for piece in pieces(plan):
        if isinstance(piece, TokenTerm) and piece.fits:
            raise UsageError(
                f"'{piece.name}' of the plan '{plan.name}' replaces the loss on the new data, and "
                f"{trainer.__name__} has its own; leave it out, or use holdfast.tune."
            )
        if isinstance(piece, LooksAhead):
            raise UsageError(
                f"'{piece.name}' of the plan '{plan.name}' acts on the examples of a step before "
                f"they are read, and {trainer.__name__} reads questions only; use holdfast.tune."
            )


def completions(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Prompts with their answers as one batch, whose labels are the answers."""
    parts = ("prompt", "completion")
    ids = torch.cat([inputs[f"{p}_ids"] for p in parts], dim=1)
    mask = torch.cat([inputs[f"{p}_mask"] for p in parts], dim=1)
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, : inputs["prompt_ids"].shape[1]] = -100
    seen = ("pixel_values", "image_grid_thw", "pixel_attention_mask", "image_sizes")
    images = {k: inputs[k] for k in seen if k in inputs}
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, **images}


def added(trainer: Any, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor | float:
    """A pass's share of what the plan adds to the trainer's own loss.

    A term on tokens is averaged over each pass, as the trainer's own loss is.
    """
    steps = getattr(trainer, "current_gradient_accumulation_steps", 1)
    total: Tensor | float = trainer._weight_loss() * steps
    if trainer.token_terms:
        total = total + trainer.token_loss(model, completions(inputs))
    # transformers divides by the passes of a step unless it was told that the loss is divided
    told = getattr(trainer, "loss_is_scaled_for_ga", None)
    divided = told if told is not None else trainer.compute_loss_func is not None
    return total / steps if divided else total
