"""Our masks against the generation markers that TRL puts into the templates of real models."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from data_tokenizers import byte_level
from test_data_masks import CHAT, SYSTEM, supervised_text

from holdfast.data import Encoder

FAMILIES = {
    "cohere2": "<|END_OF_TURN_TOKEN|>",
    "gemma3": "<end_of_turn>",
    "lfm2": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "qwen2_5_vl": "<|im_end|>",
    "qwen3_instruct_2507": "<|im_end|>",
    "qwen3_vl": "<|im_end|>",
}


def template(name: str) -> str:
    """A template of TRL, read without importing TRL."""
    spec = importlib.util.find_spec("trl")
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    path = folder / "chat_templates" / f"{name}.jinja"
    if not path.is_file():
        pytest.skip(f"TRL or its template {name} is not installed")
    return path.read_text()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("record", [CHAT, SYSTEM], ids=["chat", "system"])
def test_supervised_text_is_what_trl_marks(family, record):
    """But for the line break behind the end-of-turn token, which TRL trains and we do not."""
    original, marked = template(family), template(f"{family}_training")
    special = sorted(set(re.findall(r"<\|?\w+\|?>", original)) - {"<bos>"})
    tokenizer = byte_level(special, bos="<bos>", eos=FAMILIES[family])
    tokenizer.chat_template = original
    ours = supervised_text(tokenizer, Encoder(tokenizer)(record))
    theirs = tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.text} for m in record.messages],
        chat_template=marked,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    ids, mask = theirs["input_ids"], theirs["assistant_masks"]
    labels = [i if m else -100 for i, m in zip(ids, mask, strict=True)]
    text = supervised_text(
        tokenizer, {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}
    )
    assert ours == text.replace("\n»", "»\n")
