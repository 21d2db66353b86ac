"""Per-example gradients, folded as they are made: sums of squares, of absolute values.

The square of a batch's gradient is not the sum of its examples' squared gradients: it depends on
the batch size and correlates poorly with it. Here every example's gradient is formed, one module
at a time: from what went into the module and the gradient of what came out of it

    linear layer, y = x W^T + b:   G_i = sum_t g_it x_it^T,   b: sum_t g_it
    any other module:              G_i = the pullback of g_i through the module on x_i alone

so that one forward and one backward pass serve a whole batch, no gradient of weights is computed
in the ordinary way, and only one module's examples are held at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

Score = Callable[[nn.Module, Mapping[str, Any]], Tensor]
"""(model, batch) -> [B]: a number for each row, which depends on that row only."""
Fold = Callable[[Tensor], Tensor]
"""Elementwise, of a gradient."""

HELD = 1 << 26
"""Numbers of per-example gradients of one weight that are held at once."""


class _Crossed(Exception):
    """A module does not see the batch row by row."""


def fold_gradients(
    model: nn.Module,
    names: Iterable[str],
    batches: Iterable[Mapping[str, Any]],
    score: Score,
    fold: Fold | Mapping[str, Fold],
    *,
    by_hooks: bool = True,
) -> tuple[Any, int]:
    """sum_i fold(d score_i / d w) over the examples of ``batches``, for each weight w.

    Where a module that owns one of the weights does not see [B, T, ...] (towers of images,
    routed experts, weights without a module), examples are taken one at a time: the same
    numbers, more slowly.

    Args:
        model: left as it is: weights, gradients, modes and which of them want gradients.
        names: weights, in ``model.named_parameters()``.
        batches: B rows of T tokens each, on the model's device.
        score: see :data:`Score`. Computed in the mode that the model is in.
        fold: one, or several by name, for one result each.
        by_hooks: False takes examples one at a time.

    Returns:
        By name (of the fold, if there are several, and) of the weight, the sum in the weight's
        shape, in float32 (float64 for float64 weights); and the number of examples.
    """
    folds = {"": fold} if callable(fold) else dict(fold)
    weights = {n: p for n, p in model.named_parameters() if n in set(names)}
    sums = {
        key: {n: torch.zeros_like(p, dtype=_precise(p)) for n, p in weights.items()}
        for key in folds
    }
    count = 0

    def add(name: str, gradients: Tensor) -> None:
        for key, one in folds.items():
            sums[key][name] += one(gradients.to(_precise(gradients))).sum(0)

    hooked = by_hooks
    for batch in batches:
        rows = len(batch["input_ids"])
        count += rows
        if hooked and rows > 1:
            try:
                for name, gradients in _hooked(model, weights, batch, score):
                    add(name, gradients)
                continue
            except _Crossed:
                hooked = False
        for row in rows_of(batch):
            for name, gradient in single(model, weights, row, score).items():
                add(name, gradient[None])
    return (sums[""] if callable(fold) else sums), count


def _precise(value: Tensor) -> torch.dtype:
    return torch.promote_types(value.dtype, torch.float32)


def single(
    model: nn.Module, weights: Mapping[str, Tensor], row: Mapping[str, Any], score: Score
) -> dict[str, Tensor]:
    """d (sum of the scores of a batch) / d w, by weight; 0 where there is none."""
    with _wanting(model, set(weights)), torch.enable_grad():
        found = torch.autograd.grad(
            score(model, row).sum(), list(weights.values()), allow_unused=True
        )
    return {
        n: torch.zeros_like(p) if g is None else g
        for (n, p), g in zip(weights.items(), found, strict=True)
    }


def rows_of(batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Each row as a batch of its own.

    Raises ValueError where that cannot be told: images that are not one to a row.
    """
    size = len(batch["input_ids"])
    for key, value in batch.items():
        if isinstance(value, Tensor) and value.ndim and len(value) != size:
            raise ValueError(
                f"'{key}' has {len(value)} entries for {size} rows, which cannot be taken apart; "
                "give batches of one row."
            )
    for i in range(size):
        yield {k: v[i : i + 1] if isinstance(v, Tensor) and v.ndim else v for k, v in batch.items()}


@dataclass
class _Use:
    """One weight's owners, and what they saw in a pass."""

    seen: list[tuple[nn.Module, str, Tensor, Tensor]] = field(default_factory=list)
    """Module, the weight's name in it, its input and the gradient of its output."""


def _hooked(
    model: nn.Module, weights: Mapping[str, Tensor], batch: Mapping[str, Any], score: Score
) -> Iterator[tuple[str, Tensor]]:
    """(name, [b, *shape]) of each weight's per-example gradients, some rows at a time."""
    owners = _owners(model, weights)
    uses = {name: _Use() for name in weights}
    shape = tuple(batch["input_ids"].shape)
    taps: list[tuple[nn.Module, Tensor, Tensor]] = []

    def tap(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        x = inputs[0] if inputs else None
        if not isinstance(x, Tensor) or not isinstance(output, Tensor) or len(inputs) > 1:
            raise _Crossed
        if tuple(x.shape[:2]) != shape or tuple(output.shape[:2]) != shape:
            raise _Crossed
        if not output.requires_grad:
            output = output.detach().requires_grad_()
        taps.append((module, x.detach(), output))
        return output

    handles = [module.register_forward_hook(tap) for module in owners]
    try:
        with _wanting(model, set()), torch.enable_grad():
            total = score(model, batch).sum()
            if not taps or not total.requires_grad:
                raise _Crossed
            found = torch.autograd.grad(total, [out for _, _, out in taps], allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    for (module, x, _), g in zip(taps, found, strict=True):
        for local, name in owners[module] if g is not None else ():
            uses[name].seen.append((module, local, x, g))
    yield from ((n, part) for n, use in uses.items() for part in _parts(use, weights[n], shape[0]))


def _parts(use: _Use, weight: Tensor, rows: int) -> Iterator[Tensor]:
    """The per-example gradients of one weight, summed over its uses."""
    size = max(1, HELD // weight.numel())
    for start in range(0, rows if use.seen else 0, size):
        part = slice(start, start + size)
        yield sum(
            (_pulled(module, local, x[part], g[part]) for module, local, x, g in use.seen),
            start=torch.zeros((), device=weight.device),
        )


def _pulled(module: nn.Module, local: str, x: Tensor, g: Tensor) -> Tensor:
    """[b, *shape]: each row's gradient of one of a module's weights."""
    if type(module) is nn.Linear:
        flat_x, flat_g = x.flatten(1, -2), g.flatten(1, -2)
        return flat_g.transpose(1, 2) @ flat_x if local == "weight" else flat_g.sum(1)
    value = module.get_parameter(local).detach()
    if type(module) is nn.Embedding:
        return _embedded(module, value, x, g)
    others = {n: p.detach() for n, p in module.named_parameters() if n != local}

    def one(x_i: Tensor, g_i: Tensor) -> Tensor:
        pull = vjp(lambda w: functional_call(module, {**others, local: w}, (x_i[None],)), value)[1]
        pulled: Tensor = pull(g_i[None])[0]
        return pulled

    return torch.as_tensor(vmap(one)(x, g))


def _embedded(module: nn.Embedding, value: Tensor, x: Tensor, g: Tensor) -> Tensor:
    if module.padding_idx is not None:
        g = g * (x != module.padding_idx)[..., None]
    rows = torch.arange(len(x), device=x.device)[:, None].expand_as(x)
    out = value.new_zeros(len(x), *value.shape)
    return out.index_put_((rows, x), g.to(out.dtype), accumulate=True)


def _owners(
    model: nn.Module, weights: Mapping[str, Tensor]
) -> dict[nn.Module, list[tuple[str, str]]]:
    """Module -> (name in it, name in ``weights``). Raises :class:`_Crossed` for a weight that is
    no leaf module's."""
    names = {id(p): n for n, p in weights.items()}
    owners: dict[nn.Module, list[tuple[str, str]]] = {}
    for module in model.modules():
        own = [
            (k, names[id(p)]) for k, p in module.named_parameters(recurse=False) if id(p) in names
        ]
        if own and next(module.children(), None) is not None:
            raise _Crossed
        if own:
            owners[module] = own
    return owners


@contextmanager
def _wanting(model: nn.Module, names: set[str]) -> Iterator[None]:
    """Within, exactly these weights want gradients."""
    was = {n: p.requires_grad for n, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    try:
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(was[name])


def rowwise(values: Tensor, rows: Tensor, size: int) -> Tensor:
    """[B]: the sum of ``values`` [N] over the positions of each row; ``rows`` [N]."""
    return values.new_zeros(size).index_add_(0, rows, values)
