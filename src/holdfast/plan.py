"""A plan: what a method changes about ordinary fine-tuning, in six slots.

    adapt    which new modules go into the model?
    train    which weights may move?
    learn    what is minimised, on which source of data?
    feed     which examples are read, in which order?
    update   what happens to gradients and weights at a step?
    settle   what is done to the weights when a stage ends?

A method is a function that returns a plan; plans combine with ``|``. ``adapt``, ``train``
and ``feed`` hold one value each: two methods that both fill one are a :class:`PlanConflict`
that names them. ``learn``, ``update`` and ``settle`` are sequences and add up.

No torch at import time: a plan can be made, printed and checked before anything loads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from holdfast.errors import ConfigError, PlanConflict
from holdfast.slots import (
    NEW,
    TAGS,
    VIEWS,
    WRITTEN,
    Adapter,
    Choice,
    Draw,
    Edit,
    Feed,
    Outputs,
    Placed,
    Reference,
    Sized,
    StateTerm,
    Surveying,
    Teaching,
    TokenTerm,
    Update,
    Viewing,
    Weighed,
    WeightTerm,
    source_id,
    view,
    viewed,
)

if TYPE_CHECKING:
    from holdfast.anatomy import Anatomy, Selection

__all__ = [
    "EXCLUSIVE",
    "NEW",
    "TAGS",
    "VIEWS",
    "WRITTEN",
    "Adapter",
    "Choice",
    "Draw",
    "Edit",
    "Feed",
    "Outputs",
    "Placed",
    "Plan",
    "Reference",
    "Sized",
    "StateTerm",
    "Surveying",
    "Teaching",
    "TokenTerm",
    "Update",
    "Viewing",
    "Weighed",
    "WeightTerm",
    "source_id",
    "view",
    "viewed",
]

EXCLUSIVE = ("train", "adapt", "feed")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a method changes about ordinary fine-tuning. See the module's docstring."""

    name: str
    """The method's name with its settings, as a user would write it."""
    train: str | Choice | None = None
    """A selector, or a :class:`Choice` made anew in each stage.

    None with an adapter: only the adapter trains. None without: an error."""
    adapt: Adapter | None = None
    learn: tuple[TokenTerm | WeightTerm, ...] = ()
    """Added to the cross-entropy on the answers (or replacing it, see ``TokenTerm.fits``)."""
    feed: Feed | None = None
    update: tuple[Update, ...] = ()
    settle: tuple[Edit, ...] = ()
    learning_rate: float | None = None
    """The paper's, for models of the paper's size: a default that the user's own value replaces."""
    lr_scale: tuple[tuple[str, float], ...] = ()
    """``(selector, factor)``: parts that learn faster or slower than the rest."""
    owners: Mapping[str, str] = field(default_factory=dict)
    """For each filled exclusive slot, the method that filled it (filled by ``__post_init__``)."""

    def __post_init__(self) -> None:
        if not self.owners:
            owned = {s: self.name for s in EXCLUSIVE if getattr(self, s) is not None}
            object.__setattr__(self, "owners", owned)
        if self.settle and self.adapt is not None and self.adapt.structure() is not None:
            raise PlanConflict(
                f"'{self.name}': '{self.owners['adapt']}' leaves its modules in the model, so that "
                f"at the end of a stage there are no weights of the base's for "
                f"'{self.settle[0].name}' to change; use an adapter that is merged "
                "(lora:stages=merge), or leave one of them out."
            )
        held = [t.name for t in self.learn if getattr(t, "of_model", False)]
        if held and self.adapt is not None:
            raise PlanConflict(
                f"'{self.name}': the term '{held[0]}' holds the model's own weights where they "
                f"were, and '{self.owners['adapt']}' freezes them; leave one of them out."
            )
        teachers = [u for u in self.update if isinstance(u, Teaching)]
        asking = [t.name for t in self.learn if "ema" in (_of(t, "reference"), _of(t, "consults"))]
        if asking and not teachers:
            raise ConfigError(
                f"'{self.name}': '{asking[0]}' is to compare with a teacher that moves, and has "
                "none; give teacher=stage or teacher=base."
            )
        if len(teachers) > 1:
            raise PlanConflict(
                f"'{self.name}' has {len(teachers)} moving teachers that differ; a plan has one: "
                "give both methods the same decay."
            )
        fitting = [t.name for t in self.learn if getattr(t, "fits", False)]
        if len(fitting) > 1:
            raise PlanConflict(
                f"'{self.name}': {' and '.join(fitting)} each replace the loss on the new data; "
                "keep one of them."
            )

        writing = [t.name for t in self.learn if getattr(t, "writes", False)]
        if writing and isinstance(self.feed, Viewing):
            raise PlanConflict(
                f"'{self.name}': '{self.owners['feed']}' compares views of an example by one "
                f"answer, and '{writing[0]}' has the model write its own; leave one of them out."
            )

    def selection(self, anatomy: Anatomy, seed: int = 0) -> Selection | None:
        """What ``train`` means in a model and a stage; None if the plan leaves it open.

        Args:
            seed: the stage's; a selector does not depend on it.

        Raises:
            SelectorError: nothing is selected, or the text cannot be read.
        """
        if self.train is None:
            return None
        if isinstance(self.train, str):
            return anatomy.select(self.train)
        return self.train(anatomy, seed)

    def __or__(self, other: Plan) -> Plan:
        """Both plans at once. Raises :class:`PlanConflict` if they want the same slot."""
        for slot in EXCLUSIVE:
            if getattr(self, slot) is not None and getattr(other, slot) is not None:
                raise PlanConflict(_conflict(slot, self, other))
        for a, b in ((self, other), (other, self)):
            if a.adapt is not None and b.train is not None:
                raise PlanConflict(_adapted(a, b))
        twice = {t.name for t in self.learn} & {t.name for t in other.learn}
        if twice:
            raise PlanConflict(
                f"'{self.name}' and '{other.name}' both bring the loss term '{min(twice)}'; "
                "give one of them, with the weight that you want."
            )
        return Plan(
            name=f"{self.name} | {other.name}",
            train=self.train if self.train is not None else other.train,
            adapt=self.adapt or other.adapt,
            learn=self.learn + other.learn,
            feed=self.feed or other.feed,
            update=self.update + tuple(u for u in other.update if not _same_teacher(u, self)),
            settle=self.settle + other.settle,
            learning_rate=(
                self.learning_rate if self.learning_rate is not None else other.learning_rate
            ),
            lr_scale=self.lr_scale + other.lr_scale,
            owners={**other.owners, **self.owners},
        )


def _of(term: object, reference: str) -> object:
    return getattr(term, reference, None)


def _same_teacher(update: Update, plan: Plan) -> bool:
    return isinstance(update, Teaching) and update in plan.update


def _adapted(a: Plan, b: Plan) -> str:
    adapter, weights = a.owners["adapt"], b.owners["train"]
    return (
        f"'{adapter}' freezes the model and trains the modules that it brings, and '{weights}' "
        f"trains {b.train}: a plan does one or the other. Keep one of them; lora puts its modules "
        "where its scope says, and trains weights beside them with also_train."
    )


def _conflict(slot: str, a: Plan, b: Plan) -> str:
    first, second = a.owners[slot], b.owners[slot]
    if slot == "train":
        if not (isinstance(a.train, str) and isinstance(b.train, str)):
            return (
                f"'{first}' trains {a.train} and '{second}' trains {b.train}: a plan has one "
                "choice of weights. Keep one of them; what is drawn takes a scope."
            )
        return (
            f"'{first}' trains {a.train} and '{second}' trains {b.train}: a plan has one choice "
            f"of weights. To train both, use one selector: train:select='{a.train} + {b.train}'."
        )
    if slot == "adapt":
        return (
            f"'{first}' and '{second}' both put new modules into the model; "
            "a plan has one adapter. Keep one of them."
        )
    return f"'{first}' and '{second}' both set the order of the data; keep one of them."
