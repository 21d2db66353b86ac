"""LoRA against PEFT's own, against the merged weights, and where its scope must not reach."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
import transformers as t
from torch import Tensor, nn

from holdfast.anatomy import anatomy
from holdfast.errors import ConfigError, ModelError, SelectorError, UsageError
from holdfast.methods import lora
from holdfast.pieces.lora import LoRA
from holdfast.pieces.lora_history import concatenate
from holdfast.pieces.lora_scope import exact, scope
from holdfast.pieces.structures import rebuild
from holdfast.testing import Tiny, tiny_llama, tiny_llava

torch.set_num_threads(1)

IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "vocab_size": 50}
DEEP = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def _gpt2() -> nn.Module:
    return t.GPT2LMHeadModel(t.GPT2Config(**IDS, n_embd=16, n_layer=2, n_head=4, n_positions=32))


def _phi3() -> nn.Module:
    return t.Phi3ForCausalLM(t.Phi3Config(**IDS, **DEEP, num_key_value_heads=2))


def _mixtral() -> nn.Module:
    return t.MixtralForCausalLM(
        t.MixtralConfig(**IDS, **DEEP, num_key_value_heads=2, num_local_experts=3)
    )


def _text(make: Callable[[], nn.Module]) -> Tiny:
    torch.manual_seed(0)
    return Tiny(make().eval(), tiny_llama().batch)


MODELS: dict[str, Callable[[], Tiny]] = {
    "llama": tiny_llama,
    "llava": tiny_llava,
    "gpt2": lambda: _text(_gpt2),
    "phi3": lambda: _text(_phi3),
    "mixtral": lambda: _text(_mixtral),
}


def _attach(adapter: LoRA, model: nn.Module) -> nn.Module:
    return adapter.attach(model, anatomy(model))


def _logits(model: nn.Module, tiny: Tiny) -> Tensor:
    was = model.training
    model.eval()
    with torch.no_grad():
        logits = model(**{k: v for k, v in tiny.batch.items() if k != "labels"}).logits
    model.train(was)
    return logits


def _train(model: nn.Module, tiny: Tiny, steps: int = 3) -> list[float]:
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(**tiny.batch).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _sides(layer: nn.Module) -> int:
    return sum(layer.weight.shape)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("selector", [None, "sa-proj", "gate-up"])
def test_attach_train_merge(name: str, selector: str | None) -> None:
    tiny = MODELS[name]()
    base, weights = _logits(tiny.model, tiny), tiny.model.state_dict()
    weights = {k: v.clone() for k, v in weights.items()}
    names = [n for n, _ in tiny.model.named_parameters()]
    adapter = LoRA(rank=4, alpha=8.0, **({"scope": selector} if selector else {}))  # type: ignore[arg-type]
    touched = set(adapter.touches(tiny.model, anatomy(tiny.model)))
    model = _attach(adapter, tiny.model)
    assert torch.equal(_logits(model, tiny), base)
    trainable = set(adapter.trainable(model))
    assert trainable == {n for n, p in model.named_parameters() if p.requires_grad}
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if n not in trainable}
    _train(model, tiny)
    for n, value in frozen.items():
        assert torch.equal(model.get_parameter(n), value), n
    tuned = _logits(model, tiny)
    assert not torch.allclose(tuned, base, atol=1e-4)
    merged = adapter.detach(model, None)
    assert {n for n, _ in merged.named_parameters()} == set(names)
    torch.testing.assert_close(_logits(merged, tiny), tuned, atol=1e-5, rtol=1e-5)
    changed = {n for n, v in merged.state_dict().items() if not torch.equal(v, weights[n])}
    assert changed == touched
    assert not any("vision" in n for n in touched)


@pytest.mark.parametrize("name", ["llama", "llava", "gpt2", "phi3"])
def test_the_count_is_rank_times_inputs_plus_outputs(name: str) -> None:
    tiny = MODELS[name]()
    layers = scope(tiny.model, anatomy(tiny.model), "language.attn + language.mlp").modules
    expected = 4 * sum(_sides(tiny.model.get_submodule(path)) for path in layers)
    adapter = LoRA(rank=4, alpha=8.0)
    model = _attach(adapter, tiny.model)
    assert sum(model.get_parameter(n).numel() for n in adapter.trainable(model)) == expected


def test_losses_equal_those_of_pefts_own_script() -> None:
    ours, theirs = tiny_llama(), tiny_llama()
    torch.manual_seed(1)
    adapter = LoRA(rank=4, alpha=8.0, dropout=0.1, scope="sa-proj")
    first = _attach(adapter, ours.model)
    torch.manual_seed(1)
    config = peft.LoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.1, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]
    )
    second = peft.get_peft_model(theirs.model, config)
    assert {n: p.shape for n, p in first.named_parameters()} == {
        n: p.shape for n, p in second.named_parameters()
    }
    torch.manual_seed(2)
    losses = _train(first, ours, 5)
    torch.manual_seed(2)
    assert losses == _train(second, theirs, 5)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("stages", ["merge", "keep", "stack"])
def test_each_stage_is_saved_for_the_weights_it_began_with(
    name: str, stages: str, tmp_path: Path
) -> None:
    tiny, start = MODELS[name](), MODELS[name]().model
    adapter = LoRA(rank=2, alpha=4.0, scope="sa-proj", stages=stages)  # type: ignore[arg-type]
    model = tiny.model
    for stage in (1, 2):
        model = _attach(adapter, model)
        assert sum(1 for _ in adapter.trainable(model)) == sum(
            p.requires_grad for p in model.parameters()
        )
        earlier = {
            n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad
        }
        _train(model, tiny)
        assert all(torch.equal(model.get_parameter(n), p) for n, p in earlier.items())
        tuned = _logits(model, tiny)
        model = adapter.detach(model, tmp_path / str(stage))
        assert not any(p.requires_grad for p in model.parameters())
        assert sorted(f.name for f in (tmp_path / str(stage)).iterdir() if f.suffix != ".md") == [
            "adapter_config.json",
            "adapter_model.safetensors",
        ]
    if stages == "keep":  # one adapter, and it belongs to the base
        loaded = peft.PeftModel.from_pretrained(start, tmp_path / "2")
    else:
        loaded = peft.PeftModel.from_pretrained(start, tmp_path / "1").merge_and_unload()
        loaded = peft.PeftModel.from_pretrained(loaded, tmp_path / "2")
    torch.testing.assert_close(_logits(loaded, tiny), tuned, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stages", ["keep", "stack"])
def test_adapters_that_stay_rebuild_from_json(stages: str) -> None:
    tiny = tiny_llama()
    adapter = LoRA(rank=2, alpha=4.0, stages=stages)  # type: ignore[arg-type]
    model = tiny.model
    for _ in range(3):
        model = _attach(adapter, model)
        _train(model, tiny)
        model = adapter.detach(model, None)
    structure = json.loads(json.dumps(adapter.structure()))
    fresh = tiny_llama().model
    again = rebuild(fresh, structure, anatomy(fresh))
    values = {n: p for n, p in model.named_parameters() if "lora_" in n}
    assert len(values) == 28 * (3 if stages == "stack" else 1)
    assert not again.load_state_dict(values, strict=False).unexpected_keys
    assert torch.equal(_logits(again, tiny), _logits(model, tiny))
    # a new process continues where that one stopped
    later = LoRA(rank=2, alpha=4.0, stages=stages)  # type: ignore[arg-type]
    model = _attach(later, again)
    assert torch.equal(_logits(model, tiny), _logits(again, tiny))
    assert later.adapters == (4 if stages == "stack" else 1)
    assert LoRA(rank=2, alpha=4.0).structure() is None


def test_a_history_of_merges_is_one_adapter_of_the_base(tmp_path: Path) -> None:
    tiny, model = tiny_llama(), tiny_llama().model
    folders = []
    for stage, (rank, selector) in enumerate(
        ((2, "sa-proj"), (3, "gate-up"), (5, "language.attn + mlp.down"))
    ):
        adapter = LoRA(rank=rank, alpha=7.0, scope=selector)
        model = _attach(adapter, model)
        _train(model, tiny)
        folders.append(tmp_path / str(stage))
        model = adapter.detach(model, folders[-1])
    concatenate(folders, tmp_path / "all")
    whole = peft.PeftModel.from_pretrained(tiny_llama().model, tmp_path / "all")
    assert whole.peft_config["default"].r == 10
    torch.testing.assert_close(_logits(whole, tiny), _logits(model, tiny), atol=1e-5, rtol=1e-5)


def test_modules_trained_in_full_go_with_the_adapter(tmp_path: Path) -> None:
    tiny = tiny_llava()
    adapter = LoRA(rank=2, alpha=4.0, also_train="projector")
    before = {n: p.detach().clone() for n, p in tiny.model.named_parameters()}
    touched = set(adapter.touches(tiny.model, anatomy(tiny.model)))
    model = _attach(adapter, tiny.model)
    assert sum("modules_to_save" in n for n in adapter.trainable(model)) == 4
    _train(model, tiny)
    tuned = _logits(model, tiny)
    merged = adapter.detach(model, tmp_path)
    changed = {n for n, p in merged.named_parameters() if not torch.equal(p, before[n])}
    assert changed == touched
    assert sum("projector" in n for n in changed) == 4
    loaded = peft.PeftModel.from_pretrained(tiny_llava().model, tmp_path)
    torch.testing.assert_close(_logits(loaded, tiny), tuned, atol=1e-5, rtol=1e-5)
    concatenate([tmp_path, tmp_path], tmp_path / "all")
    assert peft.PeftConfig.from_pretrained(tmp_path / "all").modules_to_save == sorted(
        peft.PeftConfig.from_pretrained(tmp_path).modules_to_save
    )


def test_a_module_inside_another_is_saved_once(tmp_path: Path) -> None:
    vision = t.SiglipVisionConfig(**DEEP, image_size=8, patch_size=4)
    text = t.Gemma3TextConfig(**IDS, **DEEP, num_key_value_heads=2, head_dim=4)
    config = t.Gemma3Config(
        vision_config=vision, text_config=text, mm_tokens_per_image=4, image_token_id=49
    )
    torch.manual_seed(0)
    model = t.Gemma3ForConditionalGeneration(config)
    adapter = LoRA(rank=2, alpha=4.0, also_train="projector")
    expected = set(anatomy(model).select("projector").parameters)
    assert set(adapter.touches(model, anatomy(model))) >= expected
    model = _attach(adapter, model)
    assert model.peft_config["default"].modules_to_save == ["model.multi_modal_projector"]  # type: ignore
    full = [n for n in adapter.trainable(model) if "modules_to_save" in n]
    assert len(full) == len(expected) == 2
    model = adapter.detach(model, None)
    assert expected <= {n for n, _ in model.named_parameters()}


def test_a_name_that_ends_another_name_catches_only_itself() -> None:
    model = nn.ModuleDict(
        {"layer": nn.Linear(2, 2), "vision": nn.ModuleDict({"layer": nn.Linear(2, 2)})}
    )
    assert exact(["vision.layer"], model) == ["vision.layer"]
    names = exact(["layer"], model)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=names))
    adapted = [n for n, m in wrapped.named_modules() if hasattr(m, "lora_A")]
    assert adapted == ["base_model.model.layer"]


@pytest.mark.parametrize(
    ("make", "selector", "says"),
    [
        (_gpt2, "vo", "only some rows"),
        (_phi3, "language[0].attn.q", "only some rows"),
        (_mixtral, "language.mlp.gate", "only some rows"),
        (_gpt2, "language.norm + embed", "no linear layer"),
        (_gpt2, "sa-prj", "sa-proj"),
    ],
)
def test_scopes_that_lora_cannot_have(
    make: Callable[[], nn.Module], selector: str, says: str
) -> None:
    model = make()
    names = [n for n, _ in model.named_parameters()]
    with pytest.raises(SelectorError, match=says):
        _attach(LoRA(rank=2, alpha=2.0, scope=selector), model)
    assert [n for n, _ in model.named_parameters()] == names


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dropout"):
        _attach(LoRA(rank=2, alpha=2.0, dropout=0.1), _mixtral())
    with pytest.raises(SelectorError, match="some rows"):
        _attach(LoRA(rank=2, alpha=2.0, scope="mlp", also_train="language.attn.q"), _phi3())
    model = _attach(LoRA(rank=2, alpha=2.0), tiny_llama().model)
    with pytest.raises(ModelError, match="not merged"):
        _attach(LoRA(rank=2, alpha=2.0), model)
    with pytest.raises(ModelError, match="holds no adapter"):
        concatenate([tmp_path], tmp_path / "all")
    with pytest.raises(UsageError, match="at least one"):
        concatenate([], tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from holdfast.errors import MissingExtra

    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(MissingExtra, match=r"pip install 'holdfast\[lora\]'"):
        _attach(LoRA(rank=2, alpha=2.0), tiny_llama().model)
    assert lora().adapt is not None  # the plan itself needs nothing


def test_tied_embeddings_that_train_beside_an_adapter_stay_tied(tmp_path):
    """One part with two names: the head moves with the embeddings, and merging keeps it so."""
    config = t.LlamaConfig(**IDS, **DEEP, num_key_value_heads=2, tie_word_embeddings=True)
    tiny = _text(lambda: t.LlamaForCausalLM(config))
    adapter = LoRA(rank=2, alpha=2.0, scope="mlp", also_train="language.head")
    model = _attach(adapter, tiny.model)
    trained = [p for n, p in model.named_parameters() if "modules_to_save" in n]
    with torch.no_grad():
        trained[0].add_(torch.randn_like(trained[0]))
        learned = model(**tiny.batch).logits
    merged = adapter.detach(model, tmp_path)
    assert merged.get_output_embeddings().weight is merged.get_input_embeddings().weight
    with torch.no_grad():
        torch.testing.assert_close(merged(**tiny.batch).logits, learned)
