"""Linear layers with a bank of low-rank updates, of which each row of a batch uses one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from holdfast.anatomy import naming
from holdfast.errors import ModelError, SelectorError
from holdfast.pieces.atoms import widths

if TYPE_CHECKING:
    from holdfast.anatomy import Anatomy, Part
    from holdfast.anatomy.parts import Rows

Reads = Literal["input", "output"]
"""What an update reads: the layer's input, as LoRA, or what the layer made of it."""


class Chooser(nn.Module, ABC):
    """Says, once a forward pass, which entry of the bank each row uses.

    It reads the hidden states that enter the first block of a tower, where the tokens count
    that are no padding and, where it is known, belong to the prompt. The tokens of a reply that
    is being generated change nothing: the choice is the prompt's.
    """

    whole_rows = True
    """Rows must not be packed behind each other, and none of their embeddings left out."""

    def __init__(self) -> None:
        super().__init__()
        self.chosen: Tensor | None = None
        """[B], of the pass at hand; None: no update is added."""
        self.prompts: tuple[Tensor, Tensor] | None = None
        """``input_ids`` [B, T] of the batch that comes next, and which of them are prompt."""
        self._given: Mapping[str, Any] | None = None
        self._grad = False

    @abstractmethod
    def choose(self, hidden: Tensor, counts: Tensor) -> Tensor | None:
        """[B] entries.

        Args:
            hidden: [B, T, D], what enters the first block.
            counts: [B, T] bool, the tokens to read.
        """

    def watch(self, model: nn.Module, block: str) -> None:
        """Be told of every pass of ``model``, whose first block is ``block``."""
        root, _ = naming.unwrap(model)
        root.register_forward_pre_hook(self._begin, with_kwargs=True)
        root.get_submodule(block).register_forward_pre_hook(self._enter, with_kwargs=True)

    def _begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        past = kwargs.get("past_key_values")
        if past is not None and past.get_seq_length() > 0 and self.chosen is not None:
            self._given = None  # a reply goes on
            return
        self._given = {**kwargs, **({"input_ids": args[0]} if args else {})}
        self._grad = torch.is_grad_enabled()
        self.chosen = None

    def _enter(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._given is None:
            return  # the same pass again, for checkpointed activations
        given, self._given = self._given, None
        hidden = args[0] if args else kwargs["hidden_states"]
        self.chosen = self.choose(hidden, self._counting(hidden, given))

    def _counting(self, hidden: Tensor, given: Mapping[str, Any]) -> Tensor:
        """[B, T]: the tokens that say which entry is meant."""
        counts = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        mask = given.get("attention_mask")
        if "states" in given:  # a decision transformer reads (return, state, action) in turn
            counts[:] = False
            counts[:, 1::3] = True if mask is None else mask.bool()
            return counts
        if isinstance(mask, Tensor) and mask.shape == counts.shape:
            counts &= mask.bool()
        prompt = self._prompt(given)
        if prompt is None or prompt.shape != counts.shape:
            return counts
        asked = counts & prompt
        return torch.where(asked.any(1, keepdim=True), asked, counts)

    def _prompt(self, given: Mapping[str, Any]) -> Tensor | None:
        labels, ids = given.get("labels"), given.get("input_ids")
        if isinstance(labels, Tensor) and isinstance(ids, Tensor) and labels.shape == ids.shape:
            return prompt_of(labels)
        if self.prompts is None or not isinstance(ids, Tensor):
            return None
        known, prompt = self.prompts
        same = known is ids or (known.shape == ids.shape and torch.equal(known, ids))
        return prompt if same else None


def prompt_of(labels: Tensor) -> Tensor:
    """[B, T]: the tokens before the first supervised one."""
    return (labels != -100).cumsum(1) == 0


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

    def forward(self, read: Tensor, chosen: Tensor) -> Tensor:
        """[B, T, in] to [B, T, out]; ``chosen`` [B]."""
        down = torch.cat([p.to(read.dtype) for p in self.downs])[chosen]
        up = torch.cat([p.to(read.dtype) for p in self.ups])[chosen]
        return self.scale * torch.einsum("bti,bri,bor->bto", read, down, up)


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
        chosen = self._chooser[0].chosen
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
            more = update(seen, chosen)
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
