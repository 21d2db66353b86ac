"""teacher=ema: against an average by hand, over a kill, and beside other methods."""

from __future__ import annotations

import pytest
import torch
from engine_tools import examples, llama, train, values
from safetensors.torch import load_file
from transformers import TrainerCallback

from holdfast.engine.stage import RUNNING, StageTrainer
from holdfast.errors import ConfigError, PlanConflict, UsageError
from holdfast.methods import plan
from holdfast.pieces.moving_teacher import MovingTeacher

torch.set_num_threads(1)
OWN = "full | on-policy-distill:teacher=ema,decay=0.7,max_new_tokens=3"


class Recorded(TrainerCallback):
    """The weights after every step."""

    def __init__(self):
        self.weights = []

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.weights.append({n: p.detach().clone() for n, p in model.named_parameters()})


@torch.no_grad()
def divergence(student, teacher, batch, temperature=2.0):
    """T^2 KL(teacher || student), the mean over the answers' tokens."""
    given = {k: batch[k] for k in ("input_ids", "attention_mask")}
    z, y = (m.eval()(**given).logits[:, :-1] / temperature for m in (student, teacher))
    p = y.softmax(-1)
    each = (p * (y.log_softmax(-1) - z.log_softmax(-1))).sum(-1)
    wanted = batch["labels"][:, 1:] != -100
    return temperature**2 * float(each[wanted].mean())


def test_the_teacher_is_the_average_by_hand_and_is_not_looked_up(tmp_path, monkeypatch):
    """Every example is read three times, so that a teacher that stays would be remembered."""
    batches, own = [], StageTrainer.training_step

    def watched(self, model, inputs, *rest):
        batches.append({k: v.clone() for k, v in inputs.items()})
        return own(self, model, inputs, *rest)

    monkeypatch.setattr(StageTrainer, "training_step", watched)
    seen, logged = Recorded(), []
    train(
        llama(), "last-n:n=1 | lwf:teacher=ema,decay=0.8", tmp_path, data=examples(8), steps=6,
        batch_size=4, watchers=[seen], note=logged.append,
    )  # fmt: skip
    start = values(llama())
    student, teacher, average = llama(), llama(), dict(start)
    live = [start, *seen.weights]
    for step, (batch, row) in enumerate(zip(batches, logged, strict=True)):
        student.load_state_dict(live[step], strict=False)
        if step:
            for name, value in live[step].items():
                average[name] = 0.8 * average[name] + 0.2 * value
        teacher.load_state_dict(average, strict=False)
        want = divergence(student, teacher, batch)
        assert row["loss/distill"] == pytest.approx(want, abs=3e-6, rel=1e-3)
    assert logged[0]["loss/distill"] == 0
    assert logged[-1]["loss/distill"] > 1e-3


def test_a_teacher_that_never_moves_is_that_of_the_stage(tmp_path):
    found = []
    for teacher in ("stage", "ema,decay=1"):
        methods = f"full | on-policy-distill:max_new_tokens=2,teacher={teacher}"
        done = train(llama(), methods, tmp_path / teacher, steps=2, batch_size=4)
        found.append(values(done.model))
    assert all(torch.equal(found[0][n], found[1][n]) for n in found[0])


def test_a_teacher_that_follows_at_once_says_nothing(tmp_path):
    logged = []
    train(
        llama(), "full | lwf:teacher=ema,decay=0", tmp_path, steps=3, batch_size=4,
        note=logged.append,
    )  # fmt: skip
    assert all(row["loss/distill"] == pytest.approx(0, abs=1e-6) for row in logged)


class Killed(Exception):
    pass


@pytest.mark.parametrize("methods", ["mlp | lwf:teacher=ema,decay=0.7", OWN])
def test_cut_and_resumed_is_bit_equal(tmp_path, methods, monkeypatch):
    how = {"steps": 5, "batch_size": 4, "save_every": 1}
    whole = values(train(llama(), methods, tmp_path / "whole", **how).model)
    own = StageTrainer.training_step

    def dies(self, *args, **kwargs):
        if self.state.global_step == 4:
            raise Killed
        return own(self, *args, **kwargs)

    monkeypatch.setattr(StageTrainer, "training_step", dies)
    with pytest.raises(Killed):
        train(llama(), methods, tmp_path / "cut", **how)
    monkeypatch.undo()
    held = load_file(tmp_path / "cut" / "checkpoints" / "checkpoint-4" / RUNNING)
    assert held.keys() >= {f"moving-teacher/{n}" for n in whole if ".mlp." in n}
    resumed = values(train(llama(), methods, tmp_path / "cut", **how).model)
    assert all(torch.equal(whole[n], resumed[n]) for n in whole)


def test_a_teacher_that_a_checkpoint_did_not_hold_is_missed():
    teacher = MovingTeacher()
    teacher.anchor({"w": torch.ones(2)})
    teacher.begin(0, 9)
    with pytest.raises(UsageError, match="average of 4 steps"):
        teacher.begin(4, 9)
    teacher.load({"w": torch.zeros(2)})
    teacher.begin(4, 9)
    assert torch.equal(teacher.weights["w"], torch.zeros(2))
    with pytest.raises(UsageError, match="whole weights"):
        teacher.after_step({"w": torch.ones(1)})


def test_half_precision_is_averaged_in_full():
    """bfloat16 would lose a hundredth of a small step."""
    teacher = MovingTeacher(decay=0.99)
    w = torch.ones(4, dtype=torch.bfloat16)
    teacher.anchor({"w": w})
    for _ in range(10):
        teacher.after_step({"w": w + 0.0078125})
    assert teacher.weights["w"].dtype == torch.float32
    torch.testing.assert_close(teacher.weights["w"], 1 + 0.0078125 * (1 - 0.99**10) * torch.ones(4))


def test_a_plan_has_one_moving_teacher(tmp_path):
    both = plan(["full", "lwf:teacher=ema", "on-policy-distill:teacher=ema,max_new_tokens=2"])
    assert [type(u) for u in both.update] == [MovingTeacher]
    train(llama(), "full | lwf:teacher=ema | sfa", tmp_path, steps=2, batch_size=4)
    with pytest.raises(PlanConflict, match="same decay"):
        plan(["lwf:teacher=ema,decay=0.5", "on-policy-distill:teacher=ema"])
    with pytest.raises(ConfigError, match="teacher=stage"):
        plan(["keep:teacher=ema"])
    with pytest.raises(ConfigError, match="moves"):
        plan(["l2-sp:anchor=ema"])
