"""What a plan's pieces carry from stage to stage, and what they see of a step ahead of it.

A piece of a plan (a term, an update, the feed) is a value: made once, read by every stage. One
that has to know something of earlier stages (importances, exemplars, logits) is besides a
:class:`Remembers`. At the end of a stage the engine asks it what to keep, writes that to the
run's ``stages/NN/carried/NAME.safetensors`` before the stage counts as done, and hands it to
:meth:`Remembers.recall` when the next one begins; so a run that was killed goes on with the
numbers that it would have had.

Smaller protocols: a piece that gathers something *while* a stage trains is :class:`Running`, and
its state goes into every checkpoint; one that needs gradients or batches before the passes of a
step is :class:`LooksAhead`; an update that goes back to where the stage began is
:class:`Anchored`, and an adapter that looks at data before it is attached is :class:`Calibrated`.

No torch at import time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from holdfast.plan import Draw, Feed

if TYPE_CHECKING:
    from torch import Tensor, nn

State = Mapping[str, "Tensor"]
"""What a piece keeps: tensors by name, of any shape and dtype; empty in the first stage."""

MEMORY = "memory"
"""The source that the engine fills with the examples of earlier stages that a feed remembers."""
AGAIN = "memory-again"
"""The same examples as :data:`MEMORY`, for a feed that draws of them twice."""


@dataclass(frozen=True)
class Ended:
    """A stage that was trained and settled, for pieces to read what they keep off it."""

    stage: int
    """From 1."""
    seed: int
    """The run's, the same in every stage."""
    model: nn.Module
    """As the next stage will find it, in evaluation mode and frozen."""
    weights: tuple[str, ...]
    """Names, in ``model.named_parameters()``, of what this stage may have changed."""
    examples: Sequence[Any]
    """The stage's own data, encoded."""
    collate: Callable[[list[Any]], Mapping[str, Any]]
    earlier: Sequence[Sequence[Any]] = ()
    """Every earlier stage's own data, encoded."""
    memory: Sequence[tuple[int, int]] = ()
    """The (stage, index) of the examples that the next stage can replay; given once the feed
    has kept them."""

    def batch(self, indices: Sequence[int]) -> dict[str, Any]:
        """Some of the stage's examples as one batch on the model's device, labels included."""
        return self.remembered([(self.stage, i) for i in indices])

    def remembered(self, places: Sequence[tuple[int, int]]) -> dict[str, Any]:
        """Examples of this stage and earlier ones, (stage, index), as such a batch."""
        device = next(self.model.parameters()).device
        stages = [*self.earlier, self.examples]
        rows = dict(self.collate([stages[stage - 1][index] for stage, index in places]))
        return {k: v.to(device) if hasattr(v, "to") else v for k, v in rows.items()}

    def batches(self, size: int, most: int | None = None) -> Iterator[dict[str, Any]]:
        """The stage's examples in batches of ``size``; of more than ``most``, a seeded sample."""
        import random

        order: Sequence[int] = range(len(self.examples))
        if most is not None and most < len(order):
            order = sorted(random.Random(self.seed * 1000 + self.stage).sample(order, most))
        for start in range(0, len(order), size):
            yield self.batch(order[start : start + size])


@runtime_checkable
class Remembers(Protocol):
    """A piece that carries state from one stage to the next."""

    @property
    def name(self) -> str:
        """Of its file; a plan holds no two of one name."""
        ...

    def keep(self, ended: Ended) -> State:
        """All that the next stages need to know: what it recalled itself, and this stage's.

        Leaves the model's weights, modes and the random state as they are.
        """
        ...

    def recall(self, state: State) -> Self:
        """The piece for the stage that begins, knowing what was kept at the end of the one
        before (on the CPU). The piece itself does not change."""
        ...


@runtime_checkable
class Rehearses(Remembers, Feed, Protocol):
    """A feed that draws from examples of earlier stages.

    Its draws name :data:`MEMORY` (and :data:`AGAIN`); the index is the place in
    :meth:`exemplars`. In the first stage ``sizes`` has no such source.
    """

    def exemplars(self) -> Sequence[tuple[int, int]]:
        """(stage from 1, index in that stage's own data) of each remembered example."""
        ...

    def foresee(self, sizes: Sequence[int], seed: int) -> Sequence[tuple[int, int]]:
        """As many as there will be after stages of ``sizes`` examples, as likely ones: what a
        run costs is counted before anything was trained."""
        ...


@runtime_checkable
class Running(Protocol):
    """A piece that gathers state within a stage. Named as the terms of a plan are."""

    @property
    def name(self) -> str: ...

    def state(self) -> State:
        """What a checkpoint has to hold of it, after an optimizer step."""
        ...

    def load(self, state: State) -> None:
        """Go on from what :meth:`state` returned."""
        ...


@dataclass(frozen=True)
class Question:
    """One row of a step: an example that a model can be asked."""

    source: int
    """The :func:`holdfast.plan.source_id` of its source."""
    index: int
    """In its source; in a trainer that does not say, its place in the step."""
    features: Mapping[str, Tensor]
    """Encoded, without padding: per-token features [T], images in their own shapes."""

    @property
    def begin(self) -> int:
        """Where the last answer begins, in tokens."""
        marked = (self.features["labels"] != -100).tolist()
        end = len(marked) - marked[::-1].index(True) if True in marked else 0
        return max((k for k in range(end) if not marked[k]), default=-1) + 1

    @property
    def answer(self) -> list[int]:
        """The tokens of the last answer."""
        labels: list[int] = self.features["labels"][self.begin :].tolist()
        return [token for token in labels if token != -100]


class Policy(Protocol):
    """The live model as one that answers questions. Nothing here leaves a trace in it, or in the
    state of the generators of random numbers."""

    @property
    def seed(self) -> int:
        """The stage's."""
        ...

    @property
    def size(self) -> int | None:
        """Examples of the stage; None in a trainer that reads its own data."""
        ...

    def questions(self, batch: Mapping[str, Any]) -> list[Question]:
        """The rows of a batch."""
        ...

    def example(self, index: int) -> Question:
        """One of the stage's own examples."""
        ...

    def coming(self, steps: int) -> list[int]:
        """Those of the stage's own examples that this step and the next ones read."""
        ...

    def batch(self, rows: Sequence[Question]) -> dict[str, Any]:
        """Rows as one padded batch, with :data:`holdfast.plan.TAGS`."""
        ...

    def answered(self, question: Question, tokens: Sequence[int], number: int) -> Question:
        """A question with another answer, number ``number`` of :data:`holdfast.plan.WRITTEN`."""
        ...

    def demonstrated(self, question: Question, tokens: Sequence[int], number: int) -> Question:
        """The example as an earlier turn, its question again, and behind it another answer."""
        ...

    def write(
        self, questions: Sequence[Question], *, temperature: float, most: int, seed: int
    ) -> list[list[int]]:
        """Answers in tokens, up to and with the one that ends them; greedy for temperature 0."""
        ...

    def text(self, tokens: Sequence[int]) -> str:
        """An answer in words."""
        ...

    def tokens(self, text: str) -> list[int]:
        """The tokens of an answer, with the one that ends it."""
        ...

    def score(self, scorer: str, question: Question, tokens: Sequence[int]) -> float:
        """What a scorer gives an answer, 0 to 1."""
        ...

    def log_probs(self, rows: Sequence[Question], temperature: float) -> list[Tensor]:
        """For each row [n]: log p of its answer's tokens under softmax(logits / temperature)."""
        ...

    def consult(self, reference: str, rows: Sequence[Question]) -> Tensor:
        """[N, V]: a reference's logits where the rows' answers are predicted, row by row."""
        ...

    def note(self, name: str, value: float) -> None:
        """Have a number in the trainer's log, averaged over its steps."""
        ...


@dataclass
class Ahead:
    """An optimizer step that is about to be made."""

    model: nn.Module
    """In training mode; a piece leaves it so."""
    parameters: Mapping[str, Tensor]
    """The trainable weights by name; a piece may move them in place."""
    batches: list[dict[str, Any]]
    """The step's passes. A piece may put others in their place, with the same keys."""
    rate: float
    """The step's learning rate."""
    gradients: Callable[[Sequence[Mapping[str, Any]]], dict[str, Tensor]]
    """The gradient of the plan's whole loss over some batches, as if they were the step."""
    losses: Callable[[Sequence[Mapping[str, Any]]], list[Tensor]]
    """For each batch [B]: the mean cross-entropy of each row's answer; no gradient."""
    number: int = 0
    """From 0."""
    steps: int = 1
    """Of the whole stage."""
    policy: Policy | None = None
    """The model as one that writes."""
    clear: Callable[[Mapping[str, Tensor]], None] = lambda gradients: None
    """Zeroes, in gradients by weight, what the plan holds still: rows of fused weights."""


@runtime_checkable
class LooksAhead(Protocol):
    """A piece that acts between the reading of a step's examples and the passes over them."""

    @property
    def name(self) -> str: ...

    def look_ahead(self, step: Ahead) -> None:
        """Called once per optimizer step, in one process, before its first pass."""
        ...


@runtime_checkable
class Anchored(Protocol):
    """What an update may have beside: it goes back to the start of the stage."""

    def anchor(self, parameters: Mapping[str, Tensor]) -> None:
        """Told the trainable weights as a stage begins, before a checkpoint is loaded."""
        ...

    def begin(self, step: int, steps: int) -> None:
        """Told when training begins or goes on: ``step`` of ``steps`` steps are done."""
        ...


@runtime_checkable
class Calibrated(Protocol):
    """What an adapter may have beside: it looks at data before it is attached.

    It can be attached without to a model on the meta device, whose cost is counted.
    """

    source: str
    """Of the examples; the stage's own are :data:`holdfast.plan.NEW`."""
    examples: int
    """So many of them at most."""

    def calibrate(self, batches: Iterable[Mapping[str, Any]]) -> None:
        """Told as a stage begins: batches of one example each, on the model's device. They can
        be gone through more than once, and are read when they are."""
        ...


__all__ = [
    "AGAIN",
    "MEMORY",
    "Ahead",
    "Anchored",
    "Calibrated",
    "Draw",
    "Ended",
    "LooksAhead",
    "Policy",
    "Question",
    "Rehearses",
    "Remembers",
    "Running",
    "State",
]
