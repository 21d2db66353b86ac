"""An MLP beside a tunable copy of itself, with a router, and where it goes in a model."""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from holdfast.errors import ModelError

if TYPE_CHECKING:
    from holdfast.anatomy import Anatomy, Part

First = Callable[[nn.Linear], None]
"""Gives a router its first values."""


class TwoExperts(nn.Module):
    """y = w_0 E_0(h) + w_1 E_1(h) with w = softmax(W_r h + b_r); stands where the MLP stood.

    ``evaluate="hard"`` sends each token to its more likely expert in evaluation mode (to the
    original one where both are equally likely). ``stop_gradient`` runs the original expert
    without gradient, so that nothing flows through it to the blocks below.
    """

    def __init__(
        self,
        original: nn.Module,
        width: int,
        *,
        evaluate: Literal["hard", "soft"] = "hard",
        stop_gradient: bool = False,
    ) -> None:
        super().__init__()
        weight = next(original.parameters())
        self.original = original
        self.tuned = copy.deepcopy(original)
        self.router = nn.Linear(width, 2, device=weight.device, dtype=weight.dtype)
        self.evaluate = evaluate
        self.stop_gradient = stop_gradient

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., d] to [..., d]."""
        logits = self.router(hidden)
        if not self.training and self.evaluate == "hard":
            return self._one_each(hidden, logits.argmax(dim=-1))
        weights = logits.softmax(dim=-1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.stop_gradient):
            original = self.original(hidden)
        mixed: Tensor = weights[..., :1] * original + weights[..., 1:] * self.tuned(hidden)
        return mixed

    def _one_each(self, hidden: Tensor, choice: Tensor) -> Tensor:
        # An MLP acts on each token alone, so each expert sees only the tokens it was sent.
        result = torch.empty_like(hidden)
        for index, expert in enumerate((self.original, self.tuned)):
            sent = choice == index
            result[sent] = expert(hidden[sent])
        return result


def normal_router(bias: float, seed: int) -> First:
    """First values of routers, in the order of the blocks: W ~ N(0, 0.02), b = (bias, -bias)."""
    generator = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def first(router: nn.Linear) -> None:
        router.weight.copy_(torch.randn(router.weight.shape, generator=generator) * 0.02)
        router.bias.copy_(torch.tensor([bias, -bias]))

    return first


def mixtures(model: nn.Module) -> Iterator[tuple[str, TwoExperts]]:
    """Every mixture of a model with its path."""
    for path, module in model.named_modules():
        if isinstance(module, TwoExperts):
            yield path, module


def insert(model: nn.Module, anatomy: Anatomy, first: First, **settings: Any) -> None:
    """Put a mixture where each block of the language model has its MLP.

    Raises:
        ModelError: the language model has no MLP that is one module, or has experts.
    """
    for path, width in mlp_paths(model, anatomy).items():
        parent, _, leaf = path.rpartition(".")
        mixture = TwoExperts(model.get_submodule(path), width, **settings)
        first(mixture.router)
        mixture.train(model.training)
        setattr(model.get_submodule(parent), leaf, mixture)


def mlp_paths(model: nn.Module, anatomy: Anatomy) -> dict[str, int]:
    """Path of each language block's MLP to its width d: the common parent of up and down.

    Raises:
        ModelError: a block has experts already, or its MLP's layers stand loose in the block.
    """
    blocks: dict[int, list[Part]] = {}
    for part in anatomy.parts:
        if part.tower != "language" or part.block is None:
            continue
        if part.plays("router") or (part.plays("mlp") and len(part.shape) > 2):
            raise ModelError(
                f"two-experts replaces an MLP, and '{part.parameter}' belongs to a mixture of "
                "experts already. Use a method that trains weights as they are, such as gate-up."
            )
        if part.plays("mlp") and not part.bias:
            blocks.setdefault(part.block, []).append(part)
    if not blocks:
        raise ModelError(
            "two-experts found no MLP in the language model; `holdfast anatomy MODEL` lists "
            "what it has."
        )
    return dict(_mlp(model, anatomy, parts) for _, parts in sorted(blocks.items()))


def _mlp(model: nn.Module, anatomy: Anatomy, parts: list[Part]) -> tuple[str, int]:
    layers = [part.parameter.split(".")[:-1] for part in parts]
    common = itertools.takewhile(lambda level: len(set(level)) == 1, zip(*layers, strict=False))
    path = ".".join(level[0] for level in common)
    # Where the layers stand loose in the block (OPT), their common parent has the attention too.
    loose = any(
        other.parameter.startswith(f"{path}.") and other.plays("attn") for other in anatomy.parts
    )
    widths = [_outputs(model, part) for part in parts if part.plays("mlp.down")]
    inputs = inspect.signature(model.get_submodule(path).forward).parameters.values()
    required = [p for p in inputs if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    if loose or len(widths) != 1 or len(required) != 1:
        raise ModelError(
            "two-experts needs an MLP that is one module and reads one tensor, and the MLP of "
            f"'{anatomy.family}' ('{parts[0].parameter}' ...) is not. Use gate-up or mlp."
        )
    return path, widths[0]


def _outputs(model: nn.Module, part: Part) -> int:
    layer = model.get_submodule(part.parameter.rpartition(".")[0])
    # GPT-2's Conv1D keeps its weight as [in, out].
    return part.shape[0] if isinstance(layer, nn.Linear) else part.shape[1]
