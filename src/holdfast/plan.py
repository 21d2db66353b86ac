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

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from holdfast.errors import PlanConflict

if TYPE_CHECKING:
    from torch import Tensor, nn

    from holdfast.anatomy import Anatomy, Selection

Reference = Literal["stage", "base"]
"""Which frozen model a term compares with: the one at the start of this stage, or of the run."""


@dataclass(frozen=True)
class Outputs:
    """What the model said at the N positions a term asked for.

    Position t of a sequence holds the prediction of token t+1, so ``targets`` is already
    shifted. ``N`` runs over all rows of the batch.
    """

    logits: Tensor
    """[N, V], in the model's dtype."""
    targets: Tensor
    """[N], the label of the predicted token, -100 where that token is not supervised."""
    rows: Tensor
    """[N], the row of the batch that each position belongs to."""
    reference: Tensor | None = None
    """[N, V], the reference model's logits at the same positions, without gradient."""
    sources: Tensor | None = None
    """[N], the :func:`source_id` of each position's example, where the engine feeds."""
    examples: Tensor | None = None
    """[N], the index of each position's example in its source, where the engine feeds."""
    hidden: Tensor | None = None
    """[N, D], what the head reads (the last hidden states), for a :class:`StateTerm`."""
    reference_hidden: Tensor | None = None
    """[N, D], the reference's, without gradient, for a :class:`StateTerm`."""


@runtime_checkable
class TokenTerm(Protocol):
    """A loss read off next-token predictions.

    The engine averages it over all positions of the *whole* optimizer step (over micro-batches
    and ranks), so its value does not depend on how the step was cut into pieces.
    """

    name: str
    weight: float
    fits: bool
    """True if this term replaces the cross-entropy on the new data; a plan holds at most one."""
    reference: Reference | None
    """The frozen model whose logits it needs, or None."""

    def positions(self, batch: Mapping[str, Tensor]) -> Tensor:
        """[B, T] bool: position t is True if the prediction of token t+1 is wanted.

        ``batch`` has ``input_ids``, ``attention_mask``, ``labels`` (all [B, T]; labels not
        shifted, -100 where unsupervised), :data:`TAGS` and whatever the processor adds.
        """
        ...

    def __call__(self, outputs: Outputs) -> Tensor:
        """[N]: the loss at each position, not reduced, not weighted."""
        ...


@runtime_checkable
class StateTerm(TokenTerm, Protocol):
    """A term that reads last hidden states, and gets no logits of its reference."""

    states: Literal[True]


@runtime_checkable
class Sized(Protocol):
    """What a :class:`TokenTerm` may have beside: its mean is over what its outputs decide."""

    def sizes(self, outputs: Outputs) -> Tensor:
        """[N]: what each position counts for; the mean is sum(values) / sum(sizes), or 0 / 1.

        Both sums are over the whole optimizer step. Where it has several passes, they are run
        twice: once without gradient to learn the sums.
        """
        ...


@runtime_checkable
class Weighed(Protocol):
    """What a :class:`TokenTerm` may have beside: its weight follows from the step."""

    def weigh(self, means: Mapping[str, Tensor]) -> Tensor | float:
        """The weight at this step, in place of ``weight``.

        ``means``: each token term's unweighted mean over the whole optimizer step, by name and
        without gradient; a term that has no position in the step is not there.
        """
        ...


@runtime_checkable
class Surveying(Protocol):
    """What a :class:`StateTerm` may have beside: it looks at all of a source first."""

    source: str
    """What it looks at."""

    def survey(self, states: Iterable[Tensor]) -> None:
        """Told once as a stage begins: its reference's states [n, D] at its positions."""
        ...


@runtime_checkable
class WeightTerm(Protocol):
    """A loss read off the weights (L2-SP, EWC ...), added once per optimizer step."""

    name: str
    weight: float
    # one of the model's own weights, which an adapter freezes, has besides: of_model = True

    def __call__(self, parameters: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> Tensor:
        """Scalar. ``parameters``: the trainable weights now; ``start``: the same at stage start,
        or when the run began if the term has ``reference = "base"``."""
        ...


class Choice(Protocol):
    """Which weights may move, where that is drawn or measured when a stage begins.

    ``str()`` of it says in a few words what it chooses, for messages.
    """

    def __call__(self, anatomy: Anatomy, seed: int) -> Selection:
        """A pure function of the model's parts and the stage's seed.

        Raises ``SelectorError`` if it chooses nothing in this model.
        """
        ...


class Adapter(Protocol):
    """New modules in the model. One per plan."""

    name: str

    def attach(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """Put the modules in, at the start of each stage, and freeze all else.

        At attachment the model must compute what it computed before. Returns the model to
        train (PEFT wraps it). Called on every stage; a model that carries its modules over
        from the stage before is returned as it is.
        """
        ...

    def touches(self, model: nn.Module, anatomy: Anatomy) -> Iterable[str]:
        """Names of the model's own weights that :meth:`detach` will change (by merging).

        Asked before :meth:`attach`, so that their values can be kept for the plan's edits.
        """
        ...

    def trainable(self, model: nn.Module) -> Iterable[str]:
        """Names (in ``model.named_parameters()``) of the weights that train."""
        ...

    def detach(self, model: nn.Module, folder: Path | None) -> nn.Module:
        """End of a stage: keep what the method keeps, merge what it merges.

        ``folder``: where to save the adapter in its ecosystem's own format (PEFT), or None.
        Returns the model for evaluation and for the next stage.
        """
        ...

    def structure(self) -> Mapping[str, object] | None:
        """What to rebuild before weights load, if modules stay in the model after ``detach``.

        JSON values with a key ``"kind"`` known to :mod:`holdfast.pieces.structures`; None if
        the settled model has the base's own modules.
        """
        ...


class Edit(Protocol):
    """What is done to the weights when a stage ends. A pure function of named tensors."""

    name: str

    def __call__(
        self, tuned: Mapping[str, Tensor], start: Mapping[str, Tensor], base: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """New values for ``tuned``.

        All three have the same keys: the weights that this run has changed, now, when the
        stage began and when the run began. Arithmetic is in float32, the result in the
        dtype of ``tuned``. Raises ``UsageError`` when keys or shapes differ.
        """
        ...


class Update(Protocol):
    """What happens to gradients and weights around an optimizer step."""

    name: str

    def before_step(self, parameters: Mapping[str, Tensor]) -> None:
        """Gradients are complete (accumulated, not clipped): change them in place."""
        ...

    def after_step(self, parameters: Mapping[str, Tensor]) -> None:
        """The optimizer has moved the weights: change them in place."""
        ...


@runtime_checkable
class Placed(Protocol):
    """What a piece may have beside: it finds parts by their role, or begins anew each stage."""

    def place(self, anatomy: Anatomy) -> None:
        """Told as a stage begins; forgets what it gathered in an earlier one."""
        ...


NEW = "new"
"""The source that a stage learns from; the others have the names that the stage gives them."""

Draw = tuple[str, int]
"""A source's name and the index of one of its examples."""

TAGS = ("source", "example")
"""What the engine adds to a batch, [B] each, for terms to read and never for the model: the
:func:`source_id` of each row's source, and the row's index in it."""


def source_id(name: str) -> int:
    """A source's number in a batch: 0 for what the stage learns, else a hash of its name."""
    return 0 if name == NEW else zlib.crc32(name.encode()) + 1


WRITTEN = "written"
"""The source of answers that the model writes itself as it trains, in the place of examples that
a step would read; the index is the answer's number in the step."""

VIEWS = "views"
"""The source of changed views of the stage's own examples, for a feed that is :class:`Viewing`."""
_VIEW_BITS = 20


def view(example: int, number: int) -> int:
    """The index in :data:`VIEWS` of an example's view: each view is an example of its own."""
    return (example << _VIEW_BITS) + number


def viewed(index: int) -> tuple[int, int]:
    """The example that an index in :data:`VIEWS` shows, and the view's number."""
    return index >> _VIEW_BITS, index & ((1 << _VIEW_BITS) - 1)


class Feed(Protocol):
    """Which examples are read in which order: a pure, seeded function of the step.

    A step's examples are a set: their order within it has no effect, and their number may
    differ from step to step. One may be drawn several times, and is then read as it is each
    time; changed views of it are examples of the source :data:`VIEWS`.
    """

    @property
    def name(self) -> str: ...

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources it reads beside :data:`NEW`; a stage that lacks one is refused."""
        ...

    def steps(self, sizes: Mapping[str, int], batch: int, epochs: float) -> int:
        """How many optimizer steps ``epochs`` epochs of the stage's own data take."""
        ...

    def __call__(self, sizes: Mapping[str, int], step: int, batch: int, seed: int) -> list[Draw]:
        """The draws of optimizer step ``step`` (from 0).

        Args:
            sizes: examples of each source that the stage has.
            batch: how many examples a step should read (``train.batch_size``).
        """
        ...


@runtime_checkable
class Viewing(Feed, Protocol):
    """A feed that draws changed views of the stage's own examples, from :data:`VIEWS`.

    A view is a pure function of its index (see :func:`view`) and the stage's seed, so what is
    computed once of an example (:mod:`holdfast.cache`) is never taken for another view of it.
    """

    @property
    def together(self) -> int:
        """So many draws behind each other stay in one forward pass."""
        ...

    def show(self, examples: Sequence[Any], seed: int) -> Sequence[Any]:
        """The views of encoded examples, by their index; each made when it is read."""
        ...


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
            update=self.update + other.update,
            settle=self.settle + other.settle,
            learning_rate=(
                self.learning_rate if self.learning_rate is not None else other.learning_rate
            ),
            lr_scale=self.lr_scale + other.lr_scale,
            owners={**other.owners, **self.owners},
        )


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
