"""EL2N: how far the predictions of an example's tokens are from certain and right."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from holdfast.engine.forward import logits_at, next_labels
from holdfast.ordering._registry import Work, scorer
from holdfast.ordering.chunks import by_chunks
from holdfast.ordering.losses import features, mean_by_row


@scorer(
    "el2n",
    summary="mean length of (probabilities - right answer) over the answer's tokens",
    paper="Paul et al. 2021, arXiv 2107.07075",
)
def el2n(work: Work) -> list[float]:
    """mean_t ||p(. | x_<t) - onehot(x_t)||_2, from 0 (certain and right) to sqrt(2).

    Paul, Ganguli and Dziugaite, "Deep Learning on a Data Diet", 2021, equation 4, averaged over
    an example's supervised tokens. The paper averages over several short trainings; give each
    model and average the columns. Forward passes only.
    """

    @torch.no_grad()
    def errors(indices: Sequence[int]) -> list[list[float]]:
        batch = work.batch(work.examples, indices)
        targets = next_labels(batch["labels"])
        wanted = targets != -100
        p = logits_at(work.model, work.model, features(batch), wanted).float().softmax(-1)
        right = p.gather(1, targets[wanted][:, None]).squeeze(1)
        square = p.square().sum(-1) - 2 * right + 1
        return [[v] for v in mean_by_row(square.clamp_min(0).sqrt(), wanted).tolist()]

    return [value for (value,) in by_chunks(work, "errors.jsonl", errors, "EL2N")]
