"""A model's output head, at chosen positions only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from holdfast.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn


def head_of(model: nn.Module) -> nn.Module:
    """The output head. Raises :class:`ModelError` if there is none."""
    get = getattr(model, "get_output_embeddings", None)
    head = get() if get is not None else None
    if head is None:
        raise ModelError(f"{type(model).__name__} has no language-model head to take logits from.")
    found: nn.Module = head
    return found


@contextmanager
def head_sees(
    model: nn.Module, positions: Tensor, seen: list[Tensor] | None = None
) -> Iterator[None]:
    """Within, the model's head gets the hidden states at ``positions`` only.

    The model's own forward then returns logits of shape [1, N, V] with whatever it does after
    the head (soft caps, logit scales), and no logit of another position is ever formed. This
    is exact: the head works on each position by itself.

    Args:
        positions: [B, T] bool with N true entries.
        seen: gets those hidden states, [N, D].

    Raises:
        ModelError: the model has no output head.
    """
    head = head_of(model)

    def choose(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = inputs[0]
        assert hidden.shape[:2] == positions.shape, (
            f"the head got hidden states {tuple(hidden.shape)} for tokens {tuple(positions.shape)}"
        )
        chosen = hidden[positions]
        if seen is not None:
            seen.append(chosen)
        return (chosen.unsqueeze(0), *inputs[1:])

    handle = head.register_forward_pre_hook(choose)
    try:
        yield
    finally:
        handle.remove()
