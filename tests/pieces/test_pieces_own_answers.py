"""Advantages, policy gradients and the filter of examples, against loops by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from holdfast.carried import Ahead, Question
from holdfast.errors import ConfigError, PlanConflict, UsageError
from holdfast.methods import method, plan
from holdfast.pieces.advantages import group_normalised, leave_one_out, over_greedy
from holdfast.pieces.learnable import Learnable, learnable
from holdfast.pieces.own_answers import Written
from holdfast.pieces.policy_gradient import PolicyGradient
from holdfast.plan import NEW, WRITTEN, Outputs, source_id
from holdfast.tasks.decoding import Sampled

torch.set_num_threads(1)


def test_equal_rewards_count_for_exactly_nothing() -> None:
    rewards = torch.tensor([[0.1] * 7, [1.0] * 7, [0.0] * 7])
    assert torch.equal(group_normalised(rewards), torch.zeros(3, 7))
    # the mean of seven times 0.1 is not 0.1 in floating point: without care this is not 0
    assert torch.allclose(leave_one_out(rewards), torch.zeros(3, 7), atol=1e-6)


def test_advantages_are_those_of_a_loop() -> None:
    rewards = torch.tensor([[1.0, 0, 0, 0.5], [0, 1, 1, 1]])
    for row, group, others in zip(
        rewards.tolist(),
        group_normalised(rewards).tolist(),
        leave_one_out(rewards).tolist(),
        strict=True,
    ):
        mean = sum(row) / 4
        std = math.sqrt(sum((r - mean) ** 2 for r in row) / 3)
        for i, r in enumerate(row):
            assert group[i] == pytest.approx((r - mean) / (std + 1e-6), abs=1e-6)
            rest = [x for j, x in enumerate(row) if j != i]
            assert others[i] == pytest.approx(r - sum(rest) / 3, abs=1e-6)
    greedy = over_greedy(rewards[:, :1], torch.tensor([0.25, 1.0]))
    assert greedy.tolist() == [[0.75], [-1.0]]


def outputs(lengths: list[int], words: int = 9) -> Outputs:
    """What a term reads of answers of some lengths, in one pass."""
    n = sum(lengths)
    g = torch.Generator().manual_seed(3)
    rows = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return Outputs(
        torch.randn(n, words, generator=g, requires_grad=True),
        torch.randint(0, words, (n,), generator=g),
        rows,
        torch.randn(n, words, generator=g),
        torch.full((n,), source_id(WRITTEN)),
        rows,
    )


@pytest.mark.parametrize("used_again", [False, True])
def test_the_policy_gradient_is_that_of_a_loop(used_again: bool) -> None:
    lengths, values, temperature = [3, 1, 4], [0.7, -1.2, 2.0], 0.8
    out = outputs(lengths)
    logs = [torch.linspace(-4, -1, n) for n in lengths]
    term = PolicyGradient(beta=0.3, clip=0.2, temperature=temperature, whole=True)
    term._step = [
        Written([0] * n, v, log if used_again else None)
        for n, v, log in zip(lengths, values, logs, strict=True)
    ]
    term._scale = sum(lengths) / len(lengths)
    (got,) = torch.autograd.grad(term(out).mean(), out.logits)

    loss: Any = 0.0
    old = torch.cat(logs)
    assert out.reference is not None
    for t in range(sum(lengths)):
        y, a = int(out.targets[t]), values[int(out.rows[t])]
        log_p = (out.logits[t] / temperature).log_softmax(-1)[y]
        log_r = (out.reference[t] / temperature).log_softmax(-1)[y]
        if used_again:
            ratio = (log_p - old[t]).exp()
            held = min(max(float(ratio.detach()), 0.8), 1.2)
            gain = ratio * a if float(ratio.detach()) * a <= held * a else torch.tensor(held * a)
        else:
            gain = log_p * a  # the gradient of the log, with ratio 1
        k3 = (log_r - log_p).exp() - 1 - (log_r - log_p)
        loss = loss + (0.3 * k3 - gain) / len(lengths)
    (wanted,) = torch.autograd.grad(loss, out.logits)
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-5)


def test_answers_that_wait_are_in_the_checkpoint() -> None:
    term = PolicyGradient(refresh=4)
    term.held = {
        7: [Written([3, 4], 0.5, torch.tensor([-1.0, -2.0])), Written([9], -1.5, torch.ones(1))],
        2: [],
    }
    again = PolicyGradient(refresh=4)
    again.load(term.state())
    assert list(again.held) == [7, 2]
    assert [(w.tokens, w.value) for w in again.held[7]] == [([3, 4], 0.5), ([9], -1.5)]
    assert again.held[7][0].log_probs is not None
    assert again.held[7][0].log_probs.tolist() == [-1.0, -2.0]
    assert PolicyGradient(refresh=1).state() == {}, "answers that are used at once are not kept"


def test_sampling_is_of_the_models_distribution() -> None:
    logits = torch.tensor([0.5, -1.0, 2.0, -torch.inf, 0.0])
    for temperature in (1.0, 0.5):
        rows = 20_000
        pick = Sampled(rows, 2, temperature, seed=4)
        drawn = pick(logits.expand(rows, -1), range(rows), [1] * rows)
        shares = drawn.bincount(minlength=5) / rows
        wanted = (logits / temperature).softmax(-1)
        assert shares[3] == 0
        off = (shares - wanted).abs() / (wanted * (1 - wanted) / rows).sqrt().clamp(min=1e-9)
        assert off[wanted > 0].max() < 4.5
        alone = [pick(logits[None], [r], [1])[0] for r in range(50)]
        assert alone == drawn[:50].tolist(), "a row's draw does not depend on the rows beside it"


class Knows:
    """A policy that answers example i right every ``right[i]`` times in four."""

    seed, size = 5, 4

    def __init__(self, right: list[int]) -> None:
        self.right, self.asked = right, 0

    def example(self, index: int) -> Question:
        labels = torch.tensor([-100, -100, index + 1])
        return Question(source_id(NEW), index, {"input_ids": labels.abs(), "labels": labels})

    def write(self, questions: list[Question], **how: Any) -> list[list[int]]:
        self.asked += len(questions)
        turns: dict[int, int] = {}
        found = []
        for q in questions:
            turns[q.index] = turns.get(q.index, 0) + 1
            found.append(q.answer if turns[q.index] <= self.right[q.index] else [0])
        return found

    def score(self, scorer: str, question: Question, tokens: list[int]) -> float:
        return float(tokens == question.answer)

    def questions(self, batch: dict[str, Any]) -> list[Question]:
        return list(batch["rows"])

    def batch(self, rows: list[Question]) -> dict[str, Any]:
        return {"rows": rows}

    def note(self, name: str, value: float) -> None:
        pass


def read(feed: Learnable, policy: Any, number: int = 0) -> list[int]:
    rows = [policy.example(i) for i in range(4)]
    step = Ahead(None, {}, [{"rows": rows}], 0.1, None, None, number, 9, policy)  # type: ignore[arg-type]
    feed.look_ahead(step)
    return [row.index for row in step.batches[0]["rows"]]


def test_only_examples_between_the_bounds_are_read() -> None:
    assert learnable({0: 0.0, 1: 0.5, 2: 1.0}, 0.0, 1.0) == [1]
    assert learnable({0: 0.0, 1: 0.5, 2: 1.0}, 0.0, None) == [1, 2]
    feed, policy = Learnable(samples=4, below=1.0), Knows([0, 1, 4, 2])
    found = read(feed, policy)
    assert found[1] == 1
    assert found[3] == 3
    assert set(found) == {1, 3}, "a kept one stands in for each that is never or always right"
    assert feed.rates == {0: 0.0, 1: 0.25, 2: 1.0, 3: 0.5}
    read(feed, policy, 1)
    assert policy.asked == 16, "within a stage the model is asked once"
    again = Learnable(samples=4, below=1.0)
    again.load(feed.state())
    assert again.rates == feed.rates
    assert read(again, policy, 1) == read(feed, policy, 1)


def test_the_filter_asks_the_model_of_each_stage() -> None:
    feed = Learnable(samples=4)
    read(feed, Knows([0, 1, 4, 2]))
    feed.place(None)  # type: ignore[arg-type]
    assert set(read(feed, Knows([4, 0, 0, 0]))) == {0}, "what the base could do does not count"
    with pytest.raises(UsageError, match="keeps none of 4 examples: to 4 the model writes no"):
        read(Learnable(samples=4), Knows([0, 0, 0, 0]))


def test_the_last_answer_of_an_example() -> None:
    labels = torch.tensor([-100, 5, 6, -100, -100, 7, 8, -100])
    question = Question(0, 0, {"labels": labels})
    assert (question.begin, question.answer) == (5, [7, 8])


def test_what_does_not_go_together() -> None:
    with pytest.raises(ConfigError, match="samples=1; give 2 or more"):
        method("grpo:samples=1")
    with pytest.raises(PlanConflict, match=r"grpo and rloo each replace"):
        plan("grpo | rloo")
    with pytest.raises(PlanConflict, match=r"'view-batch' compares views.*'grpo' has the model"):
        plan("grpo | view-batch")
    with pytest.raises(PlanConflict, match="each replace the loss"):
        plan("self-sft | gere")
    assert plan("grpo | rif | lwf | l2-sp").feed is not None
