"""Deltas: what changed, over the right base, to the bit."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import holdfast
from holdfast.errors import ModelError
from holdfast.models.saving import save_delta
from holdfast.models.source import fingerprint, resolve


@pytest.fixture
def base(tmp_path):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    folder = tmp_path / "base"
    LlamaForCausalLM(config).save_pretrained(folder)
    core = Tokenizer(
        models.WordLevel({f"w{i}": i for i in range(39)} | {"<unk>": 39}, unk_token="<unk>")
    )
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", eos_token="w0", pad_token="w1"
    ).save_pretrained(folder)
    return folder


def tuned(base, out, **extra):
    model, _ = holdfast.load(base)
    names = [n for n, _ in model.named_parameters() if "up_proj" in n]
    with torch.no_grad():
        for n, p in model.named_parameters():
            if n in names:
                p.add_(torch.randn_like(p))
    save_delta(
        out, model, names, base=str(base), base_folder=base, base_hash=fingerprint(base), **extra
    )
    return model


IDS = torch.arange(8)[None]


def test_loads_to_bit_equal_logits(base, tmp_path):
    model = tuned(base, tmp_path / "tuned")
    again, processor = holdfast.load(tmp_path / "tuned")
    assert torch.equal(model(IDS).logits, again(IDS).logits)
    assert processor("w3 w4")["input_ids"] == [3, 4]
    assert set(load_file(tmp_path / "tuned" / "delta.safetensors")) == {
        f"model.layers.{i}.mlp.up_proj.weight" for i in (0, 1)
    }


def test_another_base_is_refused(base, tmp_path):
    tuned(base, tmp_path / "tuned")
    file = base / "model.safetensors"
    values = load_file(file)
    values["lm_head.weight"][0, 0] += 1e-3
    save_file(values, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="this is another model"):
        holdfast.load(tmp_path / "tuned")


def test_a_base_that_moved_is_found_by_its_old_place_or_named(base, tmp_path):
    tuned(base, tmp_path / "tuned")
    shutil.move(base, tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="base"):
        holdfast.load(tmp_path / "tuned")


def test_the_fingerprint_does_not_depend_on_sharding(base, tmp_path):
    model = LlamaForCausalLM.from_pretrained(base)
    model.save_pretrained(tmp_path / "shards", max_shard_size="5KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").exists()
    assert fingerprint(base) == fingerprint(tmp_path / "shards")
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1e-3
    model.save_pretrained(tmp_path / "other")
    assert fingerprint(base) != fingerprint(tmp_path / "other")


def test_export_is_an_ordinary_folder(base, tmp_path):
    model = tuned(base, tmp_path / "tuned")
    holdfast.export(str(tmp_path / "tuned"), tmp_path / "full")
    again = LlamaForCausalLM.from_pretrained(tmp_path / "full")
    assert torch.equal(model(IDS).logits, again(IDS).logits)
    with pytest.raises(ModelError, match="not empty"):
        holdfast.export(str(tmp_path / "tuned"), tmp_path / "full")
    with pytest.raises(ModelError, match="nothing to export"):
        holdfast.export(str(base), tmp_path / "again")
    with pytest.raises(ModelError, match="has no adapter"):
        holdfast.export(str(tmp_path / "tuned"), tmp_path / "peft", form="peft")


def test_what_is_no_model_is_said_to_be_none(base, tmp_path):
    def refused(name, *fragments):
        with pytest.raises(ModelError) as error:
            holdfast.load(name)
        for fragment in fragments:
            assert fragment in str(error.value)

    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "neither config.json nor delta.json")
    refused(tmp_path / "absent", "there is no model", "lab:vlm")
    refused(base / "config.json", "is a file")
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    refused(base, "only pytorch_model.bin", "Pickle")
    (base / "pytorch_model.bin").unlink()
    refused(base, "no weights", "holdfast anatomy")


def test_damage_is_named(base, tmp_path):
    tuned(base, tmp_path / "tuned")
    delta = tmp_path / "tuned" / "delta.safetensors"
    delta.write_bytes(delta.read_bytes()[:-20])
    with pytest.raises(ModelError, match=r"delta\.safetensors cannot be read"):
        holdfast.load(tmp_path / "tuned")
    (tmp_path / "tuned" / "delta.json").write_text("{")
    with pytest.raises(ModelError, match=r"delta\.json is damaged"):
        holdfast.load(tmp_path / "tuned")
    file = base / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ModelError, match="damaged"):
        fingerprint(base)


def test_a_delta_of_another_model_does_not_fit(base, tmp_path):
    tuned(base, tmp_path / "tuned")
    save_file({"model.nothing.weight": torch.zeros(2)}, tmp_path / "tuned" / "delta.safetensors")
    with pytest.raises(ModelError, match=r"no weight 'model\.nothing\.weight'"):
        holdfast.load(tmp_path / "tuned")


def test_an_unfinished_run_has_no_model(tmp_path):
    (tmp_path / "run.yaml").write_text("model: x\n")
    with pytest.raises(ModelError, match="not finished"):
        resolve(str(tmp_path))


def test_delta_json_says_what_it_is(base, tmp_path):
    tuned(base, tmp_path / "tuned", facts={"stages": ["a"]})
    facts = json.loads((tmp_path / "tuned" / "delta.json").read_text())
    assert facts["parameters"] == 2 * 16 * 24
    assert facts["stages"] == ["a"]
    assert facts["base_dtype"] == "float32"


def test_export_takes_a_name_and_refuses_a_file(base, tmp_path):
    model = tuned(base, tmp_path / "tuned")
    holdfast.export(str(tmp_path / "tuned"), str(tmp_path / "full"))
    again, _ = holdfast.load(tmp_path / "full")
    assert torch.equal(model(IDS).logits, again(IDS).logits)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelError, match="is a file or is not empty"):
        holdfast.export(tmp_path / "tuned", tmp_path / "file")


def test_a_processor_that_cannot_be_made_is_a_sentence(base, monkeypatch):
    from transformers import AutoProcessor

    from holdfast.models.loading import load_processor

    def broken(folder, **options):
        raise AttributeError("TokenizersBackend has no attribute boi_token_id")

    monkeypatch.setattr(AutoProcessor, "from_pretrained", broken)
    with pytest.raises(ModelError, match=r"no usable processor.*boi_token_id"):
        load_processor(base)


def test_weights_that_are_missing_or_of_another_shape_are_never_made_up(base):
    file = base / "model.safetensors"
    values = load_file(file)
    kept = values.pop("model.norm.weight")
    save_file(values, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"missing or of another shape \(model.norm.weight\)"):
        holdfast.load(base)
    save_file({**values, "model.norm.weight": kept[:8].clone()}, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"model.norm.weight \(shape \[8\]\)"):
        holdfast.load(base)
