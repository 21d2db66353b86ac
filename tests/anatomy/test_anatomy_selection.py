"""What a selection does to a model: freezing, row masks, tied weights, wrappers."""

from __future__ import annotations

import hashlib

import pytest
import torch
import transformers as t
from tiny_families import TEXT, build

from holdfast.anatomy import anatomy, select
from holdfast.errors import ModelError


def digest(tensor):
    return hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("llama", "sa-proj"),
        ("qwen2-tied", "gate-up"),
        ("gpt2", "language.attn.q"),
        ("gpt_neox", "language.attn.k+v"),
        ("phi3", "gate-up"),
        ("phi3", "language.mlp.gate"),
        ("mixtral", "language.mlp.up"),
        ("gpt_oss", "language.mlp.gate"),
        ("qwen3_moe", "last-1 - language.router"),
    ],
)
def test_frozen_weights_and_rows_stay_as_they_are(name, text):
    """After AdamW steps with weight decay, through ``apply`` and ``masks`` alone."""
    model = build(name, "cpu")
    chosen = select(model, text)
    chosen.apply(model)
    masks = chosen.masks(model)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert set(trainable) == set(chosen.parameters)
    optimizer = torch.optim.AdamW(trainable.values(), lr=0.01, weight_decay=0.1)
    for step in range(3):
        tokens = (torch.arange(24) * (step + 3))[None] % 40
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        with torch.no_grad():
            for n, mask in masks.items():
                trainable[n].copy_(torch.where(mask, trainable[n], before[n]))
    moved = 0
    for n, p in model.named_parameters():
        if n not in trainable:
            assert digest(p) == digest(before[n]), n
        else:
            changed = p != before[n]
            allowed = masks.get(n, torch.tensor(True)).expand(p.shape)
            assert not (changed & ~allowed).any(), n
            assert changed.any(), n
            moved += int(allowed.sum())
    assert moved == chosen.count


def test_masks_count_what_the_selection_counts():
    model = build("gpt_neox", "cpu")
    chosen = select(model, "language.attn.q")
    for name, mask in chosen.masks(model).items():
        shape = model.get_parameter(name).shape
        assert int(mask.expand(shape).sum()) * 3 == shape.numel()


def test_all_rows_of_a_fused_weight_are_the_whole_weight():
    model = build("gpt2")
    assert set(select(model, "qkv").parameters.values()) == {None}
    assert None not in set(select(model, "language.attn.q+v").parameters.values())


def test_apply_refuses_another_model():
    with pytest.raises(ModelError, match="made on another model"):
        select(build("llama"), "sa-proj").apply(build("gpt2"))


def test_tied_weights_are_one_part_with_two_names():
    found = anatomy(build("qwen2-tied"))
    assert found.select("embed").parameters == found.select("head").parameters
    (part,) = found.select("head").parts
    assert (part.unit, part.also, part.aliases) == ("embed", ("head",), ("lm_head.weight",))
    assert any("tied" in note for note in found.select("head").notes)
    without = found.select("all - head")
    assert without.count == found.count - part.count
    assert part.parameter not in without.parameters


def test_norms_of_queries_and_keys_are_norms():
    found = anatomy(build("qwen3"))
    assert not any("norm" in n for n in found.select("sa-proj").parameters)
    assert any("q_norm" in n for n in found.select("language.norm").parameters)


def test_biases_belong_to_their_unit():
    found = anatomy(build("llama-biased"))
    chosen = found.select("language.attn.q")
    assert {p.bias for p in chosen.parts} == {True, False}


class TestTowers:
    """A vision tower that reuses the language model's leaf names."""

    @pytest.mark.parametrize("name", ["llava-phi3-pixtral", "qwen2_5_vl", "mistral3", "llava"])
    def test_language_selectors_never_touch_the_vision_tower(self, name):
        found = anatomy(build(name))
        for text in ("sa-proj", "qkv", "gate-up", "mlp", "down", "last-1", "full-llm", "norm"):
            for parameter in found.select(text).parameters:
                assert "vision" not in parameter, text
                assert "visual" not in parameter, text
                assert "projector" not in parameter, text

    def test_a_llama_as_vision_tower(self):
        model = build("llava", "cpu")
        model.model.vision_tower = t.LlamaModel(t.LlamaConfig(**TEXT))
        found = anatomy(model)
        leaves = {p.parameter.split(".", 2)[2] for p in found.select("vision").parts}
        assert "layers.0.self_attn.q_proj.weight" in leaves
        assert "layers.0.mlp.gate_proj.weight" in leaves
        assert all("language_model" in n for n in found.select("sa-proj+gate-up").parameters)
        assert all("vision_tower" in n for n in found.select("vision.attn").parameters)

    def test_a_tower_of_an_unknown_kind_is_still_a_tower(self):
        model = build("llava", "cpu")
        model.model.vision_tower = torch.nn.ModuleDict(
            {"self_attn": torch.nn.ModuleDict({"q_proj": torch.nn.Linear(4, 4)})}
        )
        model.config.vision_config = None
        found = anatomy(model)
        assert found.select("vision").count == 20
        assert all("language_model" in n for n in found.select("sa-proj").parameters)
        assert any("no row describes" in note for note in found.notes)

    def test_the_row_separator_is_in_no_published_recipe(self):
        found = anatomy(build("llava_next"))
        for text in ("full-llm", "vision", "projector"):
            assert "model.image_newline" not in found.select(text).parameters
        assert "model.image_newline" in found.select("full").parameters
        assert any("image_newline" in note for note in found.notes)


class TestWrappers:
    def test_bare_and_classifying_models(self):
        for make, head in (
            (t.LlamaModel, set()),
            (t.LlamaForCausalLM, {"lm_head.weight"}),
            (t.LlamaForSequenceClassification, {"score.weight"}),
            (t.LlamaForTokenClassification, {"score.weight", "score.bias"}),
            (t.LlamaForQuestionAnswering, {"qa_outputs.weight", "qa_outputs.bias"}),
        ):
            with torch.device("meta"):
                found = anatomy(make(t.LlamaConfig(**TEXT)))
            heads = {p.parameter for p in found.parts if p.plays("head")}
            assert heads == head
            assert found.other == ()
            assert len(found.select("sa-proj").parts) == 12

    @pytest.mark.parametrize("name", ["llama", "gpt2", "llava", "gpt_neox"])
    def test_peft(self, name):
        peft = pytest.importorskip("peft")
        plain = anatomy(build(name, "cpu"))
        model = build(name, "cpu")
        leaf = {"gpt2": "c_attn", "gpt_neox": "query_key_value"}.get(name, "q_proj")
        wrapped = peft.get_peft_model(
            model, peft.LoraConfig(target_modules=[leaf], r=2, fan_in_fan_out=name == "gpt2")
        )
        found = anatomy(wrapped)
        assert found.select("sa-proj").count == plain.select("sa-proj").count
        assert found.select("full-llm").count == plain.select("full-llm").count
        added = found.select("other.adapter")
        assert all("lora_" in n for n in added.parameters)
        assert added.count == sum(p.numel() for n, p in wrapped.named_parameters() if "lora_" in n)
        found.select("qkv").apply(wrapped)

    def test_extra_modules_are_reported(self):
        model = build("llama", "cpu")
        model.model.layers[0].self_attn.novelty = torch.nn.Linear(2, 2, bias=False)
        model.extra = torch.nn.Linear(2, 2, bias=False)
        found = anatomy(model)
        assert {p.parameter for p in found.other} == {
            "model.layers.0.self_attn.novelty.weight",
            "extra.weight",
        }
        assert any("novelty" in note for note in found.notes)
        assert "extra.weight" not in found.select("full-llm").parameters
        assert any("no known role" in note for note in found.select("full-llm").notes)
        assert not any("novelty" in n for n in found.select("sa-proj").parameters)


class TestUnknown:
    def test_a_family_that_is_not_known(self):
        with torch.device("meta"):
            model = t.T5ForConditionalGeneration(t.T5Config(d_model=8, num_layers=1, d_ff=8))
        with pytest.raises(ModelError, match=r"family 't5' is not known.*There is: .*llama"):
            anatomy(model)

    def test_the_nearest_family_is_offered(self):
        model = build("llama")
        model.config.model_type = "lama"
        with pytest.raises(ModelError, match="did you mean 'llama'"):
            anatomy(model)

    def test_a_module_without_a_configuration(self):
        with pytest.raises(ModelError, match=r"has no config\.model_type"):
            anatomy(torch.nn.Linear(2, 2))

    def test_an_unknown_language_model_inside_a_known_family(self):
        model = build("llava")
        model.model.language_model.config.model_type = "rwkv"
        with pytest.raises(ModelError, match="'rwkv' is not known"):
            anatomy(model)

    def test_blocks_in_an_unexpected_place(self):
        model = torch.nn.Module()
        model.config = t.LlamaConfig(**TEXT)
        model.elsewhere = torch.nn.Linear(2, 2)
        with pytest.raises(ModelError, match="its list of blocks is not at 'layers'"):
            anatomy(model)


def test_every_recipe_counts_by_hand():
    """A Llama of width 16: the counts written out."""
    found = anatomy(build("llama"))
    d, ff, kv, layers, vocabulary = 16, 24, 8, 3, 40
    attention = 2 * d * d + 2 * d * kv
    assert found.select("sa-proj").count == layers * attention
    assert found.select("qkv").count == layers * (attention - d * d)
    assert found.select("gate-up").count == layers * 2 * d * ff
    block = attention + 3 * d * ff + 2 * d
    assert found.select("last-2").count == 2 * block
    assert found.select("last-2-lmmcl").count == 2 * block + 2 * vocabulary * d + d
    assert found.select("full-llm").count == layers * block + 2 * vocabulary * d + d


def test_groups_add_up():
    for name in ("llava_onevision", "gpt_neox", "resnet"):
        found = anatomy(build(name))
        chosen = found.select("all")
        groups = found.groups(chosen.parts)
        assert sum(g.count for g in groups) == found.count
        assert sum(g.selected for g in groups) == chosen.count


def test_older_layout_with_a_whole_language_model_inside():
    """As LLaVA was laid out before transformers 4.52: ``language_model.model.layers``."""
    new = build("llava", "cpu")
    old = torch.nn.Module()
    old.config = new.config
    old.vision_tower = new.model.vision_tower
    old.multi_modal_projector = new.model.multi_modal_projector
    old.language_model = t.LlamaForCausalLM(t.LlamaConfig(**TEXT))
    found = anatomy(old)
    assert found.other == ()
    for text in ("sa-proj", "gate-up", "full-llm", "vision", "projector", "last-1-lmmcl"):
        assert found.select(text).count == anatomy(new).select(text).count
    assert list(found.select("head").parameters) == ["language_model.lm_head.weight"]
