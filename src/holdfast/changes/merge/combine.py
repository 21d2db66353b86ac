"""Merge finished runs and models of one base, tensor by tensor."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.changes.merge.hows import Cocktail, Greedy, how_to
from holdfast.errors import UsageError
from holdfast.pieces.merging import Merge, Slerp, Soup, TaskVectors, check_shares
from holdfast.progress import Progress

FACTS = "merge.json"
"""What was merged, in the folder of the result."""


@dataclass(frozen=True)
class Merged:
    """A merge that was written."""

    out: Path
    how: str
    models: tuple[str, ...]
    weights: dict[str, float] = field(default_factory=dict)
    """By model, where the way of merging has weights; of ``greedy-soup`` and ``lm-cocktail``
    those that they chose, the base's among them if it has one."""
    asked: dict[str, float] = field(default_factory=dict)
    """Scores (``greedy-soup``) or losses (``lm-cocktail``) that they were chosen by."""
    changed: int = 0
    """Weights that differ from the base's."""

    def to_json(self) -> dict[str, Any]:
        return {
            "out": str(self.out),
            "how": self.how,
            "models": list(self.models),
            "weights": self.weights,
            "asked": self.asked,
            "changed": self.changed,
        }


def merge(
    base: str,
    models: Sequence[str],
    out: str | Path,
    *,
    how: str = "soup",
    weights: Sequence[float] | None = None,
    tasks: Sequence[str] = (),
    data: Sequence[str] = (),
    limit: int | None = None,
    full: bool = False,
    progress: Progress | None = None,
) -> Merged:
    """Write one model out of several that were tuned from one base.

    Weights are read, merged in float32 (float64 for float64) and written one by one: memory is
    one tensor of each model. Draws follow from the seed of ``how``.

    Args:
        base: what they were tuned from: a lab name, a folder, a hub id or a run.
        models: runs, folders or hub ids of the same architecture and vocabulary.
        out: a new folder, or one in which a merge is written again.
        how: a way with its settings, as in :data:`holdfast.changes.merge.MERGES`.
        weights: one for each model, for a way that takes them; those of a soup sum to 1.
        tasks: what ``greedy-soup`` scores the models on.
        data: examples by whose loss ``lm-cocktail`` weighs base and models.
        limit: at most so many examples of each task or data set.
        full: a whole model folder in the base's shards and dtypes, in place of a delta.

    Raises:
        UnknownName, ConfigError: no such way, or a setting is wrong.
        UsageError: arguments that do not go together.
        ModelError: a model cannot be used, or is of another architecture or vocabulary.

    Example:
        >>> merge("lab:lm", ["runs/facts", "runs/sums"], "both", how="ties:density=0.2")
        >>> model, tokenizer = holdfast.load("both")
    """
    from holdfast.changes.merge.many import check, open_many
    from holdfast.changes.repair.stream import write
    from holdfast.runs.files import write_json

    progress = progress or Progress()
    given, place = tuple(str(m) for m in models), Path(out)
    chosen = how_to(how, weights)
    _check(chosen, how, given, tasks, data)
    _check_place(place)
    check(base, given)
    with ExitStack() as stack:
        many = open_many(base, given, stack)
        final, asked = chosen, dict[str, float]()
        if isinstance(chosen, Greedy):
            from holdfast.changes.merge.chosen import greedy

            final, asked = greedy(many, given, tasks, chosen, limit=limit, progress=progress)
        elif isinstance(chosen, Cocktail):
            from holdfast.changes.merge.chosen import cocktail

            final, asked = cocktail(base, given, data, chosen, limit=limit, progress=progress)
        shares = _shares(final, base, given)
        facts = {"how": how, "base": base, "models": list(given), "weights": shares}
        made = many.made(_merge(final), {"merge": facts})
        write(made, place, full=full, progress=progress)
        found = Merged(place, how, given, shares, asked, len(many.changed))
    write_json(place / FACTS, found.to_json())
    return found


def _merge(how: Merge | Greedy | Cocktail) -> Merge:
    assert not isinstance(how, Greedy | Cocktail)
    return how


def _check(
    how: Merge | Greedy | Cocktail,
    text: str,
    models: Sequence[str],
    tasks: Sequence[str],
    data: Sequence[str],
) -> None:
    """Everything that can be said before a model is looked for."""
    if not models:
        raise UsageError("name at least one model to merge.")
    twice = sorted({m for m in models if models.count(m) > 1})
    if twice:
        raise UsageError(f"'{twice[0]}' is given {models.count(twice[0])} times; use weights.")
    if isinstance(how, Greedy) != bool(tasks):
        need = "needs tasks to score the models on: give --tasks"
        raise UsageError(f"'{text}' {need if not tasks else 'asks no tasks; leave out --tasks'}.")
    if isinstance(how, Cocktail) != bool(data):
        need = "needs a few examples to weigh the models by: give --data"
        raise UsageError(f"'{text}' {need if not data else 'reads no data; leave out --data'}.")
    if isinstance(how, Slerp) and len(models) > 2:
        raise UsageError(f"slerp lies between two models, and {len(models)} were given.")
    if isinstance(how, Soup):
        check_shares(how.weights, len(models))
    elif isinstance(how, TaskVectors) and how.weights and len(how.weights) != len(models):
        raise UsageError(f"{len(how.weights)} weights were given for {len(models)} models.")


def _check_place(place: Path) -> None:
    if place.is_file() or (place.is_dir() and any(place.iterdir()) and not _ours(place)):
        raise UsageError(f"{place} is a file or holds other things; give --out a new folder.")


def _ours(place: Path) -> bool:
    return (place / FACTS).exists()


def _shares(how: Merge | Greedy | Cocktail, base: str, models: Sequence[str]) -> dict[str, float]:
    if isinstance(how, Soup):
        own = how.weights or (1 / len(models),) * len(models)
        return {
            **({base: how.base} if how.base is not None else {}),
            **dict(zip(models, own, strict=True)),
        }
    if isinstance(how, TaskVectors):
        return dict(zip(models, how.weights or (1.0,) * len(models), strict=True))
    return {}
