"""Architectures from configurations alone, and the published counts at full size."""

from __future__ import annotations

import json

import pytest
import transformers as t
from tiny_families import CONFIGS, build

from holdfast.anatomy import anatomy, load_meta
from holdfast.errors import ModelError

QWEN2_7B = {
    "sa-proj": 822_212_608,
    "qkv": 462_551_040,
    "gate-up": 3_802_136_576,
    "mlp": 5_703_204_864,
    "full-llm": 7_615_616_512,
}
LLAMA3_8B = {
    "sa-proj": 1_342_177_280,
    "qkv": 805_306_368,
    "gate-up": 3_758_096_384,
    "mlp": 5_637_144_576,
    "full-llm": 8_030_261_248,
}


def qwen2():
    return t.Qwen2Config(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        tie_word_embeddings=False,
    )


def llama3():
    return t.LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=False,
    )


@pytest.mark.parametrize(
    ("config", "counts"),
    [
        (qwen2(), QWEN2_7B),
        (llama3(), LLAMA3_8B),
        (t.LlavaOnevisionConfig(text_config=qwen2(), image_token_id=151646), QWEN2_7B),
        (t.LlavaNextConfig(text_config=llama3(), image_token_id=128255), LLAMA3_8B),
    ],
    ids=["qwen2-7b", "llama3-8b", "llava-onevision-7b", "llava-next-llama3-8b"],
)
def test_published_counts(config, counts):
    found = anatomy(config)
    assert {text: found.select(text).count for text in counts} == counts


def test_published_projector_of_llava_onevision():
    """Two linear layers with bias, 1152 to 3584 to 3584; the row separator is not one of them."""
    config = t.LlavaOnevisionConfig(text_config=qwen2(), image_token_id=151646)
    assert anatomy(config).select("projector").count == 1153 * 3584 + 3585 * 3584


@pytest.mark.parametrize("name", CONFIGS)
def test_a_folder_with_only_a_configuration(name, tmp_path):
    CONFIGS[name]().save_pretrained(tmp_path)
    model = load_meta(tmp_path)
    assert all(p.is_meta for p in model.parameters())
    assert [(p.unit, p.shape) for p in anatomy(model).parts] == [
        (p.unit, p.shape) for p in anatomy(build(name)).parts
    ] or name in ("clip", "siglip")


def test_the_class_that_a_configuration_names_comes_first(tmp_path):
    config = CONFIGS["llama"]()
    config.architectures = ["LlamaForSequenceClassification"]
    config.save_pretrained(tmp_path)
    assert type(load_meta(tmp_path)).__name__ == "LlamaForSequenceClassification"


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (None, "has no config.json"),
        ("{", "cannot be used"),
        ("[]", "cannot be used"),
        ("{}", "cannot be used"),
        (json.dumps({"model_type": "nonsense"}), "cannot be used"),
        (json.dumps({"model_type": "llama", "hidden_size": -3}), "cannot|not describe"),
        (json.dumps({"model_type": "llama", "hidden_size": "wide"}), "cannot|not describe"),
        (
            json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "evil.Config"}}),
            "never run",
        ),
        (json.dumps({"model_type": "encodec"}), "nor|no model|not known|describe"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, content, fragment):
    (tmp_path / "evil.py").write_text("raise SystemExit('code of a model was run')")
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=fragment):
        anatomy(load_meta(tmp_path))


def test_a_name_that_does_not_exist():
    with pytest.raises(ModelError, match="no folder 'nobody/nothing'"):
        load_meta("nobody/nothing")


def test_a_file_is_not_a_folder(tmp_path):
    (tmp_path / "model.bin").write_text("")
    with pytest.raises(ModelError, match="is a file"):
        load_meta(tmp_path / "model.bin")
