"""Terms that read examples of earlier stages: their answers, or the logits stored with them.

No torch until one is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from holdfast.carried import MEMORY, Ended, State
from holdfast.plan import Outputs, Reference

if TYPE_CHECKING:
    from torch import Tensor

Distance = Literal["squared", "sum-squared", "kl", "probabilities"]


@dataclass(kw_only=True)
class Replayed:
    """-log p(token) at the answers of remembered examples: what experience replay adds."""

    weight: float = 1.0
    source: str = MEMORY
    name: str = "replay"
    fits: bool = field(default=False, init=False)
    reference: Reference | None = field(default=None, init=False)

    def positions(self, batch: Mapping[str, Tensor]) -> Tensor:
        from holdfast.pieces.positions import answer, of_source

        return of_source(answer(batch), batch, self.source)

    def __call__(self, outputs: Outputs) -> Tensor:
        from holdfast.pieces.objectives import cross_entropy

        return cross_entropy(outputs.logits, outputs.targets)


@dataclass(kw_only=True)
class Uncertain:
    """KL(p || uniform) = log V - H(p) at every answer: confidence is a cost.

    Classifier-projection regularisation, Cha et al. 2021, equation 3.
    """

    weight: float = 0.5
    name: str = "uncertain"
    fits: bool = field(default=False, init=False)
    reference: Reference | None = field(default=None, init=False)

    def positions(self, batch: Mapping[str, Tensor]) -> Tensor:
        from holdfast.pieces.positions import answer

        return answer(batch)

    def __call__(self, outputs: Outputs) -> Tensor:
        import torch

        from holdfast.pieces.objectives import kl

        return kl(outputs.logits, torch.zeros_like(outputs.logits), direction="reverse")


@dataclass(kw_only=True)
class StoredLogits:
    """A distance between an example's logits h and those stored when its stage ended, z.

        squared        mean_v (h_v - z_v)^2, as the released code of dark experience replay
        sum-squared    sum_v (h_v - z_v)^2, as its paper (Buzzega et al. 2020, equation 6)
        kl             KL(softmax z || softmax h)
        probabilities  sum_v (softmax h - softmax z)_v^2 (function distance regularisation,
                       Benjamin et al. 2019)

    at every answer token of the examples that the plan's feed remembers.

    Args:
        top: store the largest ``top`` logits of each token only, and compare those. Exact for
            None; for a large vocabulary a row of numbers per token is not affordable.
        source: the draw that it reads.
    """

    weight: float = 0.1
    distance: Distance = "squared"
    top: int | None = None
    source: str = MEMORY
    batch_size: int = 8
    name: str = "stored-logits"
    fits: bool = field(default=False, init=False)
    reference: Reference | None = field(default=None, init=False)
    held: dict[str, Tensor] = field(default_factory=dict, repr=False)
    """``places`` [M, 2], ``starts`` [M + 1] and, of the stored tokens one after the other,
    ``logits`` [S, V or top] and ``words`` [S, top]."""

    def positions(self, batch: Mapping[str, Tensor]) -> Tensor:
        from holdfast.pieces.positions import answer, of_source

        wanted = of_source(answer(batch), batch, self.source)
        return wanted if self.held else wanted & False

    def __call__(self, outputs: Outputs) -> Tensor:
        if not len(outputs.logits):
            return outputs.logits.sum(-1)
        at = self._stored_at(outputs)
        stored = self.held["logits"][at.cpu()].to(outputs.logits.device).float()
        logits = outputs.logits.float()
        if "words" in self.held:
            logits = logits.gather(1, self.held["words"][at.cpu()].to(logits.device))
        return _divergence(self.distance, stored, logits)

    def _stored_at(self, outputs: Outputs) -> Tensor:
        """[N]: where each position's logits are; a row's positions are in their order."""
        import torch

        assert outputs.examples is not None, "the feed that remembers tags its examples"
        rows, examples = outputs.rows, outputs.examples
        first = torch.searchsorted(rows.contiguous(), rows.contiguous())
        within = torch.arange(len(rows), device=rows.device) - first
        return self.held["starts"].to(rows.device)[examples] + within

    def keep(self, ended: Ended) -> dict[str, Tensor]:
        """The logits of everything that is remembered: this stage's anew, others as they were."""
        import torch

        known = (
            {tuple(p): i for i, p in enumerate(self.held["places"].tolist())} if self.held else {}
        )
        new = [place for place in ended.memory if place[0] == ended.stage]
        fresh = self._read(ended, [i for _, i in new])
        rows = dict(zip(new, fresh, strict=True))
        for place in ended.memory:
            if place not in rows:
                i = known[place]
                part = slice(*self.held["starts"][i : i + 2].tolist())
                rows[place] = {k: self.held[k][part] for k in ("logits", "words") if k in self.held}
        ordered = [rows[place] for place in ended.memory]
        lengths = torch.tensor([0, *(len(r["logits"]) for r in ordered)])
        found = {
            "places": torch.tensor(ended.memory, dtype=torch.int64).reshape(-1, 2),
            "starts": lengths.cumsum(0),
        }
        for key in ordered[0] if ordered else ():
            found[key] = torch.cat([row[key] for row in ordered])
        return found

    def _read(self, ended: Ended, indices: list[int]) -> list[dict[str, Tensor]]:
        """For each example, the logits at its answer tokens [n, V], or the largest of them."""
        import torch

        from holdfast.pieces.chooser import announced
        from holdfast.pieces.positions import answer

        found: list[dict[str, Tensor]] = []
        for start in range(0, len(indices), self.batch_size):
            batch = ended.batch(indices[start : start + self.batch_size])
            features = announced(ended.model, batch)
            with torch.no_grad():
                logits = ended.model(**features, use_cache=False).logits
            for row, wanted in zip(logits, answer(batch), strict=True):
                found.append(self._stored(row[wanted].float()))
        return found

    def _stored(self, logits: Tensor) -> dict[str, Tensor]:
        if self.top is None or self.top >= logits.shape[-1]:
            return {"logits": logits.cpu()}
        values, words = logits.topk(self.top, dim=-1)
        return {"logits": values.cpu(), "words": words.cpu()}

    def recall(self, state: State) -> StoredLogits:
        return replace(self, held=dict(state) if len(state.get("places", ())) else {})


def _divergence(distance: Distance, stored: Tensor, logits: Tensor) -> Tensor:
    """[N]: from ``stored`` to ``logits``, both [N, V]."""
    from holdfast.pieces.objectives import kl

    if distance == "kl":
        return kl(logits, stored)
    if distance == "probabilities":
        return (logits.softmax(-1) - stored.softmax(-1)).square().sum(-1)
    squares = (logits - stored).square()
    return squares.mean(-1) if distance == "squared" else squares.sum(-1)
