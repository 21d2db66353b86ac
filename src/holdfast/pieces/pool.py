"""A pool of modulators with a key each: which of them a sequence uses is the nearest key's."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from holdfast.pieces.chooser import Chooser


class KeyPool(Chooser):
    """Chooses the entry whose key has the largest cosine with the mean embedding.

    Schmied et al. 2023 (arXiv 2306.14884). While a later stage trains, an entry that earlier
    ones have used is passed over: its similarity is multiplied with a weight near 0.
    """

    def __init__(self, entries: int, width: int, like: Tensor) -> None:
        super().__init__()
        self.keys = nn.Parameter(like.new_empty(entries, width).uniform_(-1, 1))
        self.register_buffer("counts", torch.zeros(entries, dtype=torch.float64), persistent=False)
        """[P]: how often each entry was chosen in training, over all stages."""
        self.penalty: Tensor | None = None
        """[P]: the weights of the stage at hand; None in the first."""
        self.pull: Tensor | None = None
        """[B]: the cosine of the chosen key and the query, in the last training pass."""

    def begin_stage(self, counts: Tensor | None, penalty: bool) -> None:
        """A stage begins; ``counts`` [P] of the earlier ones, None if there are none."""
        self.penalty, self.pull = None, None
        own = torch.zeros_like(self._counts) if counts is None else counts.to(self._counts)
        self._counts.copy_(own)
        if counts is not None and penalty:
            frequency = own / own.sum().clamp(min=1)
            inverse = 1 / (frequency + 1e-6)
            self.penalty = (inverse / inverse.sum()).float()

    @property
    def _counts(self) -> Tensor:
        counts = self.counts
        assert isinstance(counts, Tensor)
        return counts

    def choose(self, hidden: Tensor, counts: Tensor) -> Tensor:
        weights = counts.float() / counts.sum(1, keepdim=True).clamp(min=1)
        query = torch.einsum("bt,btd->bd", weights, hidden.detach().float())
        with torch.set_grad_enabled(self._grad):  # the block may be one that is checkpointed
            similar = functional.cosine_similarity(query[:, None], self.keys.float()[None], dim=-1)
        scores = similar.detach()
        if self.training and self.penalty is not None:
            scores = (scores + 1) / 2 * self.penalty.to(scores.device)
        chosen = scores.argmax(1)
        if self.training:
            with torch.set_grad_enabled(self._grad):
                self.pull = similar.gather(1, chosen[:, None])[:, 0]
            if self._grad:
                self._counts.add_(chosen.bincount(minlength=len(self._counts)))
        return chosen


def pools(model: nn.Module) -> Iterator[tuple[str, KeyPool]]:
    """Every pool of a model with its path."""
    for path, module in model.named_modules():
        if isinstance(module, KeyPool):
            yield path, module
