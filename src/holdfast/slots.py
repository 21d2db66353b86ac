"""What fills the slots of a plan: the protocols of its pieces, and what they are given.

:mod:`holdfast.plan` joins them. No torch at import time.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from holdfast.anatomy import Anatomy, Selection

Reference = Literal["stage", "base", "ema"]
"""Which model a term compares with, without gradient: the one at the start of this stage, or of
the run; or the moving average of the live one, where a :class:`Teaching` update makes it."""


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


@runtime_checkable
class Teaching(Protocol):
    """What an update may have beside: it makes a reference. One per plan, and the last to act."""

    teaches: Literal["ema"]
    weights: dict[str, Tensor]
    """By name in the live model, once it was anchored; changed in place."""


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
