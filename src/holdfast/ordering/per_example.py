"""Every example's gradient, read off one ordinary backward pass of a batch by hooks.

The weights are frozen, so the backward pass makes activation gradients only and the products
that would give weight gradients vanish. What a hook needs beside is one layer's inputs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

from holdfast.ordering.ghost import Use, dots, squares
from holdfast.ordering.losses import example_losses, frozen, moving, precise

log = logging.getLogger(__name__)
CLOSE = 1e-3
"""How far hooks and autograd may be apart, relative, on the examples that are computed twice."""


@dataclass(frozen=True)
class Gradients:
    """What was read off the gradients of B examples."""

    losses: Tensor
    """[B]."""
    squares: Tensor
    """[B]: squared norms."""
    dots: Tensor
    """[B]: inner products with the given vector; 0 without one."""


class PerExample:
    """Norms of per-example gradients and their products with a vector.

    Linear layers, embeddings and norms are read by hooks. A model that has other weights in the
    scope, or on whose first batch hooks and autograd do not agree, is read one example at a time
    by autograd instead: the same numbers, slower.

    Args:
        names: the weights that count.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self.model, self.names = model, list(names)
        self.why = _unreadable(model, set(names))
        """Why examples are read one by one; None if they are not."""
        self._checked = False

    def __call__(
        self, batch: Mapping[str, Any], v: Mapping[str, Tensor] | None = None
    ) -> Gradients:
        """Read a batch.

        Args:
            v: a value for each of the weights, by name.
        """
        if self.why is not None:
            return self.one_by_one(batch, v)
        found = _Pass(self.model, self.names, v or {}).read(batch)
        if not self._checked:
            self._checked = True
            rows = sorted({0, len(found.losses) - 1})
            slow = self.one_by_one(batch, v, rows)
            if not _agree(found, slow, rows):
                self.why = "hooks and autograd disagree on the first batch"
                log.info("gradients are computed one example at a time: %s", self.why)
                return self.one_by_one(batch, v)
        return found

    def one_by_one(
        self,
        batch: Mapping[str, Any],
        v: Mapping[str, Tensor] | None = None,
        rows: Sequence[int] | None = None,
    ) -> Gradients:
        """The same by autograd, for all rows of a batch or some."""
        chosen = list(range(len(batch["input_ids"])) if rows is None else rows)
        losses, norms, products = [], [], []
        with moving(self.model, self.names) as weights, torch.enable_grad():
            for row in chosen:
                loss = example_losses(self.model, batch)[row]
                grads = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
                pairs = [
                    (n, precise(g)) for n, g in zip(weights, grads, strict=True) if g is not None
                ]
                losses.append(loss.detach())
                norms.append(torch.stack([g.square().sum() for _, g in pairs]).sum())
                inner = [(g * v[n]).sum() for n, g in pairs] if v else [norms[-1] * 0]
                products.append(torch.stack(inner).sum())
        return Gradients(torch.stack(losses), torch.stack(norms), torch.stack(products))


def _agree(found: Gradients, slow: Gradients, rows: Sequence[int]) -> bool:
    scale = slow.squares.clamp_min(1e-12)
    off = (found.squares[rows] - slow.squares).abs() / scale
    apart = (found.dots[rows] - slow.dots).abs() / slow.dots.abs().max().clamp_min(1e-12)
    return bool((off < CLOSE).all() and (apart < 10 * CLOSE).all())


def _kind(module: nn.Module) -> str | None:
    """How a module's own weights are read."""
    forward = type(module).forward
    if forward is nn.Linear.forward:
        return "linear"
    if forward is Conv1D.forward:
        return "conv1d"
    if isinstance(module, nn.Embedding):
        return "embedding"
    own = dict(module.named_parameters(recurse=False))
    norm = "norm" in type(module).__name__.lower() and own.keys() <= {"weight", "bias"}
    return "norm" if norm and all(p.dim() == 1 for p in own.values()) else None


def _unreadable(model: nn.Module, names: set[str]) -> str | None:
    for prefix, module in model.named_modules():
        own = [f"{prefix}.{n}".lstrip(".") for n, _ in module.named_parameters(recurse=False)]
        mine = sorted(names.intersection(own))
        if mine and _kind(module) is None:
            log.info("gradients are computed one example at a time: no hook reads '%s'", mine[0])
            return f"'{mine[0]}' belongs to a {type(module).__name__}, which no hook reads"
    return None


@dataclass
class _Seen:
    """A matrix's uses in one pass."""

    made: int = 0
    """In the forward pass."""
    uses: list[Use] = field(default_factory=list)


class _Pass:
    """One forward and backward pass under hooks."""

    def __init__(self, model: nn.Module, names: Sequence[str], v: Mapping[str, Tensor]) -> None:
        self.model, self.v = model, v
        named = dict(model.named_parameters())
        self.wanted = {id(named[name]): name for name in names}
        self.matrices: dict[str, _Seen] = {}
        self.vectors: dict[str, Tensor] = {}
        self.size = 0
        self._inside = False

    def read(self, batch: Mapping[str, Any]) -> Gradients:
        self.size = len(batch["input_ids"])
        self.squares: Tensor | float = 0.0
        self.dots: Tensor | float = 0.0
        handles = [
            module.register_forward_hook(self._forward, with_kwargs=True)
            for module in self.model.modules()
            if any(id(p) in self.wanted for p in module.parameters(recurse=False))
        ]
        try:
            with frozen(self.model), torch.enable_grad():
                losses = example_losses(self.model, batch)
                losses.sum().backward()  # type: ignore[no-untyped-call]
        finally:
            for handle in handles:
                handle.remove()
        for name, vector in self.vectors.items():
            self.squares += vector.square().sum(1)
            if name in self.v:
                self.dots += vector @ precise(self.v[name])
        zeros = torch.zeros_like(losses)
        return Gradients(losses.detach(), zeros + self.squares, zeros + self.dots)

    def _forward(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor | None:
        """Watch a layer's output; where nothing below it needs a gradient, begin one there."""
        if self._inside:
            return None
        given = (args[0] if args else next(iter(kwargs.values()))).detach()
        own = {
            kind: self.wanted[id(p)]
            for kind, p in module.named_parameters(recurse=False)
            if id(p) in self.wanted
        }
        if "weight" in own and module.get_parameter("weight").dim() == 2:
            self.matrices.setdefault(own["weight"], _Seen()).made += 1
        begins = not output.requires_grad
        if begins:
            if len(output) == 1 < self.size:  # positions, which are added to every row
                output = output.expand(self.size, *output.shape[1:])
                given = given.expand(self.size, *given.shape[1:])
            output = output.detach().requires_grad_(True)
        known = self._normal(module, given) if _kind(module) == "norm" else given
        watch = partial(self._backward, module, own, known)
        output.register_hook(watch)  # type: ignore[no-untyped-call]
        return output.clone() if begins else None

    @torch.no_grad()
    def _backward(
        self, module: nn.Module, own: Mapping[str, str], given: Tensor, grad: Tensor
    ) -> None:
        grad = self._rows(precise(grad))
        kind = _kind(module)
        if kind == "norm":
            given = precise(given).reshape(grad.shape)
            if "weight" in own:
                self._vector(own["weight"], (grad * given).flatten(1, -2).sum(1))
        elif "weight" in own:
            self._matrix(own["weight"], module, self._use(kind, module, given, grad))
        if "bias" in own:
            self._vector(own["bias"], grad.flatten(1, -2).sum(1))

    def _use(self, kind: str | None, module: nn.Module, given: Tensor, grad: Tensor) -> Use:
        grad = grad.flatten(1, -2)
        if kind == "embedding":
            ids = given.reshape(self.size, -1)
            scale = getattr(module, "embed_scale", None)
            if scale is not None:
                grad = grad * scale
            padding: Any = module.padding_idx
            if padding is not None:
                grad = grad * (ids != padding)[..., None]
            return Use(ids, grad)
        inputs = self._rows(precise(given)).flatten(1, -2)
        return Use(inputs, grad) if kind == "conv1d" else Use(grad, inputs)

    def _rows(self, x: Tensor) -> Tensor:
        """[B, ..., K] of what a layer may see as [B * T, K]."""
        if len(x) == self.size and x.dim() > 2:
            return x
        return x.reshape(self.size, -1, x.shape[-1])

    def _matrix(self, name: str, module: nn.Module, use: Use) -> None:
        if name in self.v:
            self.dots += dots(use, precise(self.v[name]))
        seen = self.matrices[name]
        seen.uses.append(use)
        if len(seen.uses) == seen.made:  # a tied matrix's squares have cross terms
            self.squares += squares(seen.uses, module.get_parameter("weight").shape)
            seen.uses = []

    @torch.no_grad()
    def _normal(self, module: nn.Module, x: Tensor) -> Tensor:
        """What a norm multiplies by its weight: its output is affine in it, so a difference."""
        own = dict(module.named_parameters(recurse=False))
        zeros = {name: torch.zeros_like(p) for name, p in own.items()}
        ones = zeros | {name: torch.ones_like(p) for name, p in own.items() if name == "weight"}
        self._inside = True
        try:
            one: Tensor = functional_call(module, ones, (x,))
            two: Tensor = functional_call(module, zeros, (x,))
            return one - two
        finally:
            self._inside = False

    def _vector(self, name: str, value: Tensor) -> None:
        self.vectors[name] = self.vectors[name] + value if name in self.vectors else value
