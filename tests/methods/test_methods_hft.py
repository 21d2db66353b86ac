"""HFT: frozen to the bit, another half each stage, and what a fake would do."""

import copy

import pytest
import torch
from transformers import PrinterCallback, Trainer, TrainingArguments

import holdfast
from holdfast.anatomy import anatomy
from holdfast.methods import hft
from holdfast.plan import Plan
from holdfast.testing import tiny_llama, tiny_llava


def values(model):
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def trained(plan, folder, seed=0, steps=6, make=tiny_llama):
    """(names that moved, names that moved in part) after a few steps with weight decay."""
    tiny = make()
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=2,
        learning_rate=1e-2, weight_decay=0.3, report_to="none", use_cpu=True, disable_tqdm=True,
        save_strategy="no", remove_unused_columns=False, seed=seed,
    )  # fmt: skip
    before = values(tiny.model)
    trainer = holdfast.with_plan(Trainer, plan)(
        model=tiny.model, args=arguments, train_dataset=tiny.rows()
    )
    trainer.pop_callback(PrinterCallback)
    trainer.train()
    now = values(tiny.model)
    moved = {n for n in now if not torch.equal(now[n], before[n])}
    return moved, {n for n in moved if (now[n] == before[n]).float().mean() > 0.2}


def follows_hft(moved, partly):
    """The paper's rule, read off what training moved."""
    for block in range(2):
        here = [n for n in moved if f".layers.{block}." in n]
        if sum("self_attn" in n for n in here) != 2 or sum("norm" in n for n in here) != 1:
            return False
    mlp = sum(".mlp." in n for n in moved)
    return mlp == 3 and not partly


def test_half_moves_and_half_stays(tmp_path):
    moved, partly = trained("hft", tmp_path)
    assert follows_hft(moved, partly)
    assert any("embed" in n for n in moved)
    assert any("lm_head" in n for n in moved)


def test_the_seed_of_a_stage_draws_the_half(tmp_path):
    first, again, other = (trained("hft", tmp_path, seed)[0] for seed in (1, 1, 2))
    assert first == again != other
    assert trained("hft:round=1", tmp_path, 1)[0] != first


def test_the_tower_of_images_stays(tmp_path):
    moved, _ = trained("hft", tmp_path, make=tiny_llava)
    assert not any("vision_tower" in n or "projector" in n for n in moved)


class ElementWise:
    """A fake: half of the entries of every matrix."""

    name = "element-wise"

    def before_step(self, parameters):
        for name, p in parameters.items():
            g = torch.Generator().manual_seed(len(name))
            p.grad *= torch.rand(p.shape, generator=g) < 0.5

    def after_step(self, parameters):
        pass


class EveryStep(ElementWise):
    """A fake: another half at every step."""

    step = 0

    def before_step(self, parameters):
        self.step += 1
        for i, p in enumerate(parameters.values()):
            p.grad *= (i + self.step) % 2


class GradientOnly(ElementWise):
    """A fake: the frozen half has no gradient, and weight decay moves it."""

    def before_step(self, parameters):
        free = hft().selection(anatomy(tiny_llama().model)).parameters
        for name, p in parameters.items():
            p.grad *= name in free


@pytest.mark.parametrize("fake", [ElementWise, EveryStep, GradientOnly])
def test_a_fake_is_found_out(tmp_path, fake):
    plan = Plan(name="fake", train="full", update=(fake(),))
    assert not follows_hft(*trained(plan, tmp_path))


def test_stages_of_a_run_draw_anew(tmp_path):
    """Seeds as the engine gives them to the stages of a run."""
    found = anatomy(tiny_llama().model)
    stages = [frozenset(hft().selection(found, 7 * 1000 + s).parameters) for s in (1, 2, 3)]
    assert len(set(stages)) == 3


def test_half_of_the_optimizer_and_a_sixth_of_the_work():
    """What freezing half can save at most: gradients of weights are a third of a step."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=172, num_hidden_layers=8,
        num_attention_heads=4,
    )  # fmt: skip
    found = anatomy(config)
    ratios = [found.flops_ratio(hft(outside=False).selection(found, s)) for s in range(8)]
    # (1 forward + 1 gradient of activations + 1/2 gradient of weights) / 3, a bit less where
    # the first blocks' frozen matrices spare the gradient that nothing below them needs
    assert 0.80 < min(ratios) <= max(ratios) < 0.86


def test_dpo(tmp_path):
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(48)} | {"<pad>": 48, "<eos>": 49}
    core = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")
    rows = [
        {"prompt": f"w{i} w{i + 1}", "chosen": f" w{i + 2} w{i + 3}", "rejected": f" w{i} w{i}"}
        for i in range(12)
    ]
    model = tiny_llama().model
    before = values(model)
    trainer = holdfast.with_plan(trl.DPOTrainer, "hft")(
        model=model, ref_model=copy.deepcopy(model), processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows),
        args=trl.DPOConfig(
            output_dir=str(tmp_path), max_steps=4, per_device_train_batch_size=4, use_cpu=True,
            learning_rate=1e-2, weight_decay=0.3, report_to="none", save_strategy="no",
            bf16=False, disable_tqdm=True,
        ),
    )  # fmt: skip
    trainer.train()
    now = values(model)
    moved = {n for n in now if not torch.equal(now[n], before[n])}
    assert follows_hft(moved, set())


def test_the_page_says_what_is_counted():
    from pathlib import Path

    from transformers import LlamaConfig, Qwen2Config

    shapes = {
        "Llama 2 7B": LlamaConfig(
            vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
            num_attention_heads=32, num_key_value_heads=32,
        ),
        "Qwen2.5 0.5B": Qwen2Config(
            vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
            num_attention_heads=14, num_key_value_heads=2, tie_word_embeddings=True,
        ),
    }  # fmt: skip
    page = (Path(__file__).parents[2] / "docs/methods/hft.md").read_text(encoding="utf-8")
    for name, config in shapes.items():
        found = anatomy(config)
        everything = found.memory(found.select("all")).total
        for setting, outside in (("hft", True), ("hft:outside=false", False)):
            drawn = [hft(outside=outside).selection(found, seed) for seed in range(8)]
            work = sum(found.flops_ratio(d) for d in drawn) / 8
            room = sum(found.memory(d).total for d in drawn) / 8 / everything
            assert f"| {name}, `{setting}` | {work:.1%} | {room:.1%} |" in page
