"""A user's own script: transformers' Trainer and TRL's SFTTrainer under a plan."""

import pytest
import torch
from datasets import Dataset
from engine_tools import collate, examples, llama, values
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Trainer, TrainerCallback, TrainingArguments

import holdfast
from holdfast.errors import PlanConflict, UsageError


def arguments(folder, **changes):
    settings = {
        "per_device_train_batch_size": 4, "max_steps": 4, "learning_rate": 1e-2,
        "weight_decay": 0.3, "report_to": "none", "use_cpu": True, "disable_tqdm": True,
        "logging_steps": 1, "save_strategy": "no", "remove_unused_columns": False, "seed": 3,
    }  # fmt: skip
    return TrainingArguments(output_dir=str(folder), **{**settings, **changes})


def test_frozen_weights_stay_and_callbacks_run(tmp_path):
    seen = []

    class Mine(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.append(state.global_step)

    model = llama()
    before = values(model)
    trainer = holdfast.with_plan(Trainer, "gate-up")(
        model=model, args=arguments(tmp_path), data_collator=collate,
        train_dataset=examples(), callbacks=[Mine()],
    )  # fmt: skip
    trainer.train()
    for name, value in values(model).items():
        assert torch.equal(value, before[name]) != ("gate" in name or "up_proj" in name), name
    assert seen == [1, 2, 3, 4]
    held = {id(p) for g in trainer.optimizer.param_groups for p in g["params"]}
    assert held == {id(p) for n, p in model.named_parameters() if "gate" in n or "up_proj" in n}
    assert len(trainer.optimizer.state) == len(held)


def test_full_under_a_plan_is_the_trainer_itself(tmp_path):
    models_ = [llama(), llama()]
    for cls, model in zip((Trainer, holdfast.with_plan(Trainer, "full")), models_, strict=True):
        cls(
            model=model, args=arguments(tmp_path, gradient_accumulation_steps=2),
            data_collator=collate, train_dataset=examples(),
        ).train()  # fmt: skip
    for (name, a), (_, b) in zip(*(m.named_parameters() for m in models_), strict=True):
        assert torch.equal(a, b), name


def test_a_term_of_weight_nothing_changes_nothing_much(tmp_path):
    """With terms the engine computes the loss itself; it must be the trainer's own."""
    models_ = [llama(), llama()]
    plans = ["mlp", ["mlp", "lwf:weight=0"]]
    for plan, model in zip(plans, models_, strict=True):
        holdfast.with_plan(Trainer, plan)(
            model=model, args=arguments(tmp_path, gradient_accumulation_steps=2),
            data_collator=collate, train_dataset=examples(),
        ).train()  # fmt: skip
    for (name, a), (_, b) in zip(*(m.named_parameters() for m in models_), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=5e-5, msg=name)


def test_settle_happens_at_the_end(tmp_path):
    def run(plan):
        model = llama()
        holdfast.with_plan(Trainer, plan)(
            model=model, args=arguments(tmp_path), data_collator=collate, train_dataset=examples()
        ).train()
        return values(model)

    start, tuned, averaged = values(llama()), run("mlp"), run(["mlp", "wise-ft:alpha=0.25"])
    for name in start:
        wanted = 0.25 * start[name] + 0.75 * tuned[name]
        torch.testing.assert_close(averaged[name], wanted)


def test_conflicts_are_named(tmp_path):
    with pytest.raises(PlanConflict, match=r"'mlp' trains .* and 'sa-proj' trains"):
        holdfast.with_plan(Trainer, ["mlp", "sa-proj"])
    peft = pytest.importorskip("peft")
    with pytest.raises(UsageError, match="leave out peft_config"):
        holdfast.with_plan(Trainer, "mlp")(llama(), peft_config=peft.LoraConfig())


@pytest.fixture
def tokenizer():
    words = {f"w{i}": i for i in range(62)} | {"<pad>": 62, "<eos>": 63}
    core = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")


@pytest.mark.parametrize("plan", ["gate-up", ["sa-proj", "lwf"], "lora:rank=2"])
def test_trl(tmp_path, tokenizer, plan):
    trl = pytest.importorskip("trl")
    data = Dataset.from_list(
        [{"prompt": f"w{i} w{i + 1}", "completion": f" w{i + 2} w{i + 3}"} for i in range(20)]
    )
    model = llama()
    before = values(model)
    trainer = holdfast.with_plan(trl.SFTTrainer, plan)(
        model=model, processing_class=tokenizer, train_dataset=data,
        args=trl.SFTConfig(
            output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=4, use_cpu=True,
            learning_rate=1e-2, report_to="none", save_strategy="no", bf16=False, disable_tqdm=True,
            logging_steps=1,
        ),
    )  # fmt: skip
    trainer.train()
    moved = {
        "gate-up": ("gate_proj", "up_proj"), "lora:rank=2": (),
    }.get(plan if isinstance(plan, str) else "", ("self_attn",))  # fmt: skip
    for name, value in before.items():
        now = dict(model.named_parameters()).get(name)
        if now is not None:
            assert torch.equal(value, now) != any(m in name for m in moved), name
    logged = [row for row in trainer.state.log_history if "loss" in row]
    assert len(logged) == 3
    if plan == ["sa-proj", "lwf"]:
        assert logged[0]["loss/distill"] == pytest.approx(0.0, abs=1e-5)
        assert logged[-1]["loss/distill"] > 1e-6


def test_trls_own_loss_is_kept(tmp_path, tokenizer):
    """The same script with and without the plan 'full': the same weights."""
    trl = pytest.importorskip("trl")
    data = Dataset.from_list(
        [{"text": " ".join(f"w{(i * j) % 60}" for j in range(6))} for i in range(12)]
    )
    models_ = [llama(), llama()]
    for cls, model in zip(
        (trl.SFTTrainer, holdfast.with_plan(trl.SFTTrainer, "full")), models_, strict=True
    ):
        args = trl.SFTConfig(
            output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, use_cpu=True,
            report_to="none", save_strategy="no", bf16=False, disable_tqdm=True,
        )  # fmt: skip
        cls(model=model, processing_class=tokenizer, train_dataset=data, args=args).train()
    for (name, a), (_, b) in zip(*(m.named_parameters() for m in models_), strict=True):
        assert torch.equal(a, b), name


def test_text_positions_of_a_model_with_images(tmp_path):
    """What stands for an image is read off the ids where the processor does not say it."""
    from holdfast.engine.token_loss import with_kinds
    from holdfast.testing import tiny_llava

    tiny = tiny_llava()
    image = tiny.model.config.image_token_id
    kinds = with_kinds(tiny.batch, tiny.model.config)["mm_token_type_ids"]
    assert torch.equal(kinds == 1, tiny.batch["input_ids"] == image)
    rows = [{k: v[i] for k, v in tiny.batch.items()} for i in range(2)] * 4
    trainer = holdfast.with_plan(Trainer, ["mlp", "lwf:positions=all_text"])(
        model=tiny.model, args=arguments(tmp_path, max_steps=2), train_dataset=rows,
        data_collator=lambda r: {k: torch.stack([x[k] for x in r]) for k in r[0]},
    )  # fmt: skip
    trainer.train()
    assert trainer.state.log_history[-2]["loss/distill"] > 0
