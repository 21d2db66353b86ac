"""A language model of a few thousand weights and data for it, made in a moment."""

import json

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = [*"abcdefghijklmnopqrstuvwxyz0123456789", "next", "before", "?"]
CHAT = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


def make_tokenizer():
    special = ["<pad>", "<end>", "<user>", "<assistant>", "<system>"]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<end>", chat_template=CHAT
    )


def make_model(folder, *, layers=2, width=16, positions=64):
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_data(file, question, *, n=24):
    """Letters and what stands beside them in the alphabet."""
    step = {"next": 1, "before": -1}[question]
    rows = [
        {
            "id": f"{question}-{i}",
            "prompt": f"{question} {WORDS[i % 26]}",
            "completion": WORDS[(i + step) % 26],
        }
        for i in range(n)
    ]
    file.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return file


def make_world(folder):
    """A model, two skills and one held-out task; the ``values`` of a run's configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    model = make_model(folder / "tiny")
    skills = [make_data(folder / f"{q}.jsonl", q) for q in ("next", "before")]
    held_out = make_data(folder / "other.jsonl", "next", n=12)
    return {
        "model": str(model),
        "data": [str(skill) for skill in skills],
        "methods": ["mlp", "lwf"],
        "tasks": [f"{held_out}:scorer=exact"],
        "train": {"learning_rate": 1e-2, "steps": 8, "batch_size": 4, "save_every": 2},
    }
