"""The backward pass stops at the lowest weight that trains."""

import pytest
import torch
from engine_tools import collate, examples, llama, train, values
from transformers import Trainer, TrainingArguments

import holdfast
from holdfast.anatomy import select
from holdfast.engine.depth import spare_below


def test_hooks_and_checkpoints_below_the_line_go():
    model = llama(num_hidden_layers=4)
    select(model, "last-2").apply(model)
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    batch = collate(examples(3))
    ran, flowing = [], []
    for i, block in enumerate(model.model.layers):
        block.mlp.register_forward_pre_hook(lambda m, a, i=i: ran.append(i))
        block.register_forward_hook(lambda m, a, out: flowing.append(out.requires_grad))
    model(**batch).loss.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    assert flowing == [True] * 4, "the trap is set"
    model.zero_grad()
    ran.clear()
    flowing.clear()
    spare_below(model)
    model(**batch).loss.backward()
    assert flowing == [False, False, True, True]
    assert sorted(ran) == [0, 1, 2, 2, 3, 3], "only what trains runs again"
    for name, gradient in gradients.items():
        assert torch.equal(model.get_parameter(name).grad, gradient), name


def test_nothing_is_kept_below_the_line():
    """Every tensor that autograd saves stems from block 2 or above."""
    model = llama(num_hidden_layers=4)
    select(model, "last-2").apply(model)
    model.train()
    batch = collate(examples(3))
    kept = {}
    for index in range(4):
        saved = []
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda t, s=saved: s.append(t) or t, lambda t: t
        )
        block = model.model.layers[index]
        handles = [
            block.register_forward_pre_hook(lambda m, a, h=hooks: h.__enter__() and None),
            block.register_forward_hook(lambda m, a, out, h=hooks: h.__exit__() and None),
        ]
        model(**batch)
        for handle in handles:
            handle.remove()
        kept[index] = len(saved)
    assert kept[0] == kept[1] == 0
    assert kept[2] > 0
    assert kept[3] > 0


def test_reentrant_checkpointing_keeps_what_it_needs():
    model = llama(num_hidden_layers=4)
    select(model, "last-2").apply(model)
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    spare_below(model)
    model(**collate(examples(3))).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_users_trainer_with_checkpointing(tmp_path):
    model = llama(num_hidden_layers=3)
    flowing = []
    model.model.layers[1].register_forward_hook(lambda m, a, out: flowing.append(out.requires_grad))
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, report_to="none",
        use_cpu=True, disable_tqdm=True, save_strategy="no", remove_unused_columns=False,
        gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": False},
    )  # fmt: skip
    model.enable_input_require_grads()
    holdfast.with_plan(Trainer, "last-1")(
        model=model, args=arguments, data_collator=collate, train_dataset=examples()
    ).train()
    assert flowing
    assert not any(flowing)


@pytest.mark.parametrize("method", ["last-1", "sa-proj"])
def test_a_stage_with_checkpointing_gives_the_same_weights(tmp_path, method):
    plain = values(train(llama(), method, tmp_path / "a", steps=4).model)
    spared = values(
        train(llama(), method, tmp_path / "b", steps=4, gradient_checkpointing=True).model
    )
    for name in plain:
        torch.testing.assert_close(plain[name], spared[name], rtol=0, atol=1e-6, msg=name)


def test_frozen_weights_have_no_optimizer_state_and_adamw_is_fused(tmp_path):
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, report_to="none",
        use_cpu=True, disable_tqdm=True, save_strategy="no", remove_unused_columns=False,
    )  # fmt: skip
    model = llama()
    trainer = holdfast.with_plan(Trainer, "gate-up")(
        model=model, args=arguments, data_collator=collate, train_dataset=examples()
    )
    trainer.train()
    inner = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    free = {id(p) for n, p in model.named_parameters() if "gate_proj" in n or "up_proj" in n}
    assert {id(p) for p in inner.state} == free
    assert all(group["fused"] for group in inner.param_groups)
