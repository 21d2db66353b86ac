"""Pre-training: the packed rows say what single rows say, and a build repeats itself."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from holdfast import lab
from holdfast.errors import UnknownName
from holdfast.lab import architecture, build, corpus, seeing
from holdfast.lab.packing import Row, pack, token_losses
from holdfast.lab.tokenizer import Codec, train_tokenizer

QUESTIONS = (("What colour is it?", "red"), ("Is it a red ring?", "yes"), ("Where is it?", "top"))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(corpus.texts("vlm", 0))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    for table in (architecture._TEXT, architecture._VISION):
        for key, value in {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
        }.items():
            monkeypatch.setitem(table, key, value)
    monkeypatch.setitem(architecture._VISION, "num_attention_heads", 2)
    monkeypatch.setattr(corpus, "BANK", {"scenes": 12})
    monkeypatch.setattr(corpus, "BANK_SIZE", 12)
    monkeypatch.setattr(corpus, "SCENES", 2)
    monkeypatch.setattr(corpus, "SHARES", {"vlm": {}, "lm": {}})
    monkeypatch.setattr(corpus, "SHARE", 1)
    monkeypatch.setattr(seeing, "STEPS", 2)
    monkeypatch.setattr(build, "SEEING_STEPS", 2)
    monkeypatch.setattr(seeing, "_BANK", 12)
    monkeypatch.setattr(seeing, "BATCH", {"scenes": 6, "letter": 2, "digits": 2, "level": 2})


def test_digits_and_lone_capitals_are_tokens_of_their_own(tokenizer: Any) -> None:
    assert tokenizer.tokenize("07:35") == ["0", "7", ":", "3", "5"]
    assert tokenizer.tokenize("QXB") == ["Q", "X", "B"]
    assert tokenizer.tokenize("\nB fox") == ["Ċ", "B", "Ġfox"]


@pytest.mark.parametrize(
    "text", ["Ünïcode 漢字 🎉", "tab\t and\x00 nul", "a  b\r\n", "<|end|>", "٣²½", "\u202eleft"]
)
def test_tokenizer_spells_any_text(tokenizer: Any, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text


def test_template_marks_the_answer_and_its_end(tokenizer: Any) -> None:
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "red"}]
    done = tokenizer.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    marked = [i for i, m in zip(done["input_ids"], done["assistant_masks"], strict=True) if m]
    assert tokenizer.decode(marked) == "red<|end|>"


def test_branches_cost_what_rows_of_their_own_cost(tokenizer: Any, tiny: None) -> None:
    """One picture with three questions, against the processor and the model on each alone."""
    torch.manual_seed(0)
    model = architecture.make_model("vlm", tokenizer).eval()
    processor = architecture.make_processor("vlm", tokenizer)
    data = lab.records("lab:colour", "train", 1)[0].images[0].data
    assert data is not None
    image = Image.open(io.BytesIO(data))
    codec = Codec(tokenizer, 36)
    row = Row(np.asarray(image), tuple(codec.branch(*asked) for asked in QUESTIONS))
    other = Row(np.asarray(image.rotate(90)), row.branches[:1])
    with torch.no_grad():
        packed = pack([other, row], codec)
        losses, _ = token_losses(model, packed)
        for i, (question, answer) in enumerate(QUESTIONS):
            alone = _loss_alone(model, processor, image, question, answer)
            torch.testing.assert_close(losses[packed.answer == i + 1], alone)


def _loss_alone(model: Any, processor: Any, image: Any, question: str, answer: str) -> torch.Tensor:
    user = [{"type": "image"}, {"type": "text", "text": question}]
    chat = [{"role": "user", "content": user}]
    prompt = processor.apply_chat_template(chat, add_generation_prompt=True)
    chat.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    whole = processor.apply_chat_template(chat)
    start = processor(text=[prompt], images=[image], return_tensors="pt")["input_ids"].shape[1]
    inputs = processor(text=[whole], images=[image], return_tensors="pt")
    logits = model(**inputs).logits[0, start - 1 : -1]
    wanted = inputs["input_ids"][0, start:]
    return torch.nn.functional.cross_entropy(logits, wanted, reduction="none")


@pytest.mark.parametrize("which", ["vlm", "lm"])
def test_build_repeats_itself_and_loads_as_float32(which: str, tiny: None, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    told: list[tuple[int, int]] = []
    for out in ("a", "b"):
        build.build(
            which,
            tmp_path / out,
            5,
            steps=2,
            progress=lambda step, steps, _: told.append((step, steps)),
        )
    first, second = (tmp_path / out / "model.safetensors" for out in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    steps = 4 if which == "vlm" else 2
    assert told == 2 * [(i + 1, steps) for i in range(steps)]
    loader = AutoModelForImageTextToText if which == "vlm" else AutoModelForCausalLM
    assert loader.from_pretrained(tmp_path / "a").dtype == torch.float32
    assert lab.suite("lab:held-out", tmp_path / "a") == lab.suite("lab:held-out", f"lab:{which}")


def test_building_a_stranger_says_what_exists(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="vlm"):
        build.build("vml", tmp_path)


def test_training_batches_hold_no_test_picture(tokenizer: Any, tiny: None) -> None:
    tested = {
        np.asarray(Image.open(io.BytesIO(r.images[0].data or b""))).tobytes()
        for name in lab.suite("lab:held-out", "lab:vlm")
        for r in lab.records(name, "test", 40)
        if r.images
    }
    packed = next(corpus.batches("vlm", Codec(tokenizer, 36), 0))
    pictures = [p for group in packed if group.pixel_values is not None for p in group.pixel_values]
    assert len(pictures) == 5
    for picture in pictures:
        bytes_ = ((picture.permute(1, 2, 0) + 1) * 127.5).round().to(torch.uint8).numpy().tobytes()
        assert bytes_ not in tested
