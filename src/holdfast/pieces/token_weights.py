"""Cross-entropies that weigh each token by how sure the model is. No torch until one is used."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from holdfast.pieces.distill import CrossEntropy
from holdfast.plan import Outputs

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.carried import Ahead


@dataclass(kw_only=True)
class EntropyWeighted(CrossEntropy):
    """(H_K / ln K)^power * -log p(token), H_K the entropy of the K likeliest words among them.

    "Entropy-adaptive fine-tuning", 2026 (EAFT, arXiv 2601.02151). Where the model is sure of
    another word than the label, H is small and the token moves the weights little. The factor
    has no gradient, and the mean is over all tokens: what is weighed down lowers the loss.

    Args:
        top: K; all words where there are fewer.
        power: 0 is plain cross-entropy.
        unit: what H is divided by, in nats; None: ln K.
    """

    top: int = 20
    power: float = 1.0
    unit: float | None = None
    name: str = "entropy-weighted"

    def __call__(self, outputs: Outputs) -> Tensor:
        losses = super().__call__(outputs)
        return losses * self.factors(outputs.logits)

    def factors(self, logits: Tensor) -> Tensor:
        """[N] of logits [N, V], in float32 and without gradient."""
        if not self.power:
            return logits.new_ones(len(logits)).float()
        k = min(self.top, logits.shape[-1])
        logs = logits.detach().float().topk(k, dim=-1).values.log_softmax(-1)
        entropy = (logs.exp() * -logs.clamp(min=-1e4)).sum(-1).clamp(min=0)
        return (entropy / (self.unit or math.log(k))).pow(self.power)


@dataclass(kw_only=True)
class LikelihoodWeighted(CrossEntropy):
    """max(p(token)^(1 / tau), floor) * -log p(token): hard tokens count less.

    Lin et al. 2025, "SFT doesn't always hurt general capabilities" (TALR). The factor has no
    gradient, and the mean is over all tokens.

    Args:
        temperature: tau; the larger, the more alike the tokens count.
        floor: the least factor; 1 is plain cross-entropy.
    """

    temperature: float = 1.0
    floor: float = 0.01
    name: str = "likelihood-weighted"

    def __call__(self, outputs: Outputs) -> Tensor:
        losses = super().__call__(outputs)
        return losses * self.factors(losses.detach(), outputs.rows)

    def factors(self, losses: Tensor, rows: Tensor) -> Tensor:
        """[N] of the tokens' losses [N] in nats; ``rows`` [N]: the example of each."""
        return (-losses / self.tau(losses, rows)).exp().clamp(min=self.floor)

    def tau(self, losses: Tensor, rows: Tensor) -> Tensor | float:
        """The temperature of the step."""
        return self.temperature


@dataclass(kw_only=True)
class StepLikelihoodWeighted(LikelihoodWeighted):
    """The same with tau the median, over the step's examples, of their mean loss.

    It takes one more forward pass, before the step. Where nobody looks ahead (a term that is
    called by hand), the median is over the examples that the term is given.
    """

    temperature: float = field(default=0.0, init=False, repr=False)
    _tau: float | None = field(default=None, init=False, repr=False, compare=False)

    def look_ahead(self, step: Ahead) -> None:
        import torch

        found = step.losses(step.batches)
        read = [self.positions(batch).any(1) for batch in step.batches]
        losses = [row[r.to(row.device)] for row, r in zip(found, read, strict=True)]
        every = torch.cat(losses)
        self._tau = _median(every) if len(every) else None

    def tau(self, losses: Tensor, rows: Tensor) -> Tensor | float:
        import torch

        if self._tau is not None:
            return self._tau
        if not len(losses):
            return 1.0
        counts = rows.bincount()
        sums = torch.zeros(len(counts), device=losses.device).index_add_(0, rows, losses)
        return _median((sums / counts)[counts > 0])


def _median(losses: Tensor) -> float:
    return max(float(losses.float().median()), 1e-6)
