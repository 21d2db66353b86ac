"""A feed that leaves out what the current model cannot learn from by trying.

No torch until it is used.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from holdfast.carried import Ahead, Question, State
from holdfast.errors import UsageError
from holdfast.pieces.feeds import Shuffled
from holdfast.pieces.own_answers import seed_of, several
from holdfast.plan import NEW, Draw, source_id

if TYPE_CHECKING:
    from holdfast.anatomy import Anatomy

_AT_ONCE = 128
"""Questions."""


def learnable(rates: Mapping[int, float], above: float, below: float | None) -> list[int]:
    """The examples whose share of right answers lies strictly between two bounds.

    ``below=None`` keeps those that are always right.
    """
    return [i for i, rate in rates.items() if rate > above and (below is None or rate < below)]


@dataclass(kw_only=True)
class Learnable:
    """Shuffled epochs, in which a kept example stands in the place of each one left out.

    As a stage begins, the model that begins it writes ``samples`` answers to every example. Kept
    are those of which the share that is right lies strictly between ``above`` and ``below``.

    Args:
        least: the scorer's value from which an answer is right.
    """

    samples: int = 8
    above: float = 0.0
    below: float | None = None
    scorer: str = "exact"
    least: float = 1.0
    temperature: float = 1.0
    max_new_tokens: int = 32
    name: str = "learnable"
    writes: bool = field(default=True, init=False)
    sources: tuple[str, ...] = field(default=(), init=False)
    rates: dict[int, float] = field(default_factory=dict, init=False, repr=False)
    """By example, the share of right answers."""

    def steps(self, sizes: Mapping[str, int], batch: int, epochs: float) -> int:
        return Shuffled().steps(sizes, batch, epochs)

    def __call__(self, sizes: Mapping[str, int], step: int, batch: int, seed: int) -> list[Draw]:
        return Shuffled()(sizes, step, batch, seed)

    def place(self, anatomy: Anatomy) -> None:
        """A stage begins, and the model with it."""
        self.rates = {}

    def look_ahead(self, step: Ahead) -> None:
        """Puts kept examples in the places of others."""
        policy = step.policy
        assert policy is not None, "the engine gives the policy"
        if not self.rates:
            self._try(step)
        kept = learnable(self.rates, self.above, self.below)
        known, drawn = set(kept), random.Random(seed_of(policy, step.number))

        def stand_in(row: Question) -> Question:
            if row.source != source_id(NEW) or row.index in known:
                return row
            return policy.example(drawn.choice(kept))

        passes = [[stand_in(row) for row in policy.questions(b)] for b in step.batches]
        step.batches[:] = [policy.batch(rows) for rows in passes]

    def _try(self, step: Ahead) -> None:
        policy = step.policy
        assert policy is not None
        assert policy.size is not None, "a plan with a feed is not given to other trainers"
        for begin in range(0, policy.size, _AT_ONCE):
            asked = [policy.example(i) for i in range(begin, min(begin + _AT_ONCE, policy.size))]
            written = several(
                policy, asked, self.samples, temperature=self.temperature,
                most=self.max_new_tokens, seed=seed_of(policy, begin, 1),
            )  # fmt: skip
            for question, own in zip(asked, written, strict=True):
                right = [policy.score(self.scorer, question, t) >= self.least for t in own]
                self.rates[question.index] = sum(right) / len(right)
        kept = learnable(self.rates, self.above, self.below)
        policy.note("answers/kept", len(kept) / len(self.rates))
        if not kept:
            never = sum(rate == 0 for rate in self.rates.values())
            raise UsageError(
                f"'{self.name}' keeps none of {len(self.rates)} examples: to {never} the model "
                f"writes no right answer in {self.samples}, to "
                f"{sum(r == 1 for r in self.rates.values())} only right ones. Give more samples "
                "or other bounds, or teach the skill with its own answers first."
            )

    def state(self) -> State:
        import torch

        if not self.rates:
            return {}
        return {
            "examples": torch.tensor(list(self.rates), dtype=torch.int64),
            "rates": torch.tensor(list(self.rates.values()), dtype=torch.float64),
        }

    def load(self, state: State) -> None:
        if state:
            pairs = zip(state["examples"].tolist(), state["rates"].tolist(), strict=True)
            self.rates = {int(i): float(rate) for i, rate in pairs}
