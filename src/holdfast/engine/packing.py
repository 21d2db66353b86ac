"""Passes without padding: a batch's rows behind each other in one row, each attending to itself.

transformers keeps rows apart whose positions begin again at 0 when no attention mask is given:
flash attention by the rows' lengths (variable-length kernels), flex attention by a block mask,
the others by a block-diagonal mask of T x T entries, which is exact but skips no work. (Kundu
et al. 2024, arXiv 2407.09105.)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from holdfast.engine.forward import logits_at
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.config import Train
    from holdfast.plan import Plan

Packing = Literal["auto", "off", "on"]

SKIPPING = ("flash", "flex")
"""Parts of the names of attention implementations that skip the blocks between rows."""

MOST_ROWS, MOST_TOKENS = 3, 512
"""Size of the batch on which packing is tried."""


def pack(inputs: Mapping[str, Any], positions: Tensor) -> tuple[dict[str, Any], Tensor]:
    """A padded batch as one row without padding, with ``position_ids`` from 0 for each example.

    Args:
        inputs: with ``input_ids`` and ``attention_mask`` [B, T]. Other entries of that shape
            are packed too; the rest (images) stays as it is, in the order of the rows.
        positions: [B, T] bool, none of them padding.

    Returns:
        The inputs with [1, N] for N real tokens and without ``attention_mask``, and the
        positions as [1, N]. What they select, they select in the same order as before.
    """
    real = inputs["attention_mask"].bool()
    packed = {
        name: value[real].unsqueeze(0)
        if isinstance(value, Tensor) and value.shape == real.shape
        else value
        for name, value in inputs.items()
        if name != "attention_mask"
    }
    places = real.long().cumsum(1) - 1
    packed["position_ids"] = places[real].unsqueeze(0)
    return packed, positions[real].unsqueeze(0)


def packs(
    train: Train,
    model: nn.Module,
    rows: Sequence[Mapping[str, Any]],
    collate: Callable[[list[Any]], Any],
) -> bool:
    """Whether a stage reads its passes packed, by its settings and what the model can do.

    Args:
        rows: some of the stage's examples, to try it on.
        collate: makes them a padded batch.

    Raises:
        UsageError: ``train.packing`` is ``on`` and the model would not see what it sees without.
    """
    if train.packing == "off" or (train.packing == "auto" and not _skips(model)):
        return False
    device = next(model.parameters()).device.type
    half = train.precision == "bf16" or (train.precision == "auto" and device == "cuda")
    with torch.autocast(device, torch.bfloat16, enabled=half):
        why = refusal(model) or contamination(model, collate(_few(rows)))
    if why is None:
        return True
    if train.packing == "auto":
        return False
    raise UsageError(
        f"train.packing=on: {why}. Leave it at auto or off: passes of like lengths "
        "(train.micro_batch_size) spare nearly as much padding."
    )


def rows_apart(plan: Plan, train: Train) -> bool:
    """Whether a plan's modules take rows behind each other for what they are.

    Raises:
        UsageError: they choose something for each row, and ``train.packing`` is ``on``.
    """
    if not getattr(plan.adapt, "whole_rows", False):
        return True
    if train.packing != "on":
        return False
    raise UsageError(
        f"train.packing=on: '{plan.name}' chooses modules for each row of a batch, and packing "
        "puts them behind each other in one row; leave it at auto or off."
    )


def refusal(model: nn.Module) -> str | None:
    """Why a model of this kind cannot read rows behind each other; None if nothing speaks for it.

    Some kinds carry a state from token to token, some take positions that are not a plain
    count, some attend in both directions within a prefix, some take no positions at all.
    """
    name = type(model).__name__
    base: Any = getattr(model, "get_base_model", lambda: model)()
    text = base.config.get_text_config()
    kinds = {str(k) for k in getattr(text, "layer_types", None) or ()}
    recurrent = sorted(k for k in kinds if "attention" not in k or "linear" in k)
    if getattr(base, "_is_stateful", False) or recurrent:
        what = f" ({', '.join(recurrent)})" if recurrent else ""
        return f"{name} carries a state from one example into the next{what}"
    if any(hasattr(m, "get_rope_index") for m in (base, getattr(base, "model", None))):
        return f"{name} numbers its positions by the place in the image (multimodal RoPE)"
    if getattr(base.config, "model_type", "") in BIDIRECTIONAL:
        return f"{name} attends in both directions within a prefix or an image"
    if "position_ids" not in inspect.signature(base.forward).parameters:
        return f"{name} takes no position_ids, so that it cannot be told where an example begins"
    return None


BIDIRECTIONAL = ("paligemma", "gemma3", "gemma3n", "git")
"""Model types whose attention mask is not causal everywhere, read off token types."""


def contamination(model: nn.Module, batch: Mapping[str, Any]) -> str | None:
    """Whether a packed row says something else than the batch: the sentence for it, or None.

    Two checks in evaluation mode. No logit of the last example may depend on the embeddings of
    an earlier one: a masked attention weight is exactly 0, and so is its gradient, in any dtype.
    And the logits must be those of the padded batch but for rounding.

    Args:
        batch: padded, of at least two examples.
    """
    device = next(model.parameters()).device
    inputs = {
        k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items() if k != "labels"
    }
    base: Any = getattr(model, "get_base_model", lambda: model)()
    name, was_training = type(base).__name__, model.training
    model.eval()
    try:
        leak, off = _leak(base, inputs), _difference(base, inputs)
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
        line = str(error).strip().splitlines()
        return f"{name} cannot read a packed row ({line[0] if line else type(error).__name__})"
    finally:
        model.train(was_training)
    if leak:
        return f"{name} lets an example of a packed row see those before it"
    exact = next(model.parameters()).dtype == torch.float32
    room = 1e-3 if exact and not torch.is_autocast_enabled(device.type) else 0.1
    if off > room:
        return (
            f"{name} says something else on a packed row: its logits are off by {off:.2g} of "
            f"their spread, where rounding explains {room:g}"
        )
    return None


def _leak(model: Any, inputs: Mapping[str, Any]) -> bool:
    """Whether the last example's logits have a gradient at earlier examples' embeddings."""
    real = inputs["attention_mask"].bool()
    last = torch.zeros_like(real)
    last[-1] = real[-1]
    seen: list[Tensor] = []

    def watch(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[-1]

    handle = model.get_input_embeddings().register_forward_hook(watch)
    try:
        with torch.enable_grad():
            logits = logits_at(model, model, *pack(inputs, last)).float()
            weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
            gradient = torch.autograd.grad((logits * weights.to(logits)).sum(), seen[0])[0]
    finally:
        handle.remove()
    return bool(gradient[0, : -len(logits)].any())


@torch.no_grad()
def _difference(model: Any, inputs: Mapping[str, Any]) -> float:
    """The largest difference of a logit, packed and padded, over the logits' spread."""
    wanted = inputs["attention_mask"].bool()
    padded = logits_at(model, model, inputs, wanted).float()
    packed = logits_at(model, model, *pack(inputs, wanted)).float()
    return float((padded - packed).abs().max() / padded.std().clamp(min=1e-6))


def _skips(model: nn.Module) -> bool:
    """Whether the model's attention does no work between the rows of a pack."""
    config = getattr(model, "config", None)
    name = str(getattr(config, "_attn_implementation", "") or "")
    return any(part in name for part in SKIPPING)


def _few(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The shortest of the first rows: two at least, more while they are short."""
    first = [rows[i] for i in range(min(len(rows), 32))]
    first.sort(key=lambda row: len(row["input_ids"]))
    chosen = first[:2]
    for row in first[2:MOST_ROWS]:
        if sum(len(r["input_ids"]) for r in [*chosen, row]) <= MOST_TOKENS:
            chosen.append(row)
    return chosen
