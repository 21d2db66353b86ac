"""How much each weight matters to what a model says: Fisher information, memory-aware synapses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.pieces.per_example import fold_gradients, rowwise, single
from holdfast.pieces.positions import answer, everything
from holdfast.plan import TAGS

Kind = Literal["fisher", "empirical-fisher", "weighted-fisher", "outputs", "output-norms"]


def importance(
    kind: Kind,
    model: nn.Module,
    names: Iterable[str],
    batches: Iterable[Mapping[str, Any]],
    *,
    seed: int = 0,
    by_hooks: bool = True,
    batchwise: bool = False,
) -> dict[str, Tensor]:
    """The importance of each entry of some weights, averaged over N sequences.

        fisher            (1/N) sum_k (d log p(y_k | x_k) / d w)^2, y_k drawn from the model
        empirical-fisher  the same with the data's own answers
        weighted-fisher   p(y_k | x_k) (d log p(y_k | x_k) / d w)^2, the data's own answers
        outputs           (1/N) sum_k | d ||f(x_k)||^2 / d w |
        output-norms      (1/N) sum_k | d ||f(x_k)|| / d w |

    Fisher: Kirkpatrick et al. 2017, with the log-probability of a whole answer (the sum over its
    tokens, each drawn given the data's earlier ones) and squares of each sequence's gradient,
    never of a batch's. The weighted form is what mammoth's online EWC computes. Outputs:
    memory-aware synapses, Aljundi et al. 2018, equation 2; f(x) are the logits at every token
    that predicts another, and labels are not read.

    Args:
        model: in the mode to compute in; left as it is.
        names: weights, in ``model.named_parameters()``.
        batches: as a trainer's, with labels where the kind reads them.
        seed: of what is drawn.
        by_hooks: see :func:`holdfast.pieces.per_example.fold_gradients`.
        batchwise: of ``outputs``, take the size of the sum of a batch's gradients, as the
            released code of memory-aware synapses does.

    Returns:
        By weight, in its shape, on its device, float32 (float64 for float64 weights).

    Raises:
        ValueError: there are no sequences, or images that are not one to a row.
    """
    generator = torch.Generator().manual_seed(seed)
    if kind == "weighted-fisher":
        return _weighted(model, list(names), batches)
    if batchwise:
        return _batchwise(model, list(names), batches)

    def score(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        if kind in ("outputs", "output-norms"):
            squares = squared_outputs(model, batch)
            return squares if kind == "outputs" else squares.sqrt()
        return log_likelihood(model, batch, generator if kind == "fisher" else None)

    fold = torch.abs if kind in ("outputs", "output-norms") else torch.square
    sums, count = fold_gradients(model, names, batches, score, fold, by_hooks=by_hooks)
    return _mean(sums, count)


def log_likelihood(
    model: nn.Module, batch: Mapping[str, Any], generator: torch.Generator | None = None
) -> Tensor:
    """[B]: log p(answer | prompt) of each row in nats, summed over its supervised tokens.

    Args:
        generator: draw each supervised token from the model's own prediction instead.
    """
    wanted = answer(batch)
    logits = _logits(model, batch)[wanted]
    targets = batch["labels"][:, 1:][wanted[:, :-1]]
    if generator is not None:
        probabilities = logits.detach().softmax(-1).cpu()
        targets = torch.multinomial(probabilities, 1, generator=generator)[:, 0].to(targets.device)
    values = -F.cross_entropy(logits, targets, reduction="none")
    return rowwise(values, wanted.nonzero()[:, 0], len(wanted))


def squared_outputs(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """[B]: the squared norm of each row's logits, over every token that predicts another."""
    wanted = everything(batch)
    values = _logits(model, batch)[wanted].square().sum(-1)
    return rowwise(values, wanted.nonzero()[:, 0], len(wanted))


def _weighted(
    model: nn.Module, names: list[str], batches: Iterable[Mapping[str, Any]]
) -> dict[str, Tensor]:
    """sqrt(p) d log p, squared: the weight goes into the score, where it is no variable."""

    def score(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        values = log_likelihood(model, batch)
        return values * (values.detach() / 2).exp()

    sums, count = fold_gradients(model, names, batches, score, torch.square)
    return _mean(sums, count)


def _batchwise(
    model: nn.Module, names: list[str], batches: Iterable[Mapping[str, Any]]
) -> dict[str, Tensor]:
    """(1/N) sum over batches of |sum over its rows of d ||f(x_k)||^2 / d w|."""
    weights = {n: p for n, p in model.named_parameters() if n in set(names)}
    sums: dict[str, Tensor] = {}
    count = 0
    for batch in batches:
        count += len(batch["input_ids"])
        for name, slope in single(model, weights, batch, squared_outputs).items():
            sums[name] = sums.get(name, 0) + slope.abs().to(
                torch.promote_types(slope.dtype, torch.float32)
            )
    return _mean(sums, count)


def _mean(sums: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    if not count:
        raise ValueError("importance is an average over sequences, and there are none")
    return {name: value / count for name, value in sums.items()}


def _logits(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    features = {k: v for k, v in batch.items() if k not in ("labels", *TAGS)}
    logits: Tensor = model(**features, use_cache=False).logits
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
