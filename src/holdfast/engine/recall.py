"""What a frozen reference said: its last hidden states, from which its head gives its logits.

The logits are exact, and a row of D numbers is kept where a row of V would be needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.cache.keys import code, digest, tensors
from holdfast.engine.forward import Reference
from holdfast.engine.keeping import model_inputs
from holdfast.engine.line import Line, blocks_of
from holdfast.engine.prefix import Stop, noting_returns, passing
from holdfast.engine.rowkeys import spans
from holdfast.models.head import head_of, head_sees


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


class Recall:
    """What a reference's head reads at chosen positions: a :class:`holdfast.engine.keeping.Kind`.

    Args:
        reference: the frozen model.
        model: the live model that it shares weights with, inside its wrappers.
        setting: what else the values depend on: device and precision.
        positions: batch -> [B, T] bool.

    Raises:
        NoReuse: the model has no language model with blocks, or no head.
        ModelError: the family is not in the table.
    """

    def __init__(
        self,
        reference: Reference,
        model: nn.Module,
        setting: str,
        positions: Callable[[Mapping[str, Any]], Tensor],
    ) -> None:
        self.reference, self.model, self.positions = reference, model, positions
        blocks = blocks_of(model)
        self.line = Line(model, blocks, len(blocks), ())
        head_of(model)
        known = reference.weights
        every = ((n, known.get(n, p)) for n, p in model.named_parameters())
        weights = tensors((*every, *model.named_buffers()))
        self.scope = digest(code(model), weights, f"{setting} head")

    def marks(self, batch: Mapping[str, Any]) -> list[bytes]:
        rows = zip(self.positions(batch).cpu(), spans(batch), strict=True)
        return [row[start:stop].numpy().tobytes() for row, (start, stop) in rows]

    def compute(self, batch: Mapping[str, Any]) -> list[Tensor]:
        """Each row's [n, D] states at its n positions."""
        positions = self.positions(batch)
        states = last_states(self.reference, self.model, model_inputs(batch), positions)
        return list(torch.split(states, positions.sum(1).tolist()))

    def learning(self, inputs: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Within, a plain pass shows what the blocks return."""
        return noting_returns(self.line)

    @torch.no_grad()
    def logits(self, states: Tensor) -> Tensor:
        """[N, V]: what the reference's head, and what follows it, make of ``states`` [N, D].

        The model's own forward runs on one token with every block passed over, so that soft caps
        and scales are the model's own.
        """
        ids = torch.zeros(1, 1, dtype=torch.long, device=states.device)
        nothing = states.new_zeros(1, 1, _width(self.model))
        with passing(self.line, nothing), _reads(self.model, states):
            outputs = self.reference.call(self.model, {"input_ids": ids})
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
