"""The models that ship: small, loadable by transformers alone, and able to do what they should."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from holdfast import lab
from holdfast.data.records import Record

WEIGHTS = Path(lab.__file__).parent / "weights"
LIMIT = 12 * 2**20


def loaded(name: str) -> tuple[Any, Any]:
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoProcessor,
        AutoTokenizer,
    )

    folder = lab.path(name)
    if name == "lab:lm":
        return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    return model, AutoProcessor.from_pretrained(folder)


def replies(model: Any, processor: Any, records: Sequence[Record]) -> list[str]:
    """Greedy replies to all records in one padded batch."""
    tokenizer = getattr(processor, "tokenizer", processor)
    texts, images = [], []
    for record in records:
        content: list[dict[str, object]] = []
        for part in record.messages[0].parts:
            content.append(
                {"type": "image"} if part.kind == "image" else {"type": "text", "text": part.text}
            )
        chat = [{"role": "user", "content": content}]
        texts.append(
            processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        )
        images += [Image.open(io.BytesIO(image.data or b"")) for image in record.images]
    kwargs = {"images": images} if images else {}
    batch = processor(text=texts, padding=True, return_tensors="pt", **kwargs)
    batch.pop("token_type_ids", None)
    with torch.no_grad():
        out = model.generate(**batch, max_new_tokens=8, do_sample=False)
    answers = out[:, batch["input_ids"].shape[1] :]
    return [tokenizer.decode(ids, skip_special_tokens=True) for ids in answers]


def accuracy(model: Any, processor: Any, name: str, n: int) -> float:
    records = lab.records(name, "test", n)
    said = replies(model, processor, records)
    return sum(a == r.answer() for a, r in zip(said, records, strict=True)) / n


def test_all_files_together_are_small() -> None:
    assert sum(f.stat().st_size for f in WEIGHTS.rglob("*") if f.is_file()) < LIMIT


@pytest.mark.parametrize("name", list(lab.models()))
def test_card_says_what_the_suite_is(name: str) -> None:
    card = json.loads((lab.path(name) / "lab.json").read_text())
    assert card["model"] == name
    assert card["held_out"] == lab.suite("lab:held-out", lab.path(name))


@pytest.mark.parametrize("name", list(lab.models()))
def test_base_knows_the_suite_and_not_the_targets(name: str) -> None:
    torch.set_num_threads(1)
    model, processor = loaded(name)
    assert model.dtype == torch.float32
    held_out = [accuracy(model, processor, t, 20) for t in lab.suite("lab:held-out", name)]
    assert sum(held_out) / len(held_out) > 0.85
    targets = [accuracy(model, processor, t, 20) for t in lab.suite("lab:targets", name)]
    assert sum(targets) / len(targets) < 0.25


def test_any_size_and_mode_of_picture_is_taken() -> None:
    model, processor = loaded("lab:vlm")
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}],
        add_generation_prompt=True,
    )
    for mode, size in (("L", (300, 200)), ("RGBA", (17, 90)), ("P", (48, 48))):
        batch = processor(text=[text], images=[Image.new(mode, size)], return_tensors="pt")
        assert batch["pixel_values"].shape == (1, 3, 48, 48)
        assert torch.isfinite(model(**batch).logits).all()
