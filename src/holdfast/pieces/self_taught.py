"""A model that learns from its own answers: those that are right, or those of a teacher's mind.

No torch until one is used.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from holdfast.carried import Ahead, Policy, Question
from holdfast.pieces.own_answers import OwnAnswers, Written, seed_of, several
from holdfast.plan import NEW, Outputs, Reference, source_id

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(kw_only=True)
class RightAnswers(OwnAnswers):
    """-log p(token) of one right answer of the model's own to each question (rejection sampling).

    A question without a right answer is left out until the next are written.

    Args:
        least: the scorer's value from which an answer is right.
    """

    least: float = 1.0
    name: str = "right-answers"

    def answers(
        self, policy: Policy, questions: Mapping[int, Question], step: Ahead
    ) -> dict[int, list[Written]]:
        seed = seed_of(policy, step.number)
        written = several(
            policy, list(questions.values()), self.samples, temperature=self.temperature,
            most=self.max_new_tokens, seed=seed,
        )  # fmt: skip
        found: dict[int, list[Written]] = {}
        drawn, right = random.Random(seed), 0
        for (i, question), own in zip(questions.items(), written, strict=True):
            scores = [policy.score(self.scorer, question, tokens) for tokens in own]
            good = [t for t, score in zip(own, scores, strict=True) if score >= self.least]
            right += len(good)
            found[i] = [Written(drawn.choice(good))] if good else []
        policy.note("answers/reward", right / max(1, len(questions) * self.samples))
        return found

    def __call__(self, outputs: Outputs) -> Tensor:
        from holdfast.pieces.objectives import cross_entropy

        return cross_entropy(outputs.logits, outputs.targets)


@dataclass(kw_only=True)
class TaughtAnswers(OwnAnswers):
    """KL(p(. | x, y_<t) || p_teacher(. | d, x, y_<t)) at each token of the model's own answer y.

    The teacher is the model as the stage (or the run) began, and stays that. It reads the
    example itself, question and answer, as an earlier turn d, and then the question again.

    Args:
        direction: ``reverse``, as above; ``forward``, KL(p_teacher || p).
        skip: the first tokens of each answer are not learned from.
        average: over the ``tokens`` of a step, or over its ``answers``, of each of their tokens.
    """

    samples: int = 1
    consults: Reference = "stage"
    direction: Literal["reverse", "forward"] = "reverse"
    skip: int = 0
    average: Literal["tokens", "answers"] = "tokens"
    name: str = "taught-answers"
    _policy: Policy | None = field(default=None, init=False, repr=False, compare=False)
    _taught: list[Question] = field(default_factory=list, init=False, repr=False, compare=False)

    def answers(
        self, policy: Policy, questions: Mapping[int, Question], step: Ahead
    ) -> dict[int, list[Written]]:
        written = several(
            policy, list(questions.values()), self.samples, temperature=self.temperature,
            most=self.max_new_tokens, seed=seed_of(policy, step.number),
        )  # fmt: skip
        return {i: list(map(Written, own)) for i, own in zip(questions, written, strict=True)}

    def look_ahead(self, step: Ahead) -> None:
        self._policy, self._taught = step.policy, []
        super().look_ahead(step)

    def _replaced(self, policy: Policy, rows: Sequence[Question]) -> list[Question]:
        first = len(self._step)
        found = super()._replaced(policy, rows)
        own = [row for row in rows if row.source == source_id(NEW)]
        asked = [row for row in own for _ in self.held.get(row.index, ())]
        for row, written in zip(asked, self._step[first:], strict=True):
            self._taught.append(policy.demonstrated(row, written.tokens, len(self._taught)))
        return found

    def positions(self, batch: Mapping[str, Tensor]) -> Tensor:
        wanted = super().positions(batch)
        return wanted & (wanted.cumsum(1) > self.skip) if self.skip else wanted

    def __call__(self, outputs: Outputs) -> Tensor:
        from holdfast.pieces.objectives import kl

        numbers = self.numbers(outputs) if self._taught else []
        if not numbers:
            return outputs.logits.float().sum(-1) * 0.0
        teacher = self._teacher(numbers).to(outputs.logits.device)
        divergence = kl(outputs.logits, teacher, direction=self.direction)
        if self.average == "tokens":
            return divergence
        read = [max(0, len(written.tokens) - self.skip) for written in self._step]
        # the engine takes the mean over tokens
        shares = [sum(read) / (len(read) * count) if count else 0.0 for count in read]
        return divergence * self.of_rows(outputs, shares)

    def _teacher(self, numbers: Sequence[int]) -> Tensor:
        """[N, V]: the teacher's logits at the tokens of some answers that are learned from."""
        import torch

        assert self._policy is not None
        logits = self._policy.consult(self.consults, [self._taught[n] for n in numbers])
        if not self.skip:
            return logits
        places = [torch.arange(len(self._step[n].tokens)) for n in numbers]
        return logits[(torch.cat(places) >= self.skip).to(logits.device)]
