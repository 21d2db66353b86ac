"""Evaluation during training: it changes no bit, keeps its share, and acts at its limits."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from engine_tools import collate, examples, llama, train, values
from transformers import Trainer, TrainerCallback, TrainingArguments

import holdfast
from holdfast.data import Record, say
from holdfast.engine import continual
from holdfast.engine.continual import ContinualEvaluation, subsample
from holdfast.errors import UsageError
from holdfast.measures.limits import Limit, sign_test
from holdfast.tasks import Answer, Example, Task, TaskResult


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({f"w{i}": i for i in range(64)}, unk_token="w0"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="w0", eos_token="w2")


def task(name: str = "held", n: int = 12, ask: str = "generate") -> Task:
    choices = (" w5", " w6 w7")
    rows = [
        Example(
            str(i),
            Record((say("user", f"w{3 + i} w{4 + i}"),), (), id=str(i)),
            choices[:1],
            choices,
        )
        for i in range(n)
    ]
    return Task(name, rows, ask=ask, max_new_tokens=3)  # type: ignore[arg-type]


def trainer(folder: Any, *callbacks: Any, steps: int = 6, **settings: Any) -> Trainer:
    torch.manual_seed(0)
    model = llama(attention_dropout=0.3)
    args = TrainingArguments(
        str(folder), max_steps=steps, per_device_train_batch_size=4, learning_rate=1e-2,
        report_to="none", use_cpu=True, disable_tqdm=True, remove_unused_columns=False,
        **{"save_strategy": "no", **settings},
    )  # fmt: skip
    return Trainer(model, args, collate, train_dataset=examples(16), callbacks=list(callbacks))


def test_the_trained_weights_are_the_same_bits(tmp_path: Any) -> None:
    """With dropout, whose random numbers an evaluation must not use up."""
    plain = trainer(tmp_path)
    plain.train()
    watch = ContinualEvaluation([task(), task("other", ask="choices")], tokenizer(), every=2)
    watched = trainer(tmp_path, watch)
    watched.train()
    a, b = values(plain.model), values(watched.model)
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert [row["step"] for row in watch.rows] == [0, 2, 4, 6]
    assert set(watch.rows[0]["scores"]) == {"held", "other"}
    assert watched.model.training


class Clock:
    """A second per training step; an evaluation takes what it is told."""

    def __init__(self, cost: float) -> None:
        self.now, self.cost = 0.0, cost

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("share", [0.1, 0.25])
def test_the_share_is_kept(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    clock = Clock(2.0)

    class Tick(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            clock.now += 1

    def costly(*args: Any, **kwargs: Any) -> list[TaskResult]:
        clock.now += clock.cost
        return [TaskResult("held", (Answer("held", "0", "", ("x",), 1.0, "x"),))]

    monkeypatch.setattr(continual, "evaluate", costly)
    watch = ContinualEvaluation([task()], tokenizer(), share=share, clock=clock)
    trainer(tmp_path, Tick(), watch, steps=100).train()
    assert watch.rows[-1]["spent"] <= share * 100
    assert len(watch.rows) == int(share * 100 / clock.cost), "and it is used"
    gaps = {b["step"] - a["step"] for a, b in zip(watch.rows[1:], watch.rows[2:], strict=False)}
    assert gaps == {round(clock.cost / share)}


def scripted(monkeypatch: pytest.MonkeyPatch, by_step: list[list[float]]) -> None:
    left = iter(by_step)

    def told(*args: Any, **kwargs: Any) -> list[TaskResult]:
        scores = next(left)
        answers = (Answer("held", str(i), "", ("x",), s, "x") for i, s in enumerate(scores))
        return [TaskResult("held", tuple(answers))]

    monkeypatch.setattr(continual, "evaluate", told)


GOOD, BAD = [1.0] * 10, [1.0] * 4 + [0.0] * 6


def test_a_limit_stops(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    scripted(monkeypatch, [GOOD, GOOD, BAD, BAD])
    watch = ContinualEvaluation(
        [task()], tokenizer(), every=1, limits=[Limit(50, "stop")], say=said.append
    )
    done = trainer(tmp_path, watch)
    done.train()
    assert done.state.global_step == 2
    assert said == [
        "step 2: held has fallen from 100.0 to 40.0, 50 points or more. Training stops here."
    ]


def test_a_limit_lowers_the_rate_once_and_for_good(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []

    class See(TrainerCallback):
        def on_optimizer_step(self, *args: Any, optimizer: Any = None, **kwargs: Any) -> None:
            rates.append(optimizer.param_groups[0]["lr"])

    scripted(monkeypatch, [GOOD, GOOD] + [BAD] * 5)
    watch = ContinualEvaluation(
        [task()], tokenizer(), every=1, limits=[Limit(50, "lower", factor=0.1)], say=lambda _: None
    )
    trainer(tmp_path, watch, See(), lr_scheduler_type="constant").train()
    assert rates == pytest.approx([1e-2] * 2 + [1e-3] * 4)


def test_a_drop_that_may_be_chance_is_let_pass() -> None:
    limit = Limit(5)
    assert not limit.reached("t", [1.0] * 4, [1.0] * 2 + [0.0] * 2), "two of four coins"
    assert limit.reached("t", [1.0] * 40, [1.0] * 34 + [0.0] * 6)
    assert not limit.reached("t", [1.0] * 400, [1.0] * 390 + [0.0] * 10), "2.5 points"
    assert not Limit(5, task="other").reached("t", [1.0] * 40, [0.0] * 40)
    assert sign_test(5, 0) == pytest.approx(1 / 32)
    assert sign_test(3, 2) == pytest.approx(0.5)
    assert sign_test(0, 0) == 1


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("5", Limit(5)),
        ("2.5=stop", Limit(2.5, "stop")),
        ("lab:colour:10=lower", Limit(10, "lower", "lab:colour")),
    ],
)
def test_limits_are_read(text: str, limit: Limit) -> None:
    assert Limit.read(text) == limit


@pytest.mark.parametrize("text", ["", "five", "5=explode", "1.2.3", "-5", "x:"])
def test_other_limits_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Limit.read(text)


def test_the_sample_is_drawn_once() -> None:
    large = task(n=40)
    ids = [e.id for e in subsample(large, 10, 0).examples]
    assert len(set(ids)) == 10
    assert ids == sorted(ids, key=int)
    assert ids == [e.id for e in subsample(large, 10, 0).examples]
    assert ids != [e.id for e in subsample(large, 10, 1).examples]
    assert subsample(large, 100, 0) is large


class Killed(BaseException):
    pass


def test_cut_and_resumed_measures_the_same(tmp_path: Any) -> None:
    """Rows from before the cut are read back; weights and scores end up as without it."""

    def watcher(name: str) -> ContinualEvaluation:
        return ContinualEvaluation([task()], tokenizer(), every=1, out=tmp_path / name)

    save: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2}
    whole = trainer(tmp_path / "a", watcher("whole.jsonl"), **save)
    whole.train()

    class Kill(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                raise Killed

    with pytest.raises(Killed):
        trainer(tmp_path / "b", watcher("cut.jsonl"), Kill(), **save).train()
    resumed = trainer(tmp_path / "b", watcher("cut.jsonl"), **save)
    resumed.train(resume_from_checkpoint=str(tmp_path / "b" / "checkpoint-2"))
    a, b = values(whole.model), values(resumed.model)
    assert all(torch.equal(a[n], b[n]) for n in a)
    rows = [
        [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        for name in ("whole.jsonl", "cut.jsonl")
    ]
    assert [r["step"] for r in rows[1]] == list(range(7)), "each step once"
    assert [r["examples"] for r in rows[0]] == [r["examples"] for r in rows[1]]


def test_it_watches_a_stage(tmp_path: Any) -> None:
    plain = values(train(llama(), "mlp", tmp_path / "a").model)
    watch = holdfast.continual_evaluation(task(), tokenizer(), every=3, limits=["50=warn"])
    watched = train(llama(), "mlp", tmp_path / "b", watchers=[watch])
    assert all(torch.equal(plain[n], v) for n, v in values(watched.model).items())
    assert [row["step"] for row in watch.rows] == [0, 3, 6]


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan")])
def test_an_impossible_share_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        ContinualEvaluation([task()], tokenizer(), share=share)
    with pytest.raises(UsageError, match="at least one task"):
        ContinualEvaluation([], tokenizer())
