"""``holdfast.advise``: what to do in a situation, without the training.

Each recipe's needs and costs come from the registry and the model's shape; how much each learns
for what it loses from a calibration (the shortest trials of a search), or, where there are no
weights or no data, from the committed comparison.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.budget.candidates import Recipe, Situation, recipes
from holdfast.budget.committed import committed, inside
from holdfast.errors import UsageError
from holdfast.measures.interval import finite
from holdfast.progress import Progress

if TYPE_CHECKING:
    from holdfast.anatomy import Anatomy
    from holdfast.budget.trials import Point
    from holdfast.config import RunConfig


@dataclass(frozen=True)
class Option:
    """One recipe in a situation."""

    recipe: str
    trained: int = 0
    """Weights that the optimizer moves."""
    memory: int = 0
    """Bytes of weights, gradients and optimizer in mixed precision, without activations."""
    flops: float = 0.0
    """Of training, over those of full tuning."""
    reason: str = ""
    """Why it is ruled out; empty if it is not."""
    learning_rate: float | None = None
    learned: float | None = None
    """Points, at the best point inside the budget (or nearest to it)."""
    lost: float | None = None
    measured: str = ""
    """``calibration`` or ``committed``; empty if nothing is known."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {k: finite(v) for k, v in asdict(self).items()}


@dataclass(frozen=True)
class Advice:
    """What to do, and why."""

    model: str
    budget: float
    options: tuple[Option, ...]
    recommended: Option | None
    why: str
    command: str
    """What runs it; empty if nothing is recommended."""
    notes: tuple[str, ...] = ()
    seconds: float | None = None
    """Of the whole search, estimated; None where nothing could be timed."""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "model": self.model,
            "budget": self.budget,
            "recommended": self.recommended.to_json() if self.recommended else None,
            "why": self.why,
            "command": self.command,
            "notes": list(self.notes),
            "seconds": self.seconds,
            "options": [o.to_json() for o in self.options],
            "facts": dict(self.facts),
        }


def advise(
    model: str,
    data: str | Sequence[str | Mapping[str, Any]] = (),
    keep: str | Sequence[str] = (),
    *,
    budget: float = 1.0,
    old_data: str | bool | None = None,
    adapters_only: bool = False,
    memory: float | None = None,
    time: float | None = None,
    out: str | Path | None = None,
    examples: int = 400,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
    **train: Any,
) -> Advice:
    """Recommend a recipe for what somebody has, and say why. The model is not tuned.

    Args:
        model: a lab name, a folder, a hub id or a run. A folder with only ``config.json`` will
            do: then nothing is measured.
        data, keep, seed, train: as in :func:`holdfast.within`. Without data nothing is measured.
        budget: points of the kept tasks that may be lost.
        old_data: data of what the model knows; False: there is none, not even general texts.
        adapters_only: recommend nothing that trains the model's own weights.
        memory: bytes that weights, gradients and optimizer may take.
        time: seconds that the search may take.
        out: a folder for the calibration's runs, which the same call goes on with.

    Raises:
        HoldfastError: as :func:`holdfast.within`.
    """
    from holdfast.config import resolve

    progress = progress or Progress()
    kept = [keep] if isinstance(keep, str) else list(keep)
    stages = [data] if isinstance(data, str | Mapping) else list(data)
    situation, found, weights = _shape(
        model,
        Situation(
            "",
            old_data if isinstance(old_data, str) else None,
            adapters_only,
            replays=old_data is not False,
            rate=train.get("learning_rate"),
        ),
    )
    offered = recipes(situation, found, offer_adapters=True)
    options = [_costs(r, found, model, memory) for r in offered]
    fitting = [r for r, o in zip(offered, options, strict=True) if not o.reason]
    notes: list[str] = []
    seconds = None
    if not fitting:
        pass
    elif weights and stages:
        values = {"model": model, "data": stages, "methods": ["within"], "tasks": kept,
                  "seed": seed, "train": train}  # fmt: skip
        with ExitStack() as stack:
            folder = out or stack.enter_context(tempfile.TemporaryDirectory())
            work = _Calibration(situation, budget, examples, workers, time, notes, progress)
            measured, seconds = work.go(resolve({**values, "out": str(folder)}), fitting)
        options = [_with(o, measured, budget) for o in options]
    else:
        missing = "There are no weights" if not weights else "No data was given"
        notes.append(
            f"{missing}, so nothing was measured here; learned and lost are those of the committed "
            f"comparison: {committed()[1]}."
        )
        options = [_with_committed(o, budget) for o in options]
    best = _best(options, budget)
    return Advice(
        model,
        budget,
        tuple(options),
        best,
        _why(best, options, budget),
        _command(model, stages, kept, budget, best, old_data),
        tuple(notes),
        seconds,
        {"adapters only": adapters_only, "old data": old_data, "memory": memory, "time": time},
    )


def _shape(model: str, situation: Situation) -> tuple[Situation, Anatomy, bool]:
    """The situation with the model's family, the model's parts, and whether it has weights."""
    from holdfast.anatomy import anatomy, load_meta
    from holdfast.budget.prepare import shape
    from holdfast.models.source import DELTA, has_weights, resolve

    source = resolve(model)
    bare = (
        source.folder is not None
        and not (source.folder / DELTA).exists()
        and not has_weights(source.folder)
    )
    if bare:
        return replace(situation, model=model), anatomy(load_meta(source.location)), False
    family, found = shape(model)
    return replace(situation, model=family), found, True


def _costs(recipe: Recipe, found: Anatomy, model: str, memory: float | None) -> Option:
    """What a recipe trains and needs, from the model's shape alone."""
    if recipe.reason:
        return Option(recipe.name, reason=recipe.reason)
    from holdfast.anatomy import load_meta
    from holdfast.budget.prepare import location
    from holdfast.engine.bound import bind
    from holdfast.engine.cost import flops_share, states

    bound = bind(recipe.plan, load_meta(location(model)))
    needs = states(bound)
    reason = ""
    if memory is not None and needs > memory:
        reason = f"it needs {needs / 1e9:.3g} GB without activations, more than {memory / 1e9:.3g}"
    return Option(recipe.name, bound.count, needs, flops_share(found, recipe.plan, bound), reason)


@dataclass(frozen=True)
class _Calibration:
    """The shortest trials of a search, and how long a whole one takes."""

    situation: Situation
    budget: float
    examples: int
    workers: int | None
    time: float | None
    notes: list[str]
    progress: Progress

    def go(self, config: RunConfig, fitting: Sequence[Recipe]) -> tuple[list[Point], float]:
        """The points of every recipe, and seconds."""
        from holdfast.budget.prepare import prepare
        from holdfast.budget.search import calibrate

        prepared = prepare(
            config,
            budget=self.budget,
            situation=self.situation,
            offered=fitting,
            examples=self.examples,
            progress=self.progress,
        )
        if prepared.smallest > self.budget:
            self.notes.append(
                f"These examples cannot show a loss of {self.budget:g}% to be kept, even if no "
                f"answer changes: it could be {prepared.smallest:.2f}%."
            )
        seconds = prepared.cost(self.workers)["seconds"]
        if self.time is not None and seconds > self.time:
            self.notes.append(
                f"A whole search takes about {seconds:.0f} s, more than the {self.time:.0f} s "
                "given: name one method (--method), fewer --steps or fewer --examples."
            )
        points, failed = calibrate(prepared, self.workers, self.progress)
        self.notes.extend(f"{name} could not be finished: {why}" for name, why in failed.items())
        return points, seconds


def _with(option: Option, points: Sequence[Point], budget: float) -> Option:
    """With what the calibration saw at the best point of the recipe."""
    mine = [p for p in points if p.trial.recipe.name == option.recipe]
    if not mine:
        return option
    kept = [p for p in mine if p.loss <= budget]
    p = max(kept, key=lambda p: (p.gain, -p.loss)) if kept else min(mine, key=lambda p: p.loss)
    return replace(option, learning_rate=p.trial.learning_rate, learned=p.gain, lost=p.loss,
                   measured="calibration")  # fmt: skip


def _with_committed(option: Option, budget: float) -> Option:
    known = inside(option.recipe, budget)
    if known is None:
        return option
    # its learning rate is the lab's: of no use to another model
    return replace(option, learned=known.learned, lost=known.lost, measured="committed")


def _best(options: Sequence[Option], budget: float) -> Option | None:
    """Of the recipes that are not ruled out: the most learning inside the budget, then those that
    lost least, then those of which nothing is known, as they are offered."""
    free = [o for o in options if not o.reason]
    kept = [o for o in free if o.learned is not None and o.lost is not None and o.lost <= budget]
    if kept:
        return max(kept, key=lambda o: o.learned or 0.0)
    known = [o for o in free if o.lost is not None]
    if known:
        return min(known, key=lambda o: o.lost or 0.0)
    return free[0] if free else None


def _why(best: Option | None, options: Sequence[Option], budget: float) -> str:
    if best is None:
        return "Every recipe is ruled out: " + "; ".join(
            f"{o.recipe}: {o.reason}" for o in options
        ) + "."  # fmt: skip
    where = {
        "calibration": "in the shortest trials on this model and data",
        "committed": "in the committed comparison",
    }
    if not best.measured:
        return f"'{best.recipe}' is the first that the situation allows; nothing was measured."
    said = f"'{best.recipe}' learned {best.learned:+.1f} points and lost {best.lost:.1f} "
    said += where[best.measured]
    others = sum(not o.reason and bool(o.measured) for o in options) - 1
    if best.lost is not None and best.lost > budget:
        return f"{said}: outside the budget of {budget:g}, but the least of what was tried."
    if best.learned is not None and best.learned <= 0:
        return f"{said}: nothing that was tried learned anything inside the budget of {budget:g}."
    most = f", the most learning of {others + 1} recipes" if others else ""
    return f"{said}{most} inside the budget of {budget:g}."


def _command(
    model: str,
    data: Sequence[str | Mapping[str, Any]],
    keep: Sequence[str],
    budget: float,
    best: Option | None,
    old_data: str | bool | None,
) -> str:
    if best is None:
        return ""
    named = [d if isinstance(d, str) else str(d.get("data", "DATA")) for d in data] or ["DATA"]
    words = ["holdfast", "tune", model]
    words += [w for d in named for w in ("--data", d)]
    kept = list(keep) or ([] if model.startswith("lab:") else ["TASKS"])
    words += [w for k in kept for w in ("--keep", k)]
    words += ["--method", best.recipe, "--budget", f"{budget:g}%"]
    words += ["--old-data", old_data] if isinstance(old_data, str) else []
    return shlex.join(words)


def byte_count(text: str) -> float:
    """'24GB' or '24 GiB' as bytes. Raises :class:`UsageError`."""
    units = {"GIB": 2**30, "MIB": 2**20, "TIB": 2**40, "GB": 1e9, "MB": 1e6, "TB": 1e12}
    return _amount(text, units, "--memory", "24GB")


def second_count(text: str) -> float:
    """'2h', '30min' or '90s' as seconds. Raises :class:`UsageError`."""
    units = {"MIN": 60.0, "H": 3600.0, "M": 60.0, "S": 1.0, "D": 86400.0}
    return _amount(text, units, "--time", "2h")


def _amount(text: str, units: Mapping[str, float], option: str, example: str) -> float:
    given = text.strip().upper()
    for unit, factor in units.items():
        if given.endswith(unit):
            try:
                value = float(given.removesuffix(unit))
            except ValueError:
                break
            if 0 < value < float("inf"):
                return value * factor
    raise UsageError(f"{option} {text}: give a number above 0 with its unit, such as {example}.")
