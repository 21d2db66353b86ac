"""Methods that learn from the model's own answers, through the engine."""

from __future__ import annotations

import pytest
import torch
from engine_tools import llama, train, values

from holdfast.carried import Question
from holdfast.engine.policy import LivePolicy
from holdfast.engine.stage import StageTrainer
from holdfast.errors import DataError

torch.set_num_threads(1)
WORDS, ANSWER = 12, 5
ONE = "max_new_tokens=1"


def model(**changes):
    return llama(vocab_size=WORDS, eos_token_id=None, **changes)


def bandit(n=8, answer=(ANSWER,)):
    """Questions of two tokens with one answer, which the base gives about one time in twelve."""
    rows = []
    for i in range(n):
        ids = torch.tensor([1 + i % 4, 6 + i % 3, *answer])
        labels = torch.where(torch.arange(len(ids)) < 2, -100, ids)
        rows.append({"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)})
    return rows


@torch.no_grad()
def likely(tuned, rows):
    ids = torch.stack([r["input_ids"][:2] for r in rows])
    return float(tuned.eval()(ids).logits[:, -1].softmax(-1)[:, ANSWER].mean())


@pytest.mark.parametrize(
    "name",
    ["grpo:samples=12", "rloo:samples=12,refresh=2", "remax:samples=6", "self-sft:samples=8"],
)
def test_rewarded_answers_become_likelier(tmp_path, name):
    rows, tuned = bandit(), model()
    before = likely(tuned, rows)
    done = train(
        tuned, f"full | {name},{ONE}", tmp_path, data=rows, steps=8, batch_size=4,
        learning_rate=1e-2,
    )  # fmt: skip
    assert likely(done.model, rows) > 2 * before


@pytest.mark.parametrize("name", ["grpo:beta=0", "self-sft:samples=2", "remax:beta=0"])
def test_where_no_answer_is_right_nothing_moves(tmp_path, name):
    """Zero variance in every group: the gradient is exactly 0, and so is the update."""
    tuned = model()
    start = values(tuned)
    rows = bandit(answer=(ANSWER, 6, 7))  # three tokens, and the model may write one
    done = train(
        tuned, f"full | {name},{ONE}", tmp_path, data=rows, steps=3, batch_size=4, weight_decay=0
    )
    assert all(torch.equal(v, start[n]) for n, v in values(done.model).items())


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    "methods",
    [f"full | grpo:samples=3,refresh=3,{ONE}", f"full | self-sft:refresh=3,{ONE}",
     f"full | grpo:samples=2,{ONE} | rif:samples=24,{ONE} | lwf"],
)  # fmt: skip
def test_cut_and_resumed_is_bit_equal(tmp_path, methods, monkeypatch):
    """Killed between two refreshes: answers of the model of three steps ago are still used."""
    how = {"data": bandit(), "steps": 5, "batch_size": 4, "save_every": 1}
    whole = values(train(model(), methods, tmp_path / "whole", **how).model)
    own = StageTrainer.training_step

    def dies(self, *args, **kwargs):
        if self.state.global_step == 4:
            raise Killed
        return own(self, *args, **kwargs)

    monkeypatch.setattr(StageTrainer, "training_step", dies)
    with pytest.raises(Killed):
        train(model(), methods, tmp_path / "cut", **how)
    monkeypatch.undo()
    resumed = values(train(model(), methods, tmp_path / "cut", **how).model)
    assert all(torch.equal(whole[n], resumed[n]) for n in whole)


def reverse_over_tokens(alone, told):
    """The mean over all answers' tokens of KL(p || p_teacher)."""
    every = [(a.exp() * (a - t)).sum(-1) for a, t in zip(alone, told, strict=True)]
    return torch.cat(every).mean()


def as_released(alone, told):
    """The trainer of SDFT's authors with ``num_loss_tokens_to_skip`` at 1."""
    every = [(t.exp() * (t - a)).sum(-1) for a, t in zip(alone, told, strict=True)]
    return torch.stack([e[1:].sum() / max(1, len(e) - 1) for e in every]).mean()


@pytest.mark.parametrize(
    ("settings", "by_hand"),
    [("", reverse_over_tokens), (",direction=forward,skip=1,average=answers", as_released)],
)
def test_the_teacher_reads_the_example_first(settings, by_hand, tmp_path, monkeypatch):
    """The loss of the first step is the divergence that a loop by hand computes."""
    seen, rows = {}, bandit()
    write = LivePolicy.write

    def watched(self, questions, **how):
        written = write(self, questions, **how)
        seen["answers"] = [t[: (1, 2, 3, 3)[i]] for i, t in enumerate(written)]
        seen["questions"] = list(questions)
        return seen["answers"]

    monkeypatch.setattr(LivePolicy, "write", watched)
    losses, own = [], StageTrainer.training_step

    def noted(self, *args, **kwargs):
        losses.append(float(own(self, *args, **kwargs)))
        return torch.tensor(losses[-1])

    monkeypatch.setattr(StageTrainer, "training_step", noted)
    train(
        model(initializer_range=0.3), f"full | on-policy-distill:max_new_tokens=3{settings}",
        tmp_path, data=rows, steps=1, batch_size=4,
    )  # fmt: skip
    base, alone, told = model(initializer_range=0.3), [], []
    for question, tokens in zip(seen["questions"], seen["answers"], strict=True):
        ids = question.features["input_ids"].tolist()
        with torch.no_grad():
            alone.append(base(torch.tensor([ids[:2] + tokens])).logits[0, 1:-1].log_softmax(-1))
            both = torch.tensor([ids + ids[:2] + tokens])
            told.append(base(both).logits[0, 4:-1].log_softmax(-1))
    assert [len(a) for a in alone] == [1, 2, 3, 3]
    assert losses[0] == pytest.approx(float(by_hand(alone, told)), rel=1e-4)
    assert losses[0] > 1e-3


def test_terms_read_the_answers_that_were_written(tmp_path, monkeypatch):
    """lwf is on the model's own answers, and memory of earlier stages is left as it is."""
    batches = []
    own = StageTrainer.training_step

    def watched(self, model, inputs, *rest):
        batches.append({k: v.clone() for k, v in inputs.items()})
        return own(self, model, inputs, *rest)

    monkeypatch.setattr(StageTrainer, "training_step", watched)
    logged = []
    train(
        model(), "full | grpo:samples=3,max_new_tokens=4 | lwf:teacher=stage", tmp_path,
        data=bandit(), steps=2, batch_size=4, note=logged.append, micro_batch_size=2,
    )  # fmt: skip
    assert len(batches) == 4, "as many passes as without"
    for batch in batches:
        assert len(batch["input_ids"]) == 6, "two questions a pass, three answers each"
        assert ((batch["labels"] != -100).sum(1) == 4).all()
    assert {"loss/grpo", "loss/distill", "answers/reward"} <= logged[-1].keys()


def test_text_without_a_question_is_refused(tmp_path):
    rows = [{**r, "labels": r["input_ids"].clone()} for r in bandit()]
    with pytest.raises(DataError, match="is text without a question"):
        train(model(), "full | grpo", tmp_path, data=rows, steps=1, batch_size=4)


def test_an_answer_takes_the_place_of_the_data_s():
    ids = torch.tensor([1, 2, 3, 4, 5])
    question = Question(
        0, 9,
        {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.ones(1, 2),
         "labels": torch.tensor([-100, -100, -100, 4, 5]), "token_type_ids": ids * 0 + 1},
    )  # fmt: skip
    from holdfast.engine.policy import _behind

    made = _behind(question.features, question.begin, [8, 9, 7])
    assert made["input_ids"].tolist() == [1, 2, 3, 8, 9, 7]
    assert made["labels"].tolist() == [-100, -100, -100, 8, 9, 7]
    assert made["attention_mask"].tolist() == [1] * 6
    assert made["token_type_ids"].tolist() == [1] * 6
    assert made["pixel_values"] is question.features["pixel_values"]
