"""A linear layer with a growing memory of rank-one experts, each of which knows when it is meant.

Lu et al. 2025 (arXiv 2506.21035). An expert, or atom, is a key a_i that reads the layer's
input and a value b_i that writes to its output.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from holdfast.errors import SelectorError

if TYPE_CHECKING:
    from holdfast.anatomy import Anatomy


@dataclass(frozen=True)
class Gate:
    """Which atoms fire on a token, and how strongly."""

    budget: int
    """k: at most so many fire."""
    temperature: float
    """tau of the softmax; below 1 it prefers the best."""
    threshold: float | None
    """delta: in evaluation an atom with a lower score does not fire. None: all may."""
    softmax: Literal["all", "kept"] = "all"
    """Over the scores of all atoms, or of the k best alone."""

    def __call__(self, response: Tensor, training: bool) -> Tensor:
        """The weight of each atom, 0 for those that do not fire.

        Args:
            response: [..., R], a_i^T x for each atom.
            training: whether the threshold is left out.

        Returns:
            [..., R] in float32 (or float64). It does not change if x is scaled by a positive
            number.
        """
        precise = response.to(torch.promote_types(response.dtype, torch.float32))
        scores = functional.normalize(precise, dim=-1)
        best = torch.ones_like(scores, dtype=torch.bool)
        if self.budget < scores.shape[-1]:
            chosen = scores.topk(self.budget, dim=-1).indices
            best = torch.zeros_like(best).scatter(-1, chosen, True)
        logits = scores / self.temperature
        if self.softmax == "kept":
            logits = logits.masked_fill(~best, -math.inf)
        fires = best
        if self.threshold is not None and not training:
            fires = best & (scores >= self.threshold)
        return logits.softmax(dim=-1) * fires


class Atoms(nn.Module):
    """y = W x + sum_i w_i(x) b_i (a_i^T x), over the atoms of all stages so far.

    Stands where the layer stood. Weights are counted as rank * (in + out) for each stage.
    """

    def __init__(self, base_layer: nn.Module, gate: Gate) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.gate = gate
        self.keys = nn.ParameterList()
        """[r, in] for each stage."""
        self.values = nn.ParameterList()
        """[out, r] for each stage."""

    def grow(self, rank: int) -> None:
        """Atoms for a new stage: random keys, values of zero, so that they write nothing yet."""
        inside, outside = widths(self.base_layer)
        like = next(self.base_layer.parameters())
        keys = torch.empty(rank, inside, device=like.device, dtype=like.dtype)
        nn.init.kaiming_uniform_(keys, a=math.sqrt(5))  # as LoRA's A
        self.keys.append(nn.Parameter(keys))
        self.values.append(nn.Parameter(like.new_zeros(outside, rank)))

    def fire(self, hidden: Tensor) -> Tensor:
        """[..., in] to [..., R]: the weight of each atom."""
        return self.gate(self._response(hidden), self.training)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        response = self._response(hidden)
        weighed = self.gate(response, self.training).to(response.dtype) * response
        written = functional.linear(weighed, _joined(self.values, 1, hidden))
        result: Tensor = self.base_layer(hidden) + written
        return result

    def _response(self, hidden: Tensor) -> Tensor:
        return functional.linear(hidden, _joined(self.keys, 0, hidden))


def _joined(stages: nn.ParameterList, dim: int, like: Tensor) -> Tensor:
    # what trains may be float32 beside frozen atoms in bfloat16
    return torch.cat([p.to(like.dtype) for p in stages], dim=dim)


def widths(layer: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a linear layer."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    a, b = weight.shape
    return (a, b) if isinstance(layer, Conv1D) else (b, a)  # GPT-2 keeps [in, out]


def layers(model: nn.Module) -> Iterator[tuple[str, Atoms]]:
    """Every layer with atoms, with its path."""
    for path, module in model.named_modules():
        if isinstance(module, Atoms):
            yield path, module


def insert(model: nn.Module, anatomy: Anatomy, selector: str, gate: Gate) -> None:
    """Put :class:`Atoms`, without any yet, around the linear layers that a selector names.

    Raises:
        SelectorError: it names none, a part of a fused one, or packed experts.
    """
    from holdfast.pieces.lora_scope import scope

    found = scope(model, anatomy, selector)
    _no_packed(found.parameters, selector)
    for path in found.modules:
        parent, _, leaf = path.rpartition(".")
        layer = Atoms(model.get_submodule(path), gate).train(model.training)
        setattr(model.get_submodule(parent), leaf, layer)


def _no_packed(packed: Sequence[str], selector: str) -> None:
    if packed:
        raise SelectorError(
            f"'{selector}' takes packed experts ('{packed[0]}'), which are no linear layer that "
            "reads one input; choose a scope without them, for example: language.attn."
        )
