"""What a task is: examples, a way to ask, and a scorer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from holdfast.data.records import Record


@dataclass(frozen=True)
class Score:
    """One scored answer.

    A reply that could not be read as an answer at all has ``parsed=None``; its ``value``
    is 0 for the mean, and it is counted in its own column, never hidden among the wrong.
    """

    value: float
    """In [0, 1]."""
    parsed: str | None
    """What the scorer understood, in canonical form (e.g. ``"B"``, ``"14"``, ``"07:35"``)."""


Scorer = Callable[[str, Sequence[str]], Score]
"""``scorer(reply, references) -> Score``: pure, no model, no state."""


@dataclass(frozen=True)
class Example:
    """One question of a task."""

    id: str
    prompt: Record
    """The conversation up to the question (no final assistant turn)."""
    references: tuple[str, ...]
    """Acceptable answers; the first is the canonical one."""
    choices: tuple[str, ...] = ()
    """Continuations to compare, for tasks that ask by likelihood. One of them is references[0]."""
    cluster: str = ""
    """Examples that share an image or a document share a cluster (for error bars)."""


@dataclass(frozen=True)
class Task:
    """A named set of questions.

    ``ask="generate"``: greedy decoding of at most ``max_new_tokens``, then ``scorer``.
    ``ask="choices"``: each choice is scored by its log-likelihood after the prompt; the
    answer is the most likely one (sum of log-probabilities, ``length_normalised`` divides
    by the choice's number of bytes, as lm-eval's ``acc_norm`` does).
    """

    name: str
    examples: Sequence[Example]
    ask: Literal["generate", "choices"] = "generate"
    scorer: str = "exact"
    """Name in :data:`holdfast.tasks.scorers.SCORERS`."""
    max_new_tokens: int = 16
    length_normalised: bool = False
    summary: str = ""


@dataclass(frozen=True)
class Answer:
    """What a model replied to one example, and how it was scored. Kept for every example."""

    task: str
    id: str
    reply: str
    references: tuple[str, ...]
    score: float
    parsed: str | None
    cluster: str = ""
    logprobs: tuple[float, ...] = ()
    """Log-likelihood of each choice, for ``ask="choices"``."""


@dataclass(frozen=True)
class TaskResult:
    """A model's answers to one task."""

    task: str
    answers: tuple[Answer, ...]
    seconds: float = 0.0
    meta: dict[str, object] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return len(self.answers)

    @property
    def score(self) -> float:
        """Mean score in percent; NaN if there is no answer."""
        if not self.answers:
            return float("nan")
        return 100.0 * sum(a.score for a in self.answers) / len(self.answers)

    @property
    def unparsed(self) -> float:
        """Share of replies that could not be read as an answer, in percent."""
        if not self.answers:
            return float("nan")
        return 100.0 * sum(a.parsed is None for a in self.answers) / len(self.answers)
