"""What a trainer does between reading an optimizer step's examples and its passes over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from holdfast.carried import Ahead, LooksAhead
from holdfast.engine.carrying import pieces
from holdfast.engine.forward import logits_at, next_labels
from holdfast.engine.policy import LivePolicy
from holdfast.errors import UsageError
from holdfast.pieces.chooser import announced
from holdfast.pieces.objectives import cross_entropy
from holdfast.pieces.rows import KeepRows


def look_ahead(trainer: Any, batches: list[Any]) -> list[Any]:
    """Let the plan's pieces act on the step that ``batches`` are the passes of.

    Args:
        trainer: a trainer under a plan (:class:`holdfast.engine.mixin.PlanMixin`).

    Returns the batches that are to be passed.

    Raises:
        UsageError: a piece looks ahead, and there is more than one process or weights are spread.
    """
    looking = [p for p in pieces(trainer.plan) if isinstance(p, LooksAhead)]
    if not looking:
        return batches
    if trainer.args.world_size > 1 or trainer.bound.hollow is not None:
        raise UsageError(
            f"'{looking[0].name}' of the plan '{trainer.plan.name}' takes gradients of its own "
            "before each step, which works in one process only; run it without torchrun."
        )
    step = Ahead(
        trainer.model,
        trainer.bound.parameters(),
        [trainer._prepare_inputs(batch) for batch in batches],
        trainer.optimizer.param_groups[0]["lr"],
        lambda passes: gradients(trainer, passes),
        lambda passes: losses(trainer, passes),
        trainer.state.global_step,
        trainer.state.max_steps,
        LivePolicy(trainer),
        clear=lambda found: clear(trainer, found),
    )
    for piece in looking:
        piece.look_ahead(step)
    trainer.optimizer.zero_grad()
    return step.batches


def gradients(trainer: Any, batches: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """The gradient of the plan's loss over ``batches`` as one step, by weight, not clipped.

    A weight that the loss does not reach has gradient 0.
    """
    noted = dict(trainer._sums)
    accumulation = getattr(trainer, "current_gradient_accumulation_steps", len(batches))
    trainer.current_gradient_accumulation_steps = len(batches)
    if trainer.token_terms:
        trainer.token_loss.begin(batches, trainer.args.device)
    parameters = trainer.bound.parameters()
    _clear(parameters)
    trainer.model.train()
    try:
        for batch in batches:
            with trainer.compute_loss_context_manager():
                loss = trainer.compute_loss(trainer.model, dict(batch))
            if not trainer.token_terms:  # the trainer's own loss is a mean over each pass
                loss = loss / len(batches)
            trainer.accelerator.backward(loss)
        zero = {n: torch.zeros_like(p) for n, p in parameters.items() if p.grad is None}
        found = {n: zero[n] if p.grad is None else p.grad.clone() for n, p in parameters.items()}
        clear(trainer, found)
        return found
    finally:
        _clear(parameters)
        trainer._sums = noted
        trainer.current_gradient_accumulation_steps = accumulation


def clear(trainer: Any, found: Mapping[str, Tensor]) -> None:
    """Zero the rows of gradients that the plan holds still."""
    for update in trainer.bound.updates:
        if isinstance(update, KeepRows):
            update.clear(found)


@torch.no_grad()
def losses(trainer: Any, batches: Sequence[Mapping[str, Any]]) -> list[Tensor]:
    """For each batch [B]: the mean cross-entropy of each row's answer tokens, without dropout."""
    model = trainer.model
    was_training = model.training
    model.eval()
    try:
        with trainer.compute_loss_context_manager():
            return [_row_losses(model, batch) for batch in batches]
    finally:
        model.train(was_training)


def _row_losses(model: Any, batch: Mapping[str, Any]) -> Tensor:
    features = announced(model, batch)
    targets = next_labels(batch["labels"])
    wanted = targets != -100
    values = cross_entropy(logits_at(model, model, features, wanted), targets[wanted])
    rows = wanted.nonzero()[:, 0]
    sums = values.new_zeros(len(targets)).index_add_(0, rows, values)
    return sums / wanted.sum(1).clamp(min=1)


def _clear(parameters: Mapping[str, Tensor]) -> None:
    for parameter in parameters.values():
        parameter.grad = None
