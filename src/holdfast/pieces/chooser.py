"""What a row's prompt decides for the whole row: in training, in padded batches, while writing.

The prompt is what stands before the first answer token. Where labels go to the model it reads
them there. Where they do not, whoever calls the model says beforehand where prompts end
(:func:`announce`); else all of a row is its prompt, which is so where a reply is to be written.
What was decided then stays with the key-value cache that the pass filled, so that a reply goes
on as it began, whichever rows have left the batch or joined it (:func:`selected`,
:func:`joined`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.anatomy import naming
from holdfast.errors import UsageError

_NOTES = "decided_by_prompts"
"""Attribute of a key-value cache: what each chooser decided, [B, ...] by its kind."""


class Chooser(nn.Module, ABC):
    """Says, once a forward pass, which entry of the bank each row uses, or how much of each.

    It reads the hidden states that enter the first block of a tower, where the tokens count
    that are no padding and belong to the prompt. The tokens of a reply that is being written
    change nothing: the choice is the prompt's.
    """

    whole_rows = True
    """Rows must not be packed behind each other, and none of their embeddings left out."""
    through = True
    """Whether gradients flow through entries that do not train."""

    def __init__(self) -> None:
        super().__init__()
        self.chosen: Tensor | None = None
        """[B] entries or [B, E] shares, of the pass at hand; None: no update is added."""
        self.prompts: tuple[Tensor, Tensor] | None = None
        """``input_ids`` [B, T] of the batch that comes next, and which of them are prompt."""
        self._given: Mapping[str, Any] | None = None
        self._grad = False

    @abstractmethod
    def choose(self, hidden: Tensor, counts: Tensor) -> Tensor | None:
        """[B] entries, or [B, E] shares of all of them.

        Args:
            hidden: [B, T, D], what enters the first block.
            counts: [B, T] bool, the tokens to read.
        """

    def watch(self, model: nn.Module, block: str) -> None:
        """Be told of every pass of ``model``, whose first block is ``block``."""
        root, _ = naming.unwrap(model)
        root.register_forward_pre_hook(self._begin, with_kwargs=True)
        root.register_forward_hook(self._end, with_kwargs=True)
        root.get_submodule(block).register_forward_pre_hook(self._enter, with_kwargs=True)

    def _begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        past = kwargs.get("past_key_values")
        if past is not None and past.get_seq_length() > 0:
            self._go_on(past)
            return
        self._given = {**kwargs, **({"input_ids": args[0]} if args else {})}
        self._grad = torch.is_grad_enabled()
        self.chosen = None

    def _go_on(self, past: Any) -> None:
        """A reply goes on as its prompt decided."""
        self._given, kind = None, type(self).__name__
        notes = getattr(past, _NOTES, {})
        if kind not in notes:
            raise UsageError(
                "a reply is to go on from a key-value cache that this model did not fill, so that "
                f"its prompts' choice ({kind}) is not known; read the prompts with the model "
                "itself and use_cache=True."
            )
        self.chosen = notes[kind]

    def _end(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        cache = kwargs.get("past_key_values")
        cache = getattr(output, "past_key_values", None) if cache is None else cache
        if cache is not None and self.chosen is not None:
            notes = {**getattr(cache, _NOTES, {}), type(self).__name__: self.chosen.detach()}
            setattr(cache, _NOTES, notes)

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


def announce(model: nn.Module, ids: Tensor, prompt: Tensor) -> None:
    """Say where the prompts of coming passes over ``ids`` [B, T] are: ``prompt`` [B, T] bool."""
    for module in model.modules():
        if isinstance(module, Chooser):
            module.prompts = (ids, prompt)


def announced(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    """A labelled batch without its labels and tags, once it is said what of it is prompt."""
    from holdfast.plan import TAGS

    if isinstance(batch.get("input_ids"), Tensor) and isinstance(batch.get("labels"), Tensor):
        announce(model, batch["input_ids"], prompt_of(batch["labels"]))
    return {k: v for k, v in batch.items() if k not in ("labels", *TAGS)}


def decides(model: nn.Module) -> bool:
    """Whether what a model adds to a row depends on the row's whole prompt."""
    return any(isinstance(module, Chooser) for module in model.modules())


def selected(cache: Any, rows: Tensor) -> None:
    """Only ``rows`` of a cache are left, in this order: so it is with what prompts decided."""
    if notes := getattr(cache, _NOTES, None):
        setattr(cache, _NOTES, {k: v[rows.to(v.device)] for k, v in notes.items()})


def joined(upper: Any, lower: Any) -> None:
    """The rows of ``lower`` were put behind those of ``upper``."""
    if notes := getattr(upper, _NOTES, None):
        below = getattr(lower, _NOTES)
        setattr(upper, _NOTES, {k: torch.cat([v, below[k]]) for k, v in notes.items()})
