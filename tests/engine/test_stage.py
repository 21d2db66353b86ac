"""One stage: what trains, what stays, and that a cut changes nothing."""

import shutil

import pytest
import torch
from engine_tools import collate, examples, llama, phi3, train, values
from transformers import TrainerCallback

from holdfast.engine import stage as stage_module
from holdfast.engine.checkpoints import Seal
from holdfast.errors import RunError, SelectorError, UsageError
from holdfast.pieces.feeds import draws


def test_the_gradient_is_plain_fine_tunings(tmp_path):
    """One SGD-like step: Adam's first step is lr * sign(g), so compare through the loss curve."""
    model, plain = llama(), llama()
    rows = examples(8)
    first: list[dict] = []
    train(model, "full", tmp_path, data=rows, steps=1, note=first.append, warmup=0.0)
    own = plain(**collate([rows[i] for i in draws(8, 8, 1)])).loss
    assert first[0]["loss"] == pytest.approx(own.item(), abs=1e-5)
    own.backward()
    norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), 1e9)
    assert first[0]["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)


def test_a_recipes_gradient_is_full_tunings_on_its_weights(tmp_path):
    rows = examples(8)
    first: list[dict] = []
    train(llama(), "sa-proj", tmp_path, data=rows, steps=1, note=first.append)
    plain = llama()
    plain(**collate([rows[i] for i in draws(8, 8, 1)])).loss.backward()
    squares = sum(p.grad.pow(2).sum() for n, p in plain.named_parameters() if "self_attn" in n)
    assert first[0]["grad_norm"] == pytest.approx(squares.sqrt().item(), rel=1e-4)


@pytest.mark.parametrize(
    ("method", "moves"),
    [
        ("gate-up", ("gate_proj", "up_proj")),
        ("sa-proj", ("self_attn",)),
        ("down", ("down_proj",)),
        ("last-1", ("layers.1.",)),
    ],
)
def test_only_the_recipe_moves(tmp_path, method, moves):
    model = llama()
    before = values(model)
    trained = train(model, method, tmp_path, weight_decay=0.5)
    for name, value in values(trained.model).items():
        assert torch.equal(value, before[name]) != any(m in name for m in moves), name
    assert set(trained.changed) == {n for n in before if any(m in n for m in moves)}


def test_part_of_a_fused_weight(tmp_path):
    """Only the query rows of Phi-3's qkv move, whatever weight decay does to the rest."""
    model = phi3()
    before = values(model)
    train(model, "train:select=language.attn.q", tmp_path, weight_decay=0.9, steps=8)
    for name, value in values(model).items():
        if "qkv_proj" in name:
            assert not torch.equal(value[:32], before[name][:32])
            assert torch.equal(value[32:], before[name][32:])
        else:
            assert torch.equal(value, before[name])


@pytest.mark.parametrize("methods", [["mlp"], ["mlp", "lwf"], ["mlp", "lwf:positions=all_text"]])
def test_micro_batches_do_not_change_the_numbers(tmp_path, methods):
    whole, cut = llama(), llama()
    train(whole, methods, tmp_path / "a", steps=3)
    train(cut, methods, tmp_path / "b", steps=3, micro_batch_size=2)
    for (name, a), (_, b) in zip(whole.named_parameters(), cut.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5, msg=name)


def test_the_stage_is_seeded(tmp_path):
    runs = [
        values(train(llama(), "mlp", tmp_path / str(i), seed=s).model)
        for i, s in enumerate([1, 1, 2])
    ]
    assert all(torch.equal(runs[0][n], runs[1][n]) for n in runs[0])
    assert not all(torch.equal(runs[0][n], runs[2][n]) for n in runs[0])


class Killed(BaseException):
    pass


def latest(folder, plan="sa-proj", steps=6, seed=1, said=None):
    say = said.append if said is not None else lambda text: None
    return Seal({"plan": plan, "seed": seed, "steps": steps}, say).latest(folder)


@pytest.mark.parametrize(
    "methods",
    [
        ["sa-proj"],
        ["mlp", "lwf", "wise-ft:alpha=0.3"],
        ["lora:rank=2,dropout=0.2"],
        ["two-experts"],
    ],
)
def test_cut_and_resumed_is_bit_equal(tmp_path, methods, monkeypatch):
    settings = {"steps": 8, "save_every": 3}
    whole = values(train(llama(), methods, tmp_path / "whole", **settings).model)

    class Kill(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 5:
                raise Killed

    real = stage_module.Watch
    monkeypatch.setattr(
        stage_module,
        "Watch",
        lambda *a: type("W", (real, Kill), {"on_step_end": Kill.on_step_end})(*a),
    )
    with pytest.raises(Killed):
        train(llama(), methods, tmp_path / "cut", **settings)
    monkeypatch.setattr(stage_module, "Watch", real)
    assert sorted(p.name for p in (tmp_path / "cut" / "checkpoints").iterdir()) == ["checkpoint-3"]
    resumed = values(train(llama(), methods, tmp_path / "cut", **settings).model)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[n], resumed[n]) for n in whole)


def test_torn_checkpoints_are_passed_over_and_named(tmp_path):
    train(llama(), "sa-proj", tmp_path, steps=6, save_every=2)
    folder, said = tmp_path / "checkpoints", []
    newest = latest(folder)
    assert newest.name == "checkpoint-6"
    file = newest / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert latest(folder, said=said).name == "checkpoint-4"
    assert "checkpoint-6/model.safetensors is damaged" in said[0]
    assert not newest.exists()
    (folder / "checkpoint-4" / "sealed.json").unlink()
    assert latest(folder, said=said) is None
    assert "checkpoint-4 was cut off" in said[1]


def test_a_checkpoint_whose_bytes_were_changed_is_passed_over(tmp_path):
    train(llama(), "sa-proj", tmp_path, steps=6, save_every=2)
    folder, said = tmp_path / "checkpoints", []
    file = folder / "checkpoint-6" / "optimizer.pt"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    assert latest(folder, said=said).name == "checkpoint-4"
    assert "optimizer.pt is damaged (its hash" in said[0]


def test_another_runs_checkpoint_is_refused_and_stays(tmp_path):
    train(llama(), "sa-proj", tmp_path, steps=6, save_every=2)
    with pytest.raises(RunError, match=r"of another run \(plan: 'sa-proj' there, 'mlp' now\)"):
        latest(tmp_path / "checkpoints", plan="mlp")
    assert (tmp_path / "checkpoints" / "checkpoint-6" / "model.safetensors").exists()


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    model = llama()
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    named = ", ".join(str(i) for i in draws(32, 3, 1))
    with pytest.raises(
        RunError,
        match=rf"became nan at step 1 of 6 of training, on the examples {named} and 5 more",
    ):
        train(model, "sa-proj", tmp_path)


def test_weights_that_are_no_numbers_are_never_saved(tmp_path, monkeypatch):
    """The loss of a step is read before its update: an update can spoil what is then saved."""

    class Spoil(stage_module.Watch):
        def on_optimizer_step(self, args, state, control, model=None, **kwargs):
            if state.global_step == 3:
                with torch.no_grad():
                    next(p for p in model.parameters() if p.requires_grad).fill_(float("inf"))

    spoiled = llama()
    monkeypatch.setattr(stage_module, "Watch", Spoil)
    with pytest.raises(RunError, match="no longer finite"):
        train(spoiled, "sa-proj", tmp_path / "b", steps=4, save_every=2)
    kept = sorted(p.name for p in (tmp_path / "b" / "checkpoints").iterdir())
    assert "checkpoint-2" in kept
    assert not (tmp_path / "b" / "checkpoints" / "checkpoint-4" / "sealed.json").exists()


def test_a_plan_that_trains_nothing_is_refused(tmp_path):
    with pytest.raises(UsageError, match="combine it with a recipe"):
        train(llama(), "lwf", tmp_path)
    with pytest.raises(SelectorError, match="vision"):
        train(llama(), "vision", tmp_path)


def test_learning_rates_scale_by_part(tmp_path):
    """Adam's first step has size lr in every element: read the rate off the weights."""
    from dataclasses import replace

    from holdfast.config import Train
    from holdfast.engine.stage import train_stage
    from holdfast.methods import plan

    model = llama()
    before = values(model)
    scaled = replace(plan(["sa-proj"]), lr_scale=(("language.attn.o", 0.25),))
    train_stage(
        scaled, model, examples(8), collate,
        Train(learning_rate=1e-3, steps=1, batch_size=8, warmup=0.0, schedule="linear"),
        folder=tmp_path, seed=0, base_weights={},
        advance=lambda a, b: None, note=lambda row: None,
    )  # fmt: skip
    for name, value in values(model).items():
        moved = (value - before[name]).abs().max().item()
        wanted = 2.5e-4 if "o_proj" in name else 1e-3 if "self_attn" in name else 0.0
        assert moved == pytest.approx(wanted, rel=0.02), name


def test_draws_are_whole_epochs():
    order = draws(10, 25, seed=3)
    assert sorted(order[:10]) == sorted(order[10:20]) == list(range(10))
    assert order[:10] != order[10:20]
    assert order == draws(10, 40, seed=3)[:25]


def test_loss_terms_are_logged_apart(tmp_path):
    rows: list[dict] = []
    train(llama(), ["mlp", "lwf:weight=2"], tmp_path, steps=2, note=rows.append)
    row = rows[-1]
    assert row["loss"] == pytest.approx(
        row["loss/cross-entropy"] + 2 * row["loss/distill"], abs=1e-4
    )


def test_nothing_is_left_behind(tmp_path):
    shutil.rmtree(tmp_path)
    trained = train(llama(), "sa-proj", tmp_path)
    assert not any(p.requires_grad for p in trained.model.parameters())
    assert not any(p.grad is not None for p in trained.model.parameters())
