"""A run's files, made in a moment: a language model of a few thousand weights, and data for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LETTERS = "abcdef"
_WORDS = ("<pad>", "<end>", "<user>", "<assistant>", "?", "next", "before", "sorry", *LETTERS)
_CHAT = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


def write_model(folder: Path) -> Path:
    """A Llama of two blocks and width 16, with a tokenizer of a few words and a chat."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(_WORDS), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64,
        pad_token_id=0, eos_token_id=1, bos_token_id=None, initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    words = {word: i for i, word in enumerate(_WORDS)}
    core = Tokenizer(models.WordLevel(words, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(list(_WORDS[:4]))
    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<end>", chat_template=_CHAT
    )
    tokenizer.save_pretrained(folder)
    return folder


def write_skill(file: Path, step: int, n: int = 16) -> Path:
    """Letters, and the one ``step`` places on in the alphabet: ``n`` records."""
    asked = "next" if step > 0 else "before"
    rows = [
        {
            "id": f"{file.stem}-{i}",
            "prompt": f"{asked} {LETTERS[i % len(LETTERS)]}",
            "completion": LETTERS[(i + step) % len(LETTERS)],
        }
        for i in range(n)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file
