"""Weights of a soup that are found by asking the models: greedy soups and LM-Cocktail."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

from holdfast.changes.merge.hows import Cocktail, Greedy
from holdfast.changes.merge.many import Many
from holdfast.changes.repair.stream import write
from holdfast.engine.scoring import evaluate_model
from holdfast.errors import UsageError
from holdfast.pieces.merging import Soup
from holdfast.progress import Progress


def greedy(
    many: Many,
    models: Sequence[str],
    tasks: Sequence[str],
    how: Greedy,
    *,
    limit: int | None,
    progress: Progress,
) -> tuple[Soup, dict[str, float]]:
    """Which models go into the soup, and the scores that decided it.

    The models in the order of their score; the first is kept, and each further one if the soup
    with it scores no lower (Wortsman et al. 2022, recipe 1), or with ``code_compat`` higher. A
    score is the mean over tasks.

    Raises:
        UsageError: a task gave no score.
    """

    def score(name: str) -> float:
        results = evaluate_model(name, tasks, limit=limit)
        mean = sum(r.score for r in results) / len(results)
        if math.isnan(mean):
            raise UsageError(f"the tasks {', '.join(tasks)} give '{name}' no score to choose by.")
        return mean

    def shares(members: Sequence[int]) -> tuple[float, ...]:
        return tuple(1 / len(members) if i in members else 0.0 for i in range(len(models)))

    scores: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as place, progress.bar("asking") as advance:
        total = 2 * len(models) - 1
        for i, model in enumerate(models):
            scores[model] = score(model)
            advance(i + 1, total)
        first, *others = sorted(range(len(models)), key=lambda i: (-scores[models[i]], i))
        members, best = [first], scores[models[first]]
        for n, i in enumerate(others):
            soup = many.made(Soup(weights=shares([*members, i])), {})
            write(soup, Path(place) / "soup")
            found = score(str(Path(place) / "soup"))
            scores[f"soup with {models[i]}"] = found
            if found > best or (found == best and not how.code_compat):
                members, best = [*members, i], found
            advance(len(models) + n + 1, total)
    return Soup(weights=shares(members)), scores


def cocktail(
    base: str,
    models: Sequence[str],
    data: Sequence[str],
    how: Cocktail,
    *,
    limit: int | None,
    progress: Progress,
) -> tuple[Soup, dict[str, float]]:
    """The weights of base and models, and the losses that they follow from.

        w_i = softmax(-loss_i / temperature)          (Xiao et al. 2023)

    loss_i is the mean over examples (``how.batch`` of them taken as one) of the mean over their
    answers' tokens.
    """
    losses = {}
    with progress.bar("asking") as advance:
        for i, name in enumerate((base, *models)):
            losses[name] = _loss(name, data, limit, how.batch)
            advance(i + 1, len(models) + 1)
    lowest = min(losses.values())
    raw = [math.exp((lowest - losses[n]) / how.temperature) for n in (base, *models)]
    shares = [value / sum(raw) for value in raw]
    return Soup(base=shares[0], weights=tuple(shares[1:])), losses


def _loss(name: str, data: Sequence[str], limit: int | None, size: int) -> float:
    import torch

    from holdfast.data import Encoder, collate, read
    from holdfast.models.loading import load_all
    from holdfast.ordering.losses import example_losses
    from holdfast.pieces.positions import answer

    records = [r for source in data for r in list(read(source))[:limit]]
    if not records:
        raise UsageError(f"there is no example in {', '.join(data)} to weigh the models by.")
    loaded = load_all(name)
    encoder = Encoder(loaded.processor)
    device = next(loaded.model.parameters()).device
    means: list[float] = []
    with torch.no_grad():
        for start in range(0, len(records), size):
            together = [encoder(record) for record in records[start : start + size]]
            batch = collate(together, pad_id=encoder.pad_id)
            batch = {k: v.to(device) if hasattr(v, "to") else v for k, v in batch.items()}
            tokens = answer(batch).sum(1)
            losses = example_losses(loaded.model, batch)
            means.append(float((losses * tokens).sum() / tokens.sum()))
    return sum(means) / len(means)
