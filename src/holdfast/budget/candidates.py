"""Which recipes a search tries, and at which learning rates: by name, from the registry.

A recipe that a user's situation rules out is named with its reason instead of being left out in
silence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.errors import HoldfastError, UsageError
from holdfast.methods import METHODS, plan

if TYPE_CHECKING:
    from holdfast.anatomy import Anatomy
    from holdfast.plan import Plan

CANDIDATES: Mapping[str, float] = {"keep": 1.0, "gate-up": 1.0, "sa-proj": 1 / 3, "full": 1 / 3}
"""Methods by name, the one that is expected to forget least first, and what their learning rate
is multiplied by on a lab model, where one rate is known for all. A name that is not registered is
passed over."""
ADAPTERS: Mapping[str, float] = {"lora": 1.0}
SPREAD = (1 / 3, 1.0, 3.0)
"""Learning rates that are tried first, as multiples of a recipe's own."""
PAPERS = 7e9
"""Weights of the models that papers give learning rates for."""


@dataclass(frozen=True, eq=False)
class Recipe:
    """A method, or several as one plan, with the learning rates to try."""

    methods: tuple[str, ...]
    plan: Plan
    rates: tuple[float, ...]
    """A single one is not to be searched beyond."""
    reason: str = ""
    """Why it is not tried; empty if it is."""

    @property
    def name(self) -> str:
        return " | ".join(self.methods)


@dataclass(frozen=True)
class Situation:
    """What somebody has and wants."""

    model: str
    """Its name, or that of the model it was tuned from: a lab model has general texts at hand."""
    old_data: str | None = None
    """Data of what the model knows, for methods that read it again."""
    adapters_only: bool = False
    replays: bool = True
    """Whether anything old may be read again, general texts included."""
    rate: float | None = None
    """A learning rate that replaces the search for one."""

    @property
    def lab(self) -> bool:
        return self.model.startswith("lab:")


def recipes(
    situation: Situation,
    found: Anatomy,
    methods: Sequence[str] = (),
    *,
    seed: int = 1,
    offer_adapters: bool = False,
) -> list[Recipe]:
    """The recipes to try on a model.

    Args:
        found: the model's parts.
        methods: a plan that the user chose: the search is then over rates, lengths and
            interpolation alone.
        offer_adapters: beside the recipes that train the model's own weights.

    Raises:
        UsageError: the user's own plan cannot be searched with; the message says why.
        UnknownName, ConfigError, PlanConflict: it is not a plan.
    """
    if methods:
        own = _recipe(tuple(methods), 1.0, situation, found, seed)
        if own.reason:
            raise UsageError(f"'{own.name}' cannot be searched with: {own.reason}.")
        return [own]
    table = ADAPTERS if situation.adapters_only else CANDIDATES
    table = {**CANDIDATES, **ADAPTERS} if offer_adapters else table
    names = [n for n in table if n in METHODS]
    return [_recipe((n,), table[n], situation, found, seed) for n in names]


def _recipe(
    methods: tuple[str, ...], scale: float, situation: Situation, found: Anatomy, seed: int
) -> Recipe:
    made = plan(list(methods))
    rates = _rates(made, scale, situation, found.count)
    return Recipe(methods, made, rates, _reason(made, situation, found, seed))


def _rates(made: Plan, scale: float, situation: Situation, size: int) -> tuple[float, ...]:
    """Around the lab's own rate, or the paper's, raised for a smaller model by the square root of
    how much smaller it is (a rule of thumb, which the spread and the search make up for)."""
    if situation.rate is not None:
        return (situation.rate,)
    if situation.lab:
        from holdfast import lab

        middle = lab.LEARNING_RATE * scale
    elif made.learning_rate is not None:
        middle = made.learning_rate * max(1.0, PAPERS / size) ** 0.5
    else:
        return ()
    return tuple(float(f"{middle * s:.1g}") for s in SPREAD)


def _reason(made: Plan, situation: Situation, found: Anatomy, seed: int) -> str:
    if made.adapt is not None and made.adapt.structure() is not None:
        return "its modules stay in the model, so that there is nothing between it and the base"
    if situation.adapters_only and made.adapt is None:
        return "it trains the model's own weights, and only adapters are wanted"
    if made.adapt is None and made.train is None:
        return "it says neither which weights train nor which modules to add"
    if missing := sources(made, situation)[1]:
        return f"it reads data of what the model knows ({', '.join(missing)}), and there is none"
    if made.adapt is None:
        try:
            made.selection(found, seed)
        except HoldfastError as error:
            return str(error).rstrip(".")
    if situation.rate is None and not situation.lab and made.learning_rate is None:
        return "it has no learning rate of its own; give one with --learning-rate"
    return ""


def sources(made: Plan, situation: Situation) -> tuple[dict[str, str], list[str]]:
    """What a plan reads beside the new data: names with the data for them, and names without."""
    from holdfast.carried import AGAIN, MEMORY
    from holdfast.data.random_words import RANDOM_WORDS
    from holdfast.engine.given import read_from
    from holdfast.plan import NEW, VIEWS

    wanted = made.feed.sources if made.feed is not None else ()
    given: dict[str, str] = {}
    missing: list[str] = []
    for name in (n for n in wanted if n not in (NEW, VIEWS, MEMORY, AGAIN, RANDOM_WORDS)):
        if not situation.replays:
            missing.append(name)
        elif situation.old_data is not None:
            given[name] = situation.old_data
        elif read_from(name, situation.model) is None:
            missing.append(name)
    return given, missing
