"""A model read once: the hidden states in front of its head, and the head by itself.

Logits of every position of a real model do not fit in memory (a position of a vocabulary of
150,000 takes 0.6 MB); hidden states do. So a model is run once and its hidden states at the
positions of interest are kept, and logits are made of a few positions at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.data import collate
from holdfast.errors import ModelError, UsageError
from holdfast.probes._contexts import Contexts, predicting
from holdfast.tasks.batches import asked, in_batches, to_model
from holdfast.tasks.room import BatchSize

CHUNK = 2**24
"""Logits that are held at one time, per model: 64 MB in float32."""
_ONE = 1 - 2**-20


@dataclass(frozen=True)
class Head:
    """From the last hidden states to logits, as the model itself makes them."""

    module: nn.Module
    scale: float = 1.0
    """What the model multiplies its head's output by (Cohere, Granite, Falcon-H1)."""
    cap: float | None = None
    """Soft cap ``cap * tanh(x / cap)`` behind the scale (Gemma)."""

    @torch.no_grad()
    def __call__(self, hidden: Tensor) -> Tensor:
        """[N, V] float32 logits of [N, d] hidden states."""
        weight = next(self.module.parameters())
        dtype = weight.dtype if weight.is_floating_point() else hidden.dtype
        logits: Tensor = self.module(hidden.to(weight.device, dtype)).float()
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)

    @property
    def size(self) -> int:
        """V."""
        return int(getattr(self.module, "out_features", 0)) or len(next(self.module.parameters()))

    def copied(self) -> Head:
        """The same head with weights of its own, if the model's may still be trained."""
        if not any(p.requires_grad for p in self.module.parameters()):
            return self
        return Head(copy.deepcopy(self.module), self.scale, self.cap)


@dataclass(frozen=True)
class Reading:
    """A model's last hidden states at the positions of some contexts."""

    hidden: tuple[Tensor, ...]
    """For each example [n_i, d], in the model's dtype, in ordinary memory."""
    head: Head

    def logits(self, i: int) -> Iterator[Tensor]:
        """Example i's logits, [m, V] float32 at a time."""
        for part in torch.split(self.hidden[i], max(1, CHUNK // self.head.size)):
            yield self.head(part)


def read(
    model: nn.Module, contexts: Contexts, *, batch_size: BatchSize = "auto", own_head: bool = False
) -> Reading:
    """Run ``model`` over the contexts, once.

    Args:
        own_head: keep a copy of a head that may still be trained.

    Raises:
        ModelError: the model has no output head, or does to its head's output what
            :class:`Head` cannot repeat.
        RunError: there is no memory for a batch of one.
    """
    module = _head_of(model)
    made: list[Head] = []

    def work(rows: list[int]) -> list[Tensor]:
        batch = collate([contexts.encoded[i] for i in rows], pad_id=contexts.pad_id, side="right")
        labels = batch.pop("labels")
        positions = torch.stack([predicting(row) for row in labels])
        with _captured(module, positions) as seen:
            out = model(**to_model(batch, model), use_cache=False)
        if not made and len(seen[0]):
            made.append(_head(model, module, seen[0][:1], out.logits[:, :1]))
        return list(torch.split(seen[0].cpu(), positions.sum(-1).tolist()))

    lengths = [len(e["input_ids"]) for e in contexts.encoded]
    with asked(model):
        hidden = in_batches(lengths, work, batch_size=batch_size)
    head = made[0] if made else Head(module)
    return Reading(tuple(hidden), head.copied() if own_head else head)


def same_vocabulary(base: Head, tuned: Head) -> None:
    """Raises :class:`UsageError` unless both heads write the same tokens."""
    if base.size != tuned.size:
        raise UsageError(
            f"the base writes {base.size:,} different tokens and the tuned model {tuned.size:,}; "
            "a distribution can only be compared with one over the same vocabulary. Resize the "
            "embeddings of the base as the tuned model's were, and compare with that."
        )


def _head_of(model: nn.Module) -> nn.Module:
    get = getattr(model, "get_output_embeddings", None)
    head = get() if get is not None else None
    if not isinstance(head, nn.Module):
        raise ModelError(f"{type(model).__name__} has no language-model head to take logits from.")
    return head


@contextmanager
def _captured(head: nn.Module, positions: Tensor) -> Iterator[list[Tensor]]:
    """Collects what the head gets at ``positions`` [B, T]; lets it work on the first only."""
    seen: list[Tensor] = []

    def catch(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = inputs[0]
        assert hidden.shape[:2] == positions.shape, (
            f"the head got hidden states {tuple(hidden.shape)} for tokens {tuple(positions.shape)}"
        )
        seen.append(hidden[positions.to(hidden.device)])
        return (seen[0][None, :1], *inputs[1:])

    handle = head.register_forward_pre_hook(catch)
    try:
        yield seen
    finally:
        handle.remove()


def _head(model: nn.Module, module: nn.Module, hidden: Tensor, wanted: Tensor) -> Head:
    """The head that makes ``wanted`` [1, 1, V] of ``hidden`` [1, d]; found by trying."""
    target = wanted[0].float()
    raw = Head(module)(hidden)
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    cap = getattr(text, "final_logit_softcapping", None)
    for limit in (None, cap) if cap else (None,):
        inner = (
            target if limit is None else limit * torch.atanh((target / limit).clamp(-_ONE, _ONE))
        )
        scale = float((inner * raw).sum() / (raw * raw).sum().clamp_min(1e-30))
        head = Head(module, 1.0 if abs(scale - 1) < 1e-3 else scale, limit)
        if torch.allclose(head(hidden), target, rtol=2e-2, atol=2e-2 * float(target.std())):
            return head
    raise ModelError(
        f"{type(model).__name__} changes its head's output in a way that is not known here (it is "
        "neither scaled nor softly capped), so its logits cannot be made a few at a time."
    )
