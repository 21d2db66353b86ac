"""The backward pass stops at the lowest weight that trains, whatever a trainer switched on."""

from __future__ import annotations

from torch import nn

from holdfast.engine.line import NoReuse, find_line
from holdfast.errors import ModelError

_HOOK = "make_inputs_require_grad"
"""What transformers and PEFT call the hook; models do not keep a handle on every one of them."""


def spare_below(model: nn.Module) -> None:
    """Undo what would send gradients, or work done twice, below the freeze line of ``model``.

    Trainers that checkpoint activations also make the embeddings' output require a gradient,
    which the reentrant kind of checkpointing needs and which takes the backward pass through
    every frozen block. Where the other kind is used, the hooks go, and blocks below the line,
    which keep no activations, are not checkpointed. A model whose blocks all lie above its
    lowest trained weight, and reentrant checkpointing, are left as they are.
    """
    if _reentrant(model):
        return
    try:
        line = find_line(model)
    except (NoReuse, ModelError):
        return
    for module in model.modules():
        for key, hook in list(module._forward_hooks.items()):
            if getattr(hook, "__name__", "").startswith(_HOOK):
                del module._forward_hooks[key]
    for _, module in line.below():
        if getattr(module, "gradient_checkpointing", False) is True:
            module.gradient_checkpointing = False  # type: ignore[assignment]


def _reentrant(model: nn.Module) -> bool:
    """Whether a checkpointed module of ``model`` uses the reentrant kind, or a kind unknown."""
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False) is True:
            function = getattr(module, "_gradient_checkpointing_func", None)
            if getattr(function, "keywords", {}).get("use_reentrant", True):
                return True
    return False
