"""Linear layers with a bank of low-rank updates, of which each row of a batch uses one, or all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from holdfast.errors import ModelError, SelectorError
from holdfast.pieces.atoms import widths
from holdfast.pieces.chooser import Chooser

if TYPE_CHECKING:
    from holdfast.anatomy import Anatomy, Part
    from holdfast.anatomy.parts import Rows

Reads = Literal["input", "output"]
"""What an update reads: the layer's input, as LoRA, or what the layer made of it."""


class Updates(nn.Module):
    """s * B_e A_e x for the entry e that a row uses; A is [r, in] and random, B [out, r] and 0."""

    def __init__(self, sizes: tuple[int, int], scale: float, reads: Reads, rows: Tensor | None):
        super().__init__()
        self.sizes, self.scale, self.reads = sizes, scale, reads
        self.register_buffer("rows", rows, persistent=False)
        self.downs = nn.ParameterList()
        """[E, r, in] for each time that the bank grew."""
        self.ups = nn.ParameterList()
        """[E, out, r] likewise."""

    def grow(self, entries: int, rank: int, like: Tensor) -> None:
        """``entries`` more updates, which write nothing yet."""
        inside, outside = self.sizes
        down = like.new_empty(entries, rank, inside)
        nn.init.uniform_(down, -1 / math.sqrt(inside), 1 / math.sqrt(inside))  # as LoRA's A
        self.downs.append(nn.Parameter(down))
        self.ups.append(nn.Parameter(like.new_zeros(entries, outside, rank)))

    def forward(self, read: Tensor, chosen: Tensor, through: bool = True) -> Tensor:
        """[B, T, in] to [B, T, out].

        Args:
            chosen: [B], the entry of each row; or [B, E], how much of each entry it gets.
            through: with the latter, whether gradients reach ``read`` through entries older than
                the newest.
        """
        if chosen.is_floating_point():
            return self._mixed(read, chosen.to(read.dtype), through)
        down = torch.cat([p.to(read.dtype) for p in self.downs])[chosen]
        up = torch.cat([p.to(read.dtype) for p in self.ups])[chosen]
        return self.scale * torch.einsum("bti,bri,bor->bto", read, down, up)

    def _mixed(self, read: Tensor, shares: Tensor, through: bool) -> Tensor:
        """sum_e shares[b, e] * s * B_e A_e x."""
        total: Any = 0.0
        begin = 0
        for place, (down, up) in enumerate(zip(self.downs, self.ups, strict=True), 1):
            seen = read if through or place == len(self.downs) else read.detach()
            own = shares[:, begin : begin + len(down)]
            inside = torch.einsum("bti,eri->bter", seen, down.to(read.dtype))
            weighed = inside * own[:, None, :, None]
            total = total + torch.einsum("bter,eor->bto", weighed, up.to(read.dtype))
            begin += len(down)
        mixed: Tensor = self.scale * total
        return mixed


class Banked(nn.Module):
    """A linear layer and the updates of its output. Stands where the layer stood."""

    def __init__(self, base_layer: nn.Module, chooser: Chooser) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.updates = nn.ModuleList()
        self._chooser = (chooser,)  # not a child: the model holds it once

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T, in] to [B, T, out], or the same with rows and tokens in one dimension."""
        made: Tensor = self.base_layer(hidden)
        chosen, through = self._chooser[0].chosen, self._chooser[0].through
        if chosen is None:
            return made
        rows = len(chosen)
        flat = made.reshape(rows, -1, made.shape[-1])
        read = hidden.reshape(rows, -1, hidden.shape[-1])
        result = flat
        for update in self.updates:
            assert isinstance(update, Updates)
            at: Any = update.rows
            seen = read if update.reads == "input" else flat if at is None else flat[..., at]
            more = update(seen, chosen, through)
            result = result + more if at is None else result.index_add(-1, at, more)
        return result.reshape(made.shape)


def layers(model: nn.Module) -> Iterator[tuple[str, Banked]]:
    """Every layer with a bank, with its path."""
    for path, module in model.named_modules():
        if isinstance(module, Banked):
            yield path, module


def grow(model: nn.Module, entries: int, rank: int) -> None:
    """Give every bank ``entries`` more updates of ``rank``."""
    for _, layer in layers(model):
        like = next(layer.base_layer.parameters())
        for update in layer.updates:
            assert isinstance(update, Updates)
            update.grow(entries, rank, like)


def shrink(model: nn.Module) -> None:
    """Draw every A of the last growth anew, within 1 / sqrt(r times the inputs of all updates).

    What Kaiming's rule gives for all of them held in one tensor, as L2M's released code does.
    """
    updates = [u for _, layer in layers(model) for u in layer.updates if isinstance(u, Updates)]
    inputs = sum(update.sizes[0] for update in updates)
    for update in updates:
        down = update.downs[-1]
        bound = 1 / math.sqrt(down.shape[1] * inputs)
        nn.init.uniform_(down, -bound, bound)


def insert(
    model: nn.Module, parts: Sequence[tuple[Part, Reads]], scale: float, chooser: Chooser
) -> None:
    """Put a bank, without entries yet, around the layer of each part."""
    for part, reads in parts:
        path = part.parameter.rpartition(".")[0]
        layer = model.get_submodule(path)
        if not isinstance(layer, Banked):
            if not isinstance(layer, (nn.Linear, Conv1D)):
                raise SelectorError(
                    f"'{part.parameter}' is no weight of a linear layer that reads one input "
                    "(experts are packed in one weight); choose a scope without it, for "
                    "example: language.attn."
                )
            parent, _, leaf = path.rpartition(".")
            layer = Banked(layer, chooser).train(model.training)
            setattr(model.get_submodule(parent), leaf, layer)
        inside, outside = widths(layer.base_layer)
        rows = None if part.rows is None else _index(part.rows).to(_device(layer))
        outside = outside if rows is None else len(rows)
        sizes = (inside if reads == "input" else outside, outside)
        layer.updates.append(Updates(sizes, scale, reads, rows))


def _index(rows: Rows) -> Tensor:
    index = torch.arange(rows.size)
    within = index % rows.period
    return index[(within >= rows.start) & (within < rows.stop)]


def _device(layer: nn.Module) -> torch.device:
    return next(layer.parameters()).device


def first_block(anatomy: Anatomy, parts: Sequence[Part]) -> str:
    """Path of the first block of the one tower that ``parts`` lie in.

    Raises:
        SelectorError: they lie in several towers.
        ModelError: the tower has no list of blocks.
    """
    towers = {part.tower for part in parts}
    if len(towers) > 1:
        raise SelectorError(
            f"entries are chosen by what enters one tower, and the scope takes parts of "
            f"{' and '.join(sorted(towers))}; name one of them."
        )
    place = next((t for t in anatomy.towers if t.tower in towers and t.blocks), None)
    if place is None:
        raise ModelError(f"the tower '{min(towers)}' has no list of blocks to choose for")
    return min(place.blocks, key=lambda path: place.blocks[path])
