"""What a frozen reference said: its last hidden states, from which its head gives its logits.

The logits are exact, and a row of D numbers is kept where a row of V would be needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.engine.forward import Reference, head_of, head_sees
from holdfast.engine.line import Line
from holdfast.engine.prefix import Stop, passing


@torch.no_grad()
def last_states(
    reference: Reference, inner: nn.Module, inputs: Mapping[str, Any], positions: Tensor
) -> Tensor:
    """[N, D]: what the reference's head reads at ``positions`` [B, T]."""
    seen: list[Tensor] = []

    def stop(module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args[0][0])
        raise Stop

    with head_sees(inner, positions):
        handle = head_of(inner).register_forward_pre_hook(stop)
        try:
            reference.call(inner, inputs)
        except Stop:
            pass
        finally:
            handle.remove()
    return seen[0]


@torch.no_grad()
def logits_of(reference: Reference, line: Line, states: Tensor) -> Tensor:
    """[N, V]: what the reference's head, and what follows it, make of ``states`` [N, D].

    The model's own forward runs on one token with every block passed over, so that soft caps
    and scales are the model's own.
    """
    ids = torch.zeros(1, 1, dtype=torch.long, device=states.device)
    top = Line(line.root, line.blocks, len(line.blocks), line.above, line.returns)
    nothing = states.new_zeros(1, 1, _width(line.root))
    with passing(top, nothing), _reads(line.root, states):
        outputs = reference.call(line.root, {"input_ids": ids})
    logits: Tensor = outputs.logits[0]
    return logits


def _width(model: nn.Module) -> int:
    embeddings: Any = model.get_input_embeddings()  # type: ignore[operator]
    return int(embeddings.weight.shape[1])


@contextmanager
def _reads(model: nn.Module, states: Tensor) -> Iterator[None]:
    def give(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (states.unsqueeze(0), *args[1:])

    handle = head_of(model).register_forward_pre_hook(give)
    try:
        yield
    finally:
        handle.remove()
