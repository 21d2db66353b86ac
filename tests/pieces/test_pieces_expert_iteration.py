"""Auto-CEI: its reward, threshold and climb by the paper's formula, and a toy solver."""

from __future__ import annotations

import math
import random
import statistics
from typing import Any

import pytest
import torch

from holdfast.carried import Ahead, Question
from holdfast.errors import UsageError
from holdfast.pieces.expert_iteration import (
    ExpertIteration,
    KeepBest,
    first_threshold,
    next_offset,
    refusal_reward,
    refuses,
    resampled,
)
from holdfast.plan import NEW, source_id

torch.set_num_threads(1)


def test_the_reward_of_a_refusal() -> None:
    c1, sd = 3.0, 1.7
    c2 = -math.log(0.1) / (4 * sd)
    for d in (0.0, 1.0, 2.5, 7.0):
        wanted = 2 / (1 + math.exp(-c2 * (d - c1))) - 1
        assert refusal_reward(d, c1, c2) == pytest.approx(wanted)
        assert refusal_reward(c1 + d, c1, c2) == pytest.approx(-refusal_reward(c1 - d, c1, c2))
    assert refusal_reward(c1, c1, c2) == 0
    assert refusal_reward(c1 + 2 * sd, c1, c2) == pytest.approx(0.52, abs=0.005)
    assert refusal_reward(c1 + 4 * sd, c1, c2) == pytest.approx(0.82, abs=0.005)
    values = [refusal_reward(d, c1, c2) for d in range(-5, 20)]
    assert values == sorted(values)
    assert values[0] > -1
    assert values[-1] < 1


def test_the_first_threshold() -> None:
    refused, every = [2, 4], [2, 4, 1, 1, 6, 4]
    c1, c2, step = first_threshold(refused, every)
    spread = statistics.pstdev(every)
    assert step == pytest.approx(0.2 * spread)
    assert c1 == pytest.approx(3 + step)
    assert c2 == pytest.approx(-math.log(0.1) / (4 * spread))
    assert first_threshold([3], [0, 100])[2] == 0.5, "a step is half at most"
    assert first_threshold([1], [1, 1])[1] == 0, "no deviation: a refusal is worth 0"


def test_the_climb_stops_where_both_neighbours_are_worse() -> None:
    def climb(f: Any) -> list[int]:
        known = {0: f(0)}
        while (k := next_offset(known)) is not None:
            known[k] = f(k)
        return list(known)

    assert climb(lambda k: -abs(k - 3)) == [0, 1, 2, 3, 4]
    assert climb(lambda k: -abs(k + 2)) == [0, 1, -1, -2, -3]
    assert climb(lambda k: -abs(k)) == [0, 1, -1]


def test_wrong_answers_are_never_learned_and_good_ones_more_often() -> None:
    rewards = [1.0, -1.0, -0.9, 0.5]
    found = [i for turn in range(500) for i in resampled(rewards, 0.5, random.Random(turn))]
    counts = [found.count(i) for i in range(4)]
    assert counts[1] == 0
    total = sum(math.exp(r / 0.5) for r in rewards)
    for i in (0, 2, 3):
        assert counts[i] / 500 == pytest.approx(1 + 4 * math.exp(rewards[i] / 0.5) / total, rel=0.1)


WORDS = ["yes", "bad", "sorry", "\n", "<end>"]


class Solver:
    """Answers question i after i % 4 steps of thought: mostly right if they are few; it refuses
    with a probability for each depth that it learns by imitation of what it is given."""

    seed, size = 1, 40

    def __init__(self) -> None:
        self.refusing = {d: 0.05 for d in range(4)}
        self.lazy = 0.5
        """The share of refusals without any thought."""
        self.noted: dict[str, float] = {}

    def example(self, index: int) -> Question:
        labels = torch.tensor([-100, 0])
        return Question(source_id(NEW), index, {"input_ids": labels.abs(), "labels": labels})

    def coming(self, steps: int) -> list[int]:
        return list(range(self.size))

    def questions(self, batch: Any) -> list[Question]:
        return list(batch["rows"])

    def batch(self, rows: Any) -> Any:
        return {"rows": rows}

    def answered(self, question: Question, tokens: Any, number: int) -> Question:
        return Question(1, number, {**question.features, "tokens": tokens})

    def write(self, questions: Any, *, temperature: float, most: int, seed: int) -> list[list[int]]:
        drawn, found = random.Random(seed if temperature else 0), []
        for q in questions:
            depth = q.index % 4
            if drawn.random() < self.refusing[depth]:
                thought = 0 if drawn.random() < self.lazy else depth
                found.append([3] * thought + [2, 4])
            else:
                right = drawn.random() < (0.95, 0.8, 0.3, 0.05)[depth]
                found.append([3] * depth + [0 if right else 1, 4])
        return found

    def learn(self, held: dict[int, list[Any]]) -> None:
        for d in range(4):
            own = [w.tokens for i, found in held.items() if i % 4 == d for w in found]
            self.refusing[d] = sum(2 in t for t in own) / max(1, len(own))
        refused = [t for found in held.values() for w in found if 2 in (t := w.tokens)]
        deep = [t for i, f in held.items() if i % 4 for w in f if 2 in (t := w.tokens)]
        self.lazy = sum(3 not in t for t in deep) / max(1, len(deep)) if refused else self.lazy

    def text(self, tokens: Any) -> str:
        return "".join(WORDS[t] for t in tokens if t != 4)

    def tokens(self, text: str) -> list[int]:
        return [3] * text.count("\n") + ([2] if "orry" in text else [0]) + [4]

    def score(self, scorer: str, question: Question, tokens: Any) -> float:
        return float(0 in tokens)

    def note(self, name: str, value: float) -> None:
        self.noted[name] = value


def go(solver: Any, feed: ExpertIteration, epochs: int) -> None:
    weights = {"w": torch.zeros(1)}
    best = KeepBest(feed)
    for epoch in range(epochs):
        rows = [solver.example(i) for i in range(40)]
        step = Ahead(None, weights, [{"rows": rows}], 0.1, None, None, epoch, epochs, solver)  # type: ignore[arg-type]
        feed.look_ahead(step)
        solver.learn(feed.held)
        weights["w"] += 1
        best.after_step(weights)
    assert weights["w"].item() < epochs, "the last step is taken back: it was not measured"


def test_refusals_rise_with_depth_and_lazy_ones_die_out() -> None:
    solver, feed = Solver(), ExpertIteration(samples=16)
    feed.refresh = 1
    go(solver, feed, 12)
    shares = [solver.refusing[d] for d in range(4)]
    assert shares[0] < 0.15
    assert shares[3] > 0.6
    assert shares[3] > shares[2] > shares[1]
    assert solver.lazy < 0.25, "a refusal without thought is worth less than one with"
    assert set(solver.noted) >= {"answers/precision", "answers/refused"}
    aside = feed._aside(solver)  # type: ignore[arg-type]
    assert len(aside) == 4
    assert not any(feed.held[i] for i in aside), "what measures is never learned"


def test_a_refusal_that_the_model_cannot_write() -> None:
    assert refuses("I don't know.")
    assert not refuses("It is 7.")
    with pytest.raises(UsageError, match="which does not refuse; give one with a word of"):
        go(Solver(), ExpertIteration(samples=2, refresh=1, refusal="pass"), 1)


def test_a_checkpoint_holds_the_curriculum() -> None:
    solver, feed = Solver(), ExpertIteration(samples=4)
    feed.refresh = 1
    go(solver, feed, 4)
    feed.refresh = None
    again = ExpertIteration(samples=4)
    again.load(feed.state())
    assert (again.at, again.rounds, again.known) == (feed.at, feed.rounds, feed.known)
    assert again.curve == feed.curve
    assert torch.equal(again.best["w"], feed.best["w"])
    assert list(again.held) == list(feed.held)
