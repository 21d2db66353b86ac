"""Shared-prefix scoring against a plain forward over each whole sequence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from task_models import asking, image, make_llama
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    MambaConfig,
    MistralConfig,
    OPTConfig,
)

from holdfast.data import Encoder, Record
from holdfast.errors import DataError
from holdfast.tasks import choice_logprobs
from holdfast.tasks.likelihood import _Reader, continuations, score_continuations

TEXTS = ["what is this", "no", "the colour of this bird is red " * 5, "A B C D ", "yes yes"]
CHOICES = ["red", "green bird", "A B C D yes", "red", " seven fourteen", "x"]


def questions() -> list[Record]:
    return [asking(text, str(i)) for i, text in enumerate(TEXTS)]


def naive(model: Any, processor: Any, prompts: list[Record], choices: list[str]) -> torch.Tensor:
    """Sum of log-softmax over the choice's tokens of prompt + choice, written as one text."""
    encoder = Encoder(processor)
    model.eval()
    rows = []
    for prompt in prompts:
        text = encoder.conversation.prompt(prompt)
        _, tails = continuations(encoder, prompt, choices)
        row = []
        for choice, tail in zip(choices, tails, strict=True):
            ids = encoder.tokenizer.encode(text + choice, add_special_tokens=False)
            n = len(tail)
            assert tuple(ids[-n:]) == tail
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids])).logits[0]
            logp = logits.log_softmax(-1)[-n - 1 : -1]
            row.append(float(logp.gather(1, torch.tensor(tail)[:, None]).sum()))
        rows.append(row)
    return torch.tensor(rows)


def tiny(vocab: int, name: str) -> Any:
    torch.manual_seed(1)
    core: dict[str, Any] = {
        "vocab_size": vocab,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "initializer_range": 0.3,
        "bos_token_id": 1,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    few = core | {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8}
    gpt2 = {"vocab_size": vocab, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3}
    opt = {"ffn_dim": 48, "init_std": 0.3, "word_embed_proj_dim": 32}
    configs = {
        "mistral": lambda: MistralConfig(**few),
        "gemma3": lambda: Gemma3TextConfig(**few, query_pre_attn_scalar=8),
        "gpt2": lambda: GPT2Config(**gpt2),
        "neox": lambda: GPTNeoXConfig(**core),
        "opt": lambda: OPTConfig(**core | opt),
        "bloom": lambda: BloomConfig(**core, n_layer=2, n_head=4),
        "mamba": lambda: MambaConfig(**core, state_size=4),
    }
    return AutoModelForCausalLM.from_config(configs[name]()).float()


def assert_close(got: list[tuple[float, ...]], expected: torch.Tensor) -> None:
    assert torch.allclose(torch.tensor(got), expected, rtol=0, atol=3e-5)


@pytest.mark.parametrize("size", [1, 2, 5, "auto"])
@pytest.mark.parametrize("chat", [True, False])
def test_llama(request: pytest.FixtureRequest, size: Any, chat: bool) -> None:
    tokenizer = request.getfixturevalue("tokenizer" if chat else "plain_tokenizer")
    model = make_llama(len(tokenizer), initializer_range=0.2)
    expected = naive(model, tokenizer, questions(), CHOICES)
    got = choice_logprobs(model, tokenizer, questions(), [CHOICES] * 5, batch_size=size)
    assert torch.allclose(torch.tensor(got), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["mistral", "gemma3", "gpt2", "neox", "opt", "bloom", "mamba"])
def test_other_families(tokenizer: Any, name: str) -> None:
    model = tiny(len(tokenizer), name)
    expected = naive(model, tokenizer, questions(), CHOICES)
    got = choice_logprobs(model, tokenizer, questions(), [CHOICES] * 5, batch_size=3)
    assert_close(got, expected)
    assert _Reader(model, 0).shares == (name not in ("bloom", "mamba"))


def test_reading_whole_sequences_gives_the_same_numbers(
    llama: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = choice_logprobs(llama, tokenizer, questions(), [CHOICES] * 5, batch_size=4)
    monkeypatch.setattr("holdfast.tasks.likelihood.is_plain", lambda cache: False)
    whole = choice_logprobs(llama, tokenizer, questions(), [CHOICES] * 5, batch_size=4)
    assert_close(shared, torch.tensor(whole))


def test_pictures(llava: Any, llava_processor: Any) -> None:
    """Against whole sequences, which read the picture anew for every choice."""
    red, green = image((255, 0, 0)), image((0, 255, 0))
    prompts = [
        asking("what is this", "a", (red,)),
        asking("what is this", "b", (green,)),
        asking("no", "c"),
        asking("A B", "d", (green, red)),
    ]
    got = choice_logprobs(llava, llava_processor, prompts, [CHOICES] * 4, batch_size=4)
    assert got[0] != got[1]
    encoder = Encoder(llava_processor)
    llava.eval()
    for prompt, row in zip(prompts, got, strict=True):
        features = encoder.encode_prompt(prompt)
        _, tails = continuations(encoder, prompt, CHOICES)
        for tail, value in zip(tails, row, strict=True):
            ids = torch.cat([features["input_ids"], torch.tensor(tail)])[None]
            images = {k: v for k, v in features.items() if k == "pixel_values"}
            with torch.no_grad():
                logits = llava(input_ids=ids, **images).logits[0]
            logp = logits.log_softmax(-1)[-len(tail) - 1 : -1]
            assert value == pytest.approx(
                float(logp.gather(1, torch.tensor(tail)[:, None]).sum()), abs=3e-5
            )


def test_forwards_are_no_more_than_the_shared_prefix_needs(llama: Any, tokenizer: Any) -> None:
    shapes: list[tuple[int, ...]] = []
    llama.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    letters = ["A", "B", "C", "D"]
    lengths = {len(t) for t in continuations(Encoder(tokenizer), questions()[0], letters)[1]}
    assert lengths == {1}
    choice_logprobs(llama, tokenizer, questions()[:1], [letters])
    assert len(shapes) == 1, "letters are read off the prompt's last position"
    shapes.clear()
    many = ["red bird", "red bird", "blue bird", "green"]
    _, tails = continuations(Encoder(tokenizer), questions()[0], many)
    choice_logprobs(llama, tokenizer, questions()[:1], [many])  # tries branches: not counted
    shapes.clear()
    choice_logprobs(llama, tokenizer, questions()[:1], [many])
    assert len(shapes) == 1, "a prompt and its choices are one row"
    prompt = len(Encoder(tokenizer).encode_prompt(questions()[0])["input_ids"])
    cut = continuations(Encoder(tokenizer), questions()[0], many)[0]
    wanted = prompt - cut + sum(len(t) - 1 for t in set(tails))
    assert shapes[0] == (1, wanted), "equal choices are read once, and no last token"


def test_tokens_that_merge_over_the_boundary_are_scored_together(plain_tokenizer: Any) -> None:
    """'the colour ' + 'red' is tokenized as 'the colour' + ' red', as it was in training."""
    encoder = Encoder(plain_tokenizer)
    cut, tails = continuations(encoder, asking("the colour "), ["red", "blue"])
    assert cut == 1
    assert [plain_tokenizer.decode(t) for t in tails] == [" red", " blue"]
    cut, tails = continuations(encoder, asking("the colour"), [" red", " blue"])
    assert cut == 0
    assert [plain_tokenizer.decode(t) for t in tails] == [" red", " blue"]


def test_greedy_says_whether_the_model_would_write_it(llama: Any) -> None:
    llama.eval()
    ids = torch.tensor([7, 8, 9, 10])
    with torch.no_grad():
        out = ids.tolist()
        for _ in range(3):
            out.append(int(llama(torch.tensor([out])).logits[0, -1].argmax()))
    best = tuple(out[4:])
    other = (*best[:-1], (best[-1] + 1) % 100)
    features = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    row = score_continuations(
        llama, lambda i: features, [4], [[best, other, best[:1], other[-1:]]], pad_id=0
    )[0]
    assert [s.greedy for s in row] == [True, False, True, best[0] == other[-1]]


def test_memory_that_runs_out_changes_nothing(llama: Any, tokenizer: Any) -> None:
    expected = choice_logprobs(llama, tokenizer, questions(), [CHOICES] * 5, batch_size=5)
    rows: list[int] = []

    def small(_: Any, args: Any, kwargs: Any) -> None:
        rows.append(len(kwargs["input_ids"]))
        if rows[-1] > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    hook = llama.register_forward_pre_hook(small, with_kwargs=True)
    got = choice_logprobs(llama, tokenizer, questions(), [CHOICES] * 5, batch_size=5)
    hook.remove()
    assert max(rows) > 2
    assert_close(got, torch.tensor(expected))


def test_a_choice_without_a_token_is_refused(llama: Any, tokenizer: Any) -> None:
    with pytest.raises(DataError, match="the choice '' adds no token"):
        choice_logprobs(llama, tokenizer, questions()[:1], [["red", ""]])


@pytest.mark.parametrize("name", ["llama", "gpt2", "neox", "mistral"])
def test_a_header_that_prompts_share_is_read_once(tokenizer: Any, name: str) -> None:
    """Few-shot prompts: the same numbers as whole sequences, in fewer tokens."""
    model = make_llama(len(tokenizer)) if name == "llama" else tiny(len(tokenizer), name)
    header = "the colour of this bird is red. what is the colour of this bird yes. " * 3
    prompts = [asking(header + text, str(i)) for i, text in enumerate(TEXTS)]
    expected = naive(model, tokenizer, prompts, CHOICES)
    seen: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    found = choice_logprobs(model, tokenizer, prompts, [CHOICES] * 5, batch_size=5)
    assert_close(found, expected)
    length = len(Encoder(tokenizer).encode_prompt(prompts[1])["input_ids"])
    if name == "mistral":  # its window would see the empty columns
        assert (5, length) < max(seen), "read whole"
    else:
        assert seen[0][0] == 1
        assert seen[0][1] > 20
        assert seen[1][0] == 5
        assert seen[1][1] < length, "the prompts are read without the header"
