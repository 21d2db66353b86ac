"""Losses on answers that the model writes itself as it trains.

Before a step the current model answers the step's questions, and its answers take the place of
those in the data. All else of a plan reads them as it would read the data's: a term that
distils reads its positions there, weights are held as ever.

Sampling is seeded by the stage's seed and the step. Answers that are used for longer than the
step are in every checkpoint. So a run that was killed goes on with the same numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from holdfast.carried import Ahead, Policy, Question, State
from holdfast.errors import UsageError
from holdfast.pieces.collapse import CollapseAlarm
from holdfast.plan import NEW, WRITTEN, Outputs, Reference, source_id

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.anatomy import Anatomy

_FEW = 2**20
"""Steps have seeds that are this far apart from another stage's."""


@dataclass
class Written:
    """An answer of the model's."""

    tokens: list[int]
    value: float = 1.0
    """What it counts for: an advantage, or 1."""
    log_probs: Tensor | None = None
    """[n], of its tokens when it was written; None where it is used at once."""


def seed_of(policy: Policy, step: int, turn: int = 0) -> int:
    """Of what is drawn at a step; ``turn`` tells several drawings at one step apart."""
    return (policy.seed * _FEW + step) * 8 + turn


def several(
    policy: Policy, questions: Sequence[Question], count: int, *, temperature: float, most: int,
    seed: int,
) -> list[list[list[int]]]:  # fmt: skip
    """For each question ``count`` sampled answers, in tokens."""
    asked = [q for q in questions for _ in range(count)]
    written = policy.write(asked, temperature=temperature, most=most, seed=seed)
    return [written[i : i + count] for i in range(0, len(written), count)]


@dataclass(kw_only=True)
class Rewrites(ABC):
    """Puts the model's answers into a step in the place of the data's.

    Args:
        samples: answers to each question.
        temperature: of sampling.
        max_new_tokens: of an answer.
        refresh: steps for which answers are used before new ones are written; None: an epoch
            where the engine feeds, else a step.
    """

    samples: int = 8
    temperature: float = 1.0
    max_new_tokens: int = 32
    scorer: str = "exact"
    refresh: int | None = 1
    name: str = "own-answers"
    writes: bool = field(default=True, init=False)
    held: dict[int, list[Written]] = field(default_factory=dict, init=False, repr=False)
    """By example, what is used until the next are written."""
    _step: list[Written] = field(default_factory=list, init=False, repr=False, compare=False)
    _alarm: CollapseAlarm = field(
        default_factory=CollapseAlarm, init=False, repr=False, compare=False
    )

    @abstractmethod
    def answers(
        self, policy: Policy, questions: Mapping[int, Question], step: Ahead
    ) -> dict[int, list[Written]]:
        """What the step learns from, for each question; none for one that is left out."""

    def place(self, anatomy: Anatomy) -> None:
        """A stage begins."""
        self.held, self._step, self._alarm = {}, [], CollapseAlarm()

    # The step

    def look_ahead(self, step: Ahead) -> None:
        policy = step.policy
        assert policy is not None, "the engine gives the policy"
        passes = [policy.questions(batch) for batch in step.batches]
        own = {q.index: q for rows in passes for q in rows if q.source == source_id(NEW)}
        every = self._every(policy, len(own))
        if every == 1:
            self.held = self.answers(policy, own, step)
        elif step.number % every == 0:
            coming = {i: policy.example(i) for i in policy.coming(every)}
            self.held = self.answers(policy, coming, step)
            self._remember(policy, coming)
        self._step = []
        step.batches[:] = [policy.batch(self._replaced(policy, rows)) for rows in passes]
        policy.note("answers/length", _mean(len(w.tokens) for w in self._step))
        policy.note("answers/used", float(len(self._step)))
        self._watch(policy, [row for rows in passes for row in rows])

    def _watch(self, policy: Policy, rows: Sequence[Question]) -> None:
        """Note whether the step's answers are as various as the data's."""
        own = [row for row in rows if row.source == source_id(NEW)]
        wanted = [row.answer for row in own for _ in self.held.get(row.index, ())]
        if wanted:
            for name, value in self._alarm.meet([w.tokens for w in self._step], wanted).items():
                policy.note(f"answers/{name}", value)

    def _every(self, policy: Policy, batch: int) -> int:
        if self.refresh is not None:
            return self.refresh
        return 1 if policy.size is None else max(1, -(-policy.size // max(1, batch)))

    def _replaced(self, policy: Policy, rows: Sequence[Question]) -> list[Question]:
        """A pass's rows with the model's answers; at least one row, if without an answer."""
        found: list[Question] = []
        for row in rows:
            if row.source != source_id(NEW):
                found.append(row)
                continue
            for written in self.held.get(row.index, ()):
                found.append(policy.answered(row, written.tokens, len(self._step)))
                self._step.append(written)
        # a pass has to have a row; one without an answer is read by no term
        return found or [policy.answered(rows[0], (), 0)]

    def _remember(self, policy: Policy, questions: Mapping[int, Question]) -> None:
        """Note what the loss needs of the model that wrote, before it learns from the answers."""
        return

    # A killed run

    def state(self) -> State:
        import torch

        watched = self._alarm.state()
        if self.refresh == 1 or not self.held:
            return watched
        rows = [(i, w) for i, found in self.held.items() for w in found]
        logs = [w.log_probs for _, w in rows if w.log_probs is not None]
        return {
            **watched,
            "asked": torch.tensor(list(self.held), dtype=torch.int64),
            "examples": torch.tensor([i for i, _ in rows], dtype=torch.int64),
            "lengths": torch.tensor([len(w.tokens) for _, w in rows], dtype=torch.int64),
            "tokens": torch.tensor([t for _, w in rows for t in w.tokens], dtype=torch.int64),
            "values": torch.tensor([w.value for _, w in rows], dtype=torch.float64),
            **({"log_probs": torch.cat(logs)} if logs else {}),
        }

    def load(self, state: State) -> None:
        import torch

        self._alarm.load(state)
        self.held = {int(i): [] for i in state.get("asked", ())}
        if not self.held:
            return
        lengths = state["lengths"].tolist()
        tokens = torch.split(state["tokens"], lengths)
        logs: Sequence[Any] = [None] * len(lengths)
        if "log_probs" in state:
            logs = torch.split(state["log_probs"], lengths)
        values = state["values"].tolist()
        for i, ids, value, log in zip(
            state["examples"].tolist(), tokens, values, logs, strict=True
        ):
            self.held[i].append(Written(ids.tolist(), value, log))


@dataclass(kw_only=True)
class OwnAnswers(Rewrites):
    """The loss on answers that the model writes itself, in the place of that on the data's."""

    weight: float = 1.0
    source: str = field(default=WRITTEN, init=False)
    fits: bool = field(default=True, init=False)
    reference: Reference | None = None

    def positions(self, batch: Mapping[str, Tensor]) -> Tensor:
        from holdfast.pieces.positions import answer, of_source

        return of_source(answer(batch), batch, self.source)

    def of_rows(self, outputs: Outputs, values: Sequence[float]) -> Tensor:
        """[N]: at each position its answer's value; ``values`` are of the step's answers."""
        import torch

        if outputs.examples is None:
            raise UsageError(f"'{self.name}' reads answers that it wrote; use holdfast.tune.")
        table = torch.tensor(values or [0.0], dtype=torch.float32, device=outputs.logits.device)
        return table[outputs.examples.to(table.device)]

    def numbers(self, outputs: Outputs) -> list[int]:
        """The answers in a pass, by number, in the order of its rows."""
        import torch

        if outputs.examples is None or not len(outputs.rows):
            return []
        found: list[int] = torch.unique_consecutive(outputs.examples).tolist()
        return found

    @abstractmethod
    def __call__(self, outputs: Outputs) -> Tensor:
        """[N]: the loss at each position."""


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0
