"""Expert iteration on answers and refusals, with a curriculum of how soon to refuse.

Zhao et al. 2025, Auto-CEI, arXiv 2410.07627, and its released code. No torch until one is used.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from holdfast.carried import Ahead, Policy, Question, State
from holdfast.errors import UsageError
from holdfast.pieces.feeds import Shuffled
from holdfast.pieces.own_answers import Rewrites, Written, seed_of, several
from holdfast.plan import Draw

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.anatomy import Anatomy

REFUSALS = ("i don't know", "sorry", "too difficult", "unfortunate", "no answer")
"""A reply with one of these refuses."""
_SAME = 0.003
"""A change of precision and of refusals that ends an iteration at one threshold."""
_MOST = 3
"""Iterations at one threshold, at most."""


def refuses(text: str) -> bool:
    """Whether a reply says that it does not know."""
    return any(sign in text.lower() for sign in REFUSALS)


def refusal_reward(depth: float, c1: float, c2: float) -> float:
    """2 / (1 + exp(-c2 (d - c1))) - 1, in (-1, 1): of a refusal after d steps of reasoning."""
    return math.tanh(c2 * (depth - c1) / 2)


def first_threshold(refused: Sequence[int], every: Sequence[int]) -> tuple[float, float, float]:
    """(c1, c2, step) from how many steps a model's refusals, and all its answers, have.

    With m the mean of refusals and s the deviation of all, step = min(0.2 s, 0.5),
    c1 = m + step, c2 = -ln(0.1) / (4 s). Without any deviation c2 is 0: a refusal is worth 0.
    """
    spread = statistics.pstdev(every) if every else 0.0
    mean = statistics.fmean(refused or every or [0])
    step = min(0.2 * spread, 0.5)
    return mean + step, -math.log(0.1) / (4 * spread) if spread else 0.0, step


def next_offset(known: Mapping[int, float]) -> int | None:
    """Where a hill climb by whole steps looks next: above the best, else below; None: it is up."""
    best = max(known, key=lambda k: (known[k], -abs(k)))
    return next((k for k in (best + 1, best - 1) if k not in known), None)


def resampled(rewards: Sequence[float], tau: float, drawn: random.Random) -> list[int]:
    """What is learned of n answers: all with R > -1, and of n drawn with replacement with
    probability softmax(R / tau) those with R > -1."""
    top = max(rewards)
    shares = [math.exp((r - top) / tau) for r in rewards]
    more = drawn.choices(range(len(rewards)), shares, k=len(rewards))
    return [i for i in (*range(len(rewards)), *more) if rewards[i] > -1]


@dataclass(kw_only=True)
class ExpertIteration(Rewrites):
    """Shuffled epochs, each on answers that the model wrote as the epoch began.

    First epoch: its right answers, and its wrong ones with their last line cut and a refusal in
    its place. Every later one: :func:`resampled` by reward, 1 for right, -1 for wrong and
    :func:`refusal_reward`. After some epochs at one threshold c1 the next one is tried, uphill in

        f = (1 - caution) * precision + caution * (1 - share of refusals)

    on questions that are set aside. The best model stays at the end (:class:`KeepBest`).

    Args:
        caution: lambda; 0 asks for precision alone, 1 for no refusal.
        refusal: what stands in the place of a wrong answer's last line.
        mark: ends a step of reasoning.
        aside: share of the questions that is set aside, 400 at most.
    """

    caution: float = 0.2
    refusal: str = "Sorry, I am not sure that this is right."
    mark: str = "\n"
    aside: float = 0.1
    samples: int = 16
    refresh: int | None = None
    name: str = "auto-cei"
    sources: tuple[str, ...] = field(default=(), init=False)
    known: dict[int, float] = field(default_factory=dict, init=False, repr=False)
    """The best f at each threshold that was tried, by steps from the first."""
    at: int = field(default=0, init=False, repr=False)
    """The threshold that is tried now; None once the climb is over."""
    rounds: int = field(default=0, init=False, repr=False)
    here: int = field(default=0, init=False, repr=False)
    """Iterations at this threshold."""
    last: tuple[float, float] = field(default=(-1.0, -1.0), init=False, repr=False)
    curve: tuple[float, float, float, float] = field(
        default=(0.0, 0.0, 0.0, 1.0), init=False, repr=False
    )
    """c1 at first, c2, step, tau."""
    best: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    score: float = field(default=-1.0, init=False, repr=False)
    over: bool = field(default=False, init=False, repr=False)
    """The best weights are put back after this step."""

    # The order

    def steps(self, sizes: Mapping[str, int], batch: int, epochs: float) -> int:
        return Shuffled().steps(sizes, batch, epochs)

    def __call__(self, sizes: Mapping[str, int], step: int, batch: int, seed: int) -> list[Draw]:
        return Shuffled()(sizes, step, batch, seed)

    def place(self, anatomy: Anatomy) -> None:
        super().place(anatomy)
        self.known, self.best, self.score = {}, {}, -1.0
        self.at = self.rounds = self.here = 0
        self.last, self.over = (-1.0, -1.0), False

    # A round

    def look_ahead(self, step: Ahead) -> None:
        super().look_ahead(step)
        if step.number == step.steps - 1 and self.rounds > 1 and step.policy is not None:
            self._measure(step.policy, step)
            self.over = True  # what this last step would learn was not measured

    def answers(
        self, policy: Policy, questions: Mapping[int, Question], step: Ahead
    ) -> dict[int, list[Written]]:
        self.rounds += 1
        if self.rounds > 1:
            self._climb(policy, step)
        aside = set(self._aside(policy))
        asked = {i: q for i, q in questions.items() if i not in aside}
        seed = seed_of(policy, step.number)
        written = several(
            policy, list(asked.values()), self.samples, temperature=self.temperature,
            most=self.max_new_tokens, seed=seed,
        )  # fmt: skip
        drawn = random.Random(seed)
        found: dict[int, list[Written]] = {i: [] for i in questions}
        for (i, question), own in zip(asked.items(), written, strict=True):
            learned = (
                [self._or_refusal(policy, question, tokens) for tokens in own]
                if self.rounds == 1
                else [own[k] for k in self._chosen(policy, question, own, drawn)]
            )
            found[i] = [Written(tokens) for tokens in learned]
        return found

    def _or_refusal(self, policy: Policy, question: Question, tokens: list[int]) -> list[int]:
        if policy.score(self.scorer, question, tokens) == 1:
            return tokens
        begun, _, _ = policy.text(tokens).rpartition(self.mark)
        told = policy.tokens(begun + (self.mark if begun else "") + self.refusal)
        if not refuses(policy.text(told)):
            raise UsageError(
                f"the model's tokenizer makes {policy.text(told)!r:.80} of the refusal "
                f"{self.refusal!r}, which does not refuse; give one with a word of: "
                f"{', '.join(REFUSALS)}, that it can write (auto-cei:refusal=...)."
            )
        return told

    def _chosen(
        self, policy: Policy, question: Question, own: list[list[int]], drawn: random.Random
    ) -> list[int]:
        rewards = [self._reward(policy, question, tokens) for tokens in own]
        return resampled(rewards, self.curve[3], drawn)

    def _reward(self, policy: Policy, question: Question, tokens: list[int]) -> float:
        text = policy.text(tokens)
        if refuses(text):
            first, c2, step, _ = self.curve
            return refusal_reward(text.count(self.mark), first + self.at * step, c2)
        return 1.0 if policy.score(self.scorer, question, tokens) == 1 else -1.0

    # The curriculum

    def _aside(self, policy: Policy) -> list[int]:
        size = policy.size
        assert size is not None, "a plan with a feed is not given to other trainers"
        count = min(400, max(1, round(self.aside * size)))
        return sorted(random.Random(f"{policy.seed} aside").sample(range(size), count))

    def _measure(self, policy: Policy, step: Ahead) -> tuple[float, float]:
        """Precision and share of refusals on what is set aside; keeps the weights if best."""
        asked = [policy.example(i) for i in self._aside(policy)]
        written = policy.write(asked, temperature=0.0, most=self.max_new_tokens, seed=0)
        texts = [policy.text(tokens) for tokens in written]
        refused = [refuses(text) for text in texts]
        right = [
            policy.score(self.scorer, q, t) == 1 and not no
            for q, t, no in zip(asked, written, refused, strict=True)
        ]
        answered = refused.count(False)
        precision, share = sum(right) / max(1, answered), sum(refused) / len(refused)
        if self.rounds == 2 and self.score < 0:
            depths = [text.count(self.mark) for text in texts]
            of_refusals = [d for d, no in zip(depths, refused, strict=True) if no]
            # tau is the first precision; 0 would leave nothing but the best answer to be drawn
            self.curve = (*first_threshold(of_refusals, depths), max(precision, 1e-3))
        value = (1 - self.caution) * precision + self.caution * (1 - share)
        if self.rounds > 2:  # before, no threshold had a part in it
            self.known[self.at] = max(value, self.known.get(self.at, -1.0))
        if value > self.score:
            self.score = value
            self.best = {n: p.detach().to("cpu", copy=True) for n, p in step.parameters.items()}
        policy.note("answers/precision", precision)
        policy.note("answers/refused", share)
        return precision, share

    def _climb(self, policy: Policy, step: Ahead) -> None:
        now = self._measure(policy, step)
        self.here += self.rounds > 2
        same = all(abs(a - b) < _SAME for a, b in zip(now, self.last, strict=True))
        self.last = now
        if same or self.here >= _MOST:
            further = next_offset(self.known)
            self.at = self.at if further is None else further
            self.here, self.last = 0, (-1.0, -1.0)

    # A killed run

    def state(self) -> State:
        import torch

        if not self.rounds:
            return {}
        numbers = [float(x) for x in (self.at, self.rounds, self.here, *self.last, *self.curve)]
        return {
            **super().state(),
            "numbers": torch.tensor([*numbers, self.score], dtype=torch.float64),
            "tried": torch.tensor(list(self.known), dtype=torch.int64),
            "reached": torch.tensor(list(self.known.values()), dtype=torch.float64),
            **{f"best/{name}": value for name, value in self.best.items()},
        }

    def load(self, state: State) -> None:
        super().load(state)
        if "numbers" not in state:
            return
        at, rounds, here, *rest = state["numbers"].tolist()
        self.at, self.rounds, self.here = int(at), int(rounds), int(here)
        self.last, self.score = (rest[0], rest[1]), rest[6]
        self.curve = (rest[2], rest[3], rest[4], rest[5])
        self.known = dict(zip(state["tried"].tolist(), state["reached"].tolist(), strict=True))
        self.best = {n.removeprefix("best/"): v for n, v in state.items() if n.startswith("best/")}


@dataclass
class KeepBest:
    """Puts the best weights back once an expert iteration is over."""

    of: ExpertIteration
    name: str = "keep-best"

    def before_step(self, parameters: Mapping[str, Tensor]) -> None:
        """Nothing."""

    def after_step(self, parameters: Mapping[str, Tensor]) -> None:
        if not self.of.over:
            return
        for name, value in self.of.best.items():
            parameters[name].data.copy_(value)
