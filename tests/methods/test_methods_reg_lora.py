"""RegLoRA over two stages of the engine: what is noted, what is kept, what it holds back."""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from holdfast.config import Train
from holdfast.engine import carrying
from holdfast.engine.stage import train_stage
from holdfast.methods import lora, reg_lora

sys.path.insert(0, str(Path(__file__).parent.parent / "engine"))
from engine_tools import collate, examples, llama, values

torch.set_num_threads(1)


def stage(made, model, folder, *, seed, note=None):
    return train_stage(
        made, model, examples(16, seed=seed), collate,
        Train(learning_rate=1e-2, steps=4, batch_size=8, cache="off"),
        folder=folder / "checkpoints", seed=seed, base_weights={},
        advance=lambda done, total: None, note=note or (lambda row: None),
        adapter_folder=folder / "adapter",
    )  # fmt: skip


def _first(folder, **settings):
    """A model after one stage, and the plan of the next one, as a new process finds it."""
    made = carrying.recall(reg_lora(rank=4, dropout=0.0, **settings), None)
    losses = []
    model = stage(made, llama(), folder, seed=1, note=losses.append).model
    assert all(row.get("loss/reg-lora", 0) == 0 for row in losses)
    carrying.keep(made, None, folder)
    return model, carrying.recall(reg_lora(rank=4, dropout=0.0, **settings), folder)


def test_the_positions_are_those_of_the_saved_adapter(tmp_path):
    _, again = _first(tmp_path, top=0.1)
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    layers = {k.removesuffix(".lora_A.weight") for k in saved if "lora_A" in k}
    assert len(layers) == 2 * 7
    assert set(again.adapt.earlier) == layers
    for layer in layers:
        product = (saved[f"{layer}.lora_B.weight"] @ saved[f"{layer}.lora_A.weight"]).abs()
        top = product.flatten().topk(int(0.1 * product.numel())).indices
        assert set(again.adapt.earlier[layer].tolist()) == set(top.tolist())
    assert again.learn[-1] is again.adapt


def test_protecting_everything_leaves_nothing_to_learn(tmp_path):
    moved = {}
    for name, settings in {"free": {"weight": 0.0}, "held": {"top": 1.0, "weight": 1e6}}.items():
        model, again = _first(tmp_path / name, **settings)
        before = values(model)
        losses = []
        after = values(stage(again, model, tmp_path / name / "2", seed=2, note=losses.append).model)
        moved[name] = sum(float((after[n] - before[n]).abs().sum()) for n in before)
        assert losses[-1]["loss/reg-lora"] > 0
    assert moved["held"] < moved["free"] / 3


def test_without_earlier_tasks_it_is_plain_lora(tmp_path):
    """An empty list of positions."""
    mine = stage(reg_lora(rank=4, alpha=8, dropout=0.0), llama(), tmp_path / "reg", seed=1).model
    plain = stage(lora(rank=4, alpha=8), llama(), tmp_path / "plain", seed=1).model
    for (name, a), (_, b) in zip(mine.named_parameters(), plain.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
