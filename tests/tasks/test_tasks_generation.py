"""Batched generation gives what transformers' own gives for one prompt at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from task_models import asking, image, make_llama, make_tokenizer
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, GenerationConfig

from holdfast.data import Encoder, Record
from holdfast.errors import DataError
from holdfast.tasks import generate
from holdfast.tasks.generation import stop_ids

TEXTS = ["what is this", "no", "the colour of this bird is red " * 5, "A B C D", "yes yes", "is"]


def questions() -> list[Record]:
    return [asking(text, str(i)) for i, text in enumerate(TEXTS)]


def one_at_a_time(model: Any, processor: Any, prompts: list[Record], new: int) -> list[str]:
    encoder = Encoder(processor)
    stops = sorted(stop_ids(model, encoder))
    replies = []
    model.eval()
    for prompt in prompts:
        features = {
            k: v[None] if k in ("input_ids", "attention_mask") else v
            for k, v in encoder.encode_prompt(prompt).items()
        }
        config = GenerationConfig(
            max_new_tokens=new, do_sample=False, eos_token_id=stops, pad_token_id=0
        )
        out = model.generate(**features, generation_config=config)
        ids = out[0, features["input_ids"].shape[1] :]
        replies.append(encoder.tokenizer.decode(ids, skip_special_tokens=True))
    return replies


@pytest.mark.parametrize("size", [1, 2, 6, "auto"])
def test_text_replies_do_not_depend_on_the_batch(llama: Any, tokenizer: Any, size: Any) -> None:
    expected = one_at_a_time(llama, tokenizer, questions(), 12)
    assert len(set(expected)) > 3, "the replies must differ for the test to mean anything"
    assert generate(llama, tokenizer, questions(), max_new_tokens=12, batch_size=size) == expected


def test_replies_stop_at_the_templates_end_of_turn(llama: Any, tokenizer: Any) -> None:
    """A model that writes a word, its end-of-turn token and another word has said one word."""
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert end != llama.generation_config.eos_token_id
    assert stop_ids(llama, Encoder(tokenizer)) == {end, tokenizer.eos_token_id}
    plain = make_tokenizer(chat=False)
    assert stop_ids(llama, Encoder(plain)) == {plain.eos_token_id}
    red, blue = (tokenizer.encode(word, add_special_tokens=False)[0] for word in (" red", " blue"))
    llama.lm_head = _Script([red, end, blue, blue], llama.config.vocab_size)
    assert generate(llama, tokenizer, questions()[:2], max_new_tokens=4, batch_size=2) == [
        " red",
        " red",
    ]
    assert llama.lm_head.step <= 2, "it is not asked to go on"


class _Script(torch.nn.Module):
    """A head that writes the same tokens whatever it is shown."""

    def __init__(self, tokens: list[int], vocabulary: int) -> None:
        super().__init__()
        self.tokens, self.vocabulary, self.step = tokens, vocabulary, 0

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        scores = hidden.new_zeros(*hidden.shape[:-1], self.vocabulary)
        scores[..., self.tokens[self.step]] = 1
        self.step += 1
        return scores


def test_the_models_own_settings_do_not_change_decoding_and_are_kept(
    llama: Any, tokenizer: Any
) -> None:
    expected = one_at_a_time(llama, tokenizer, questions(), 10)
    own = GenerationConfig(
        do_sample=True,
        temperature=3.0,
        repetition_penalty=5.0,
        no_repeat_ngram_size=1,
        max_length=5,
        eos_token_id=1,
    )
    llama.generation_config = own
    llama.train()
    assert generate(llama, tokenizer, questions(), max_new_tokens=10, batch_size=3) == expected
    assert llama.generation_config is own
    assert llama.training


def test_pictures_are_read_once_and_belong_to_their_prompt(
    llava: Any, llava_processor: Any
) -> None:
    red, green = image((255, 0, 0)), image((0, 255, 0))
    prompts = [
        asking("what is this", "a", (red,)),
        asking("no", "b"),
        asking("the colour of this bird is red " * 4, "c", (green,)),
        asking("A B", "d", (green, red)),
        asking("what is this", "e", (green,)),
    ]
    expected = one_at_a_time(llava, llava_processor, prompts, 10)
    assert expected[0] != expected[4], "the picture must matter for the test to mean anything"
    for size in (2, 5):
        got = generate(llava, llava_processor, prompts, max_new_tokens=10, batch_size=size)
        assert got == expected


def test_sliding_windows_do_not_see_the_padding(tokenizer: Any) -> None:
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    model = Gemma3ForCausalLM(config).float()
    expected = one_at_a_time(model, tokenizer, questions(), 10)
    assert generate(model, tokenizer, questions(), max_new_tokens=10, batch_size=6) == expected


def test_memory_that_runs_out_changes_nothing_but_the_batches(
    llama: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = one_at_a_time(llama, tokenizer, questions(), 6)
    inner, sizes = llama.generate, []

    def small(**batch: Any) -> Any:
        sizes.append(len(batch["input_ids"]))
        if sizes[-1] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inner(**batch)

    monkeypatch.setattr(llama, "generate", small)
    assert generate(llama, tokenizer, questions(), max_new_tokens=6, batch_size=6) == expected
    assert sizes[:3] == [6, 3, 1], "halved until it fits"
    assert 6 <= sum(n == 1 for n in sizes) <= 12
    assert max(sizes[2:]) <= 3, "shorter prompts may be tried together, as many as had the room"


def test_a_prompt_that_does_not_fit_is_named(tokenizer: Any) -> None:
    model = make_llama(len(tokenizer), max_position_embeddings=32)
    with pytest.raises(DataError, match=r"'2' has .* does not fit in the 32 positions"):
        generate(model, tokenizer, questions(), max_new_tokens=4)
