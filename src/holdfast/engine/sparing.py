"""Activations that the backward pass computes again instead of finding them kept.

An activation function's output is as large as its input, which its own gradient needs anyway,
and costs next to nothing to compute: so autograd keeps the input alone. Exact: the same function
of the same numbers. With an MLP frozen but for its way back, this is a third of what it keeps.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2CLS


def _classes() -> tuple[type[nn.Module], ...]:
    """Element-wise functions without weights or chance that transformers knows by name."""
    named = {c[0] if isinstance(c, tuple) else c for c in ACT2CLS.values()}
    return tuple(c for c in named if isinstance(c, type) and c not in (nn.RReLU, nn.PReLU))


PURE = (nn.SiLU, nn.GELU, nn.ReLU, *_classes())


@dataclass
class _Again:
    """How to compute a tensor that was not kept."""

    function: Callable[[Tensor], Tensor]
    given: Tensor

    def __call__(self) -> Tensor:
        with torch.no_grad():
            return self.function(self.given)


@contextmanager
def sparing(model: nn.Module) -> Iterator[None]:
    """Within, a forward pass of ``model`` keeps no output of an activation function."""
    made: dict[int, tuple[weakref.ref[Tensor], int, _Again]] = {}

    def note(module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad and len(given) == 1:
            again = _Again(module.forward, given[0].detach())
            made[output.data_ptr()] = (weakref.ref(output), output._version, again)

    def pack(tensor: Tensor) -> Tensor | _Again:
        known = made.get(tensor.data_ptr())
        if known is None:
            return tensor
        output, version, again = known
        if _same(output(), version, tensor):
            return again
        return tensor

    def unpack(kept: Tensor | _Again) -> Tensor:
        return kept() if isinstance(kept, _Again) else kept

    modules = [m for m in model.modules() if _pure(m)]
    handles = [m.register_forward_hook(note) for m in modules]
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _pure(module: nn.Module) -> bool:
    """Whether a module's output can be computed again from its input at any time."""
    if not isinstance(module, PURE) or getattr(module, "inplace", False):
        return False
    return next(module.parameters(), None) is None and next(module.buffers(), None) is None


def _same(output: Tensor | None, version: int, tensor: Tensor) -> bool:
    """Whether a tensor that is to be kept is the output, whole and as it was made."""
    return (
        output is not None  # as long as it lives, nothing else lies at its address
        and output._version == version
        and (tensor.shape, tensor.stride(), tensor.dtype)
        == (output.shape, output.stride(), output.dtype)
    )
