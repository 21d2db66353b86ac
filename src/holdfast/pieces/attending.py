"""Shares of all entries of a bank, by attention from the prompt to a key of each (SAPT).

Zhao et al. 2024 (arXiv 2401.08295).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.anatomy import naming
from holdfast.pieces.chooser import Chooser, announced


class _Enough(BaseException):
    """Ends a forward pass that has shown what was wanted. No library catches a BaseException."""


class Attending(Chooser):
    """a = softmax(K q / sqrt(D)),  q = LayerNorm(SiLU(W_2 W_1 max_t e_t)).

    e_t [D] is what enters the first block at the prompt's token t, K [E, D] has a key for each
    block. One key has all of the attention, so that neither it nor the query learns beside it.
    """

    def __init__(self, width: int, hidden: int, through: bool) -> None:
        super().__init__()
        self.through = through
        self.width = width
        self.keys = nn.ParameterList()
        """[D] for each block, the oldest first."""
        self.query = nn.Sequential(
            nn.Linear(width, hidden, bias=False),
            nn.Linear(hidden, width, bias=False),
            nn.SiLU(),
            nn.LayerNorm(width),
        )
        self.pooled: Tensor | None = None
        """[B, D]: max_t e_t of the last pass that read prompts."""
        self._only_pool = False

    def add(self) -> None:
        """A key for one more block."""
        like: Tensor = self.query[3].weight  # type: ignore[assignment]
        self.keys.append(nn.Parameter(torch.empty_like(like).uniform_(-1, 1)))

    def choose(self, hidden: Tensor, counts: Tensor) -> Tensor | None:
        seen = hidden.detach().masked_fill(~counts[..., None], -torch.inf).amax(1)
        self.pooled = torch.where(counts.any(1, keepdim=True), seen, 0.0).float()
        if self._only_pool:
            raise _Enough
        if not len(self.keys):
            return None
        with torch.set_grad_enabled(self._grad):  # the block may be one that is checkpointed
            return self.logits(self.pooled).softmax(-1)

    def logits(self, pooled: Tensor) -> Tensor:
        """[B, D] to [B, E]: K q / sqrt(D), in the keys' precision."""
        keys = torch.stack(list(self.keys))
        with torch.autocast(pooled.device.type, enabled=False):
            query: Tensor = self.query(pooled.to(keys.dtype))
            return query @ keys.T / math.sqrt(self.width)

    @torch.no_grad()
    def read(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        """[B, D]: max_t e_t of each prompt of a labelled batch; no block is run."""
        root, _ = naming.unwrap(model)
        given = announced(root, batch)
        self._only_pool = True
        try:
            with suppress(_Enough):
                root(**given, use_cache=False)
        finally:
            self._only_pool = False
        assert self.pooled is not None, "the first block was reached"
        return self.pooled


def attentions(model: nn.Module) -> Iterator[tuple[str, Attending]]:
    """Every such module of a model with its path."""
    for path, module in model.named_modules():
        if isinstance(module, Attending):
            yield path, module
