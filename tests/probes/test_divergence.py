from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from probe_models import QUESTIONS, image_pair, noisy, text_pair
from task_models import asking, make_llama, make_tokenizer
from torch import Tensor

from holdfast.data import Record, say
from holdfast.errors import ModelError, UsageError
from holdfast.probes import _reading, answered, contexts, divergence, read, replied
from holdfast.probes._divergence import divergences


def slow(base: Any, tuned: Any, fixed: Any) -> dict[str, float]:
    """The same, one example and one position at a time, in double precision."""
    sums: dict[str, float] = {}
    count = 0
    for one in fixed.encoded:
        inputs = {k: v[None] for k, v in one.items() if k not in ("labels", "pixel_values")}
        inputs |= {k: v for k, v in one.items() if k == "pixel_values"}
        with torch.no_grad():
            z = [m(**inputs).logits[0].double() for m in (base, tuned)]
        for t in range(len(one["input_ids"]) - 1):
            if one["labels"][t + 1] == -100:
                continue
            p, q = (logits[t].softmax(-1).tolist() for logits in z)
            count += 1
            m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
            values = {
                "forward_kl": kl(p, q),
                "reverse_kl": kl(q, p),
                "js": 0.5 * kl(p, m) + 0.5 * kl(q, m),
                "top1_agreement": float(p.index(max(p)) == q.index(max(q))),
                "entropy": sum(-b * math.log(b) for b in q) - sum(-a * math.log(a) for a in p),
            }
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value
    return {name: value / count for name, value in sums.items()}


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("make", [text_pair, image_pair])
def test_against_a_slow_loop(make: Any):
    base, processor, prompts = make()
    tuned = noisy(base, 0.3)
    result = divergence(base, tuned, processor, prompts, lengths=False)
    expected = slow(base, tuned, answered(base, processor, prompts))
    for name, value in expected.items():
        side = "change" if name == "entropy" else "pair"
        assert result[name, side].value == pytest.approx(value, rel=1e-4), name
    low, high = result["forward_kl"].low, result["forward_kl"].high
    assert low < result["forward_kl"].value < high


def test_positions_are_those_that_predict_the_answer_and_its_end():
    base, processor, prompts = text_pair()
    fixed = contexts(base, processor, prompts)
    (end,) = [i for i in fixed.stops if processor.decode([i]) == "<|end|>"]
    for i, (one, prompt) in enumerate(zip(fixed.encoded, prompts, strict=True)):
        at = torch.nonzero(fixed.positions(i))[:, 0]
        predicted = one["input_ids"][at + 1].tolist()
        assert processor.decode(predicted[:-1]) == prompt.answer()
        assert predicted[-1] == end
        assert processor.decode(one["input_ids"][: at[0] + 1].tolist()).endswith("<|assistant|>")
    assert sum(fixed.without_end().counts) == sum(fixed.counts) - len(prompts)


def test_prompts_without_answers_use_the_base_models_replies():
    base, processor, prompts = image_pair()
    asked = [p.prompt() for p in prompts]
    result = divergence(base, noisy(base), processor, asked, max_new_tokens=5)
    own = replied(base, processor, asked, max_new_tokens=5)
    assert result.facts["answers"] == "the base model's greedy replies"
    assert result.facts["positions"] == sum(own.counts)
    assert result["length", "base"].value == sum(own.without_end().counts) / len(asked)
    # each token is the base's own first choice
    reading = read(base, own)
    for i, one in enumerate(own.encoded):
        chosen = torch.cat(list(reading.logits(i))).argmax(-1)
        assert chosen.tolist() == one["labels"][one["labels"] != -100].tolist()


def test_chunks_of_one_position_give_the_same(monkeypatch: pytest.MonkeyPatch):
    base, processor, prompts = text_pair()
    tuned = noisy(base)
    whole = divergence(base, tuned, processor, prompts, lengths=False)
    sizes: list[int] = []
    call = _reading.Head.__call__

    def watched(head: Any, hidden: Tensor) -> Tensor:
        sizes.append(len(hidden))
        return call(head, hidden)

    monkeypatch.setattr(_reading, "CHUNK", 1)
    monkeypatch.setattr(_reading.Head, "__call__", watched)
    parts = divergence(base, tuned, processor, prompts, lengths=False)
    assert set(sizes) == {1}
    assert [r.value for r in parts.rows] == pytest.approx([r.value for r in whole.rows], rel=1e-5)


def test_tokens_that_are_ruled_out_add_nothing():
    z = torch.tensor([[0.0, 1.0, -math.inf]])
    same = divergences(z, z)[:, 0].tolist()
    assert same[:4] == [0.0, 0.0, 0.0, 1.0]
    assert same[4] == same[5] == pytest.approx(0.5822, abs=1e-4)
    apart = divergences(torch.tensor([[0.0, -math.inf]]), torch.tensor([[-math.inf, 0.0]]))[:, 0]
    assert apart[:4].tolist() == pytest.approx([math.inf, math.inf, math.log(2), 0.0])


def family(kind: str, vocabulary: int) -> Any:
    """Models that do something to the logits behind their head."""
    import transformers as t

    small = {
        "vocab_size": vocabulary, "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "head_dim": 8, "initializer_range": 0.5, "eos_token_id": 1, "bos_token_id": None,
        "pad_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(0)
    if kind == "gemma2":
        return t.Gemma2ForCausalLM(t.Gemma2Config(**small, final_logit_softcapping=3.0)).eval()
    if kind == "cohere":
        return t.CohereForCausalLM(t.CohereConfig(**small, logit_scale=0.3)).eval()
    if kind == "granite":
        return t.GraniteForCausalLM(t.GraniteConfig(**small, logits_scaling=7.0)).eval()
    small = {"vocab_size": vocabulary, "n_embd": 16, "n_layer": 2, "n_head": 2}
    return t.GPT2LMHeadModel(t.GPT2Config(**small, initializer_range=0.5, eos_token_id=1)).eval()


@pytest.mark.parametrize("kind", ["gemma2", "cohere", "granite", "gpt2"])
def test_logits_are_the_models_own_whatever_it_does_behind_its_head(kind: str):
    tokenizer = make_tokenizer(chat=False)
    base = family(kind, len(tokenizer))
    prompts = [
        Record((say("user", q + " "), say("assistant", a)), id=q)
        for q, a in zip(QUESTIONS, ("red", "seven", "A B"), strict=True)
    ]
    tuned = noisy(base, 0.3)
    result = divergence(base, tuned, tokenizer, prompts, lengths=False)
    expected = slow(base, tuned, answered(base, tokenizer, prompts))
    assert result["forward_kl"].value == pytest.approx(expected["forward_kl"], rel=1e-4)
    assert result["reverse_kl"].value == pytest.approx(expected["reverse_kl"], rel=1e-4)


def test_an_unknown_step_behind_the_head_is_refused():
    base, processor, prompts = text_pair()

    def square(_: Any, inputs: Any, output: Any) -> Any:
        output.logits = output.logits**2
        return output

    base.register_forward_hook(square)
    with pytest.raises(ModelError, match="in a way that is not known"):
        read(base, answered(base, processor, prompts))


def test_other_vocabularies_and_mixed_prompts_are_refused():
    base, processor, prompts = text_pair()
    with pytest.raises(UsageError, match=r"312 different tokens and the tuned model 320"):
        divergence(base, make_llama(320), processor, prompts)
    with pytest.raises(UsageError, match="some prompts end with an answer"):
        divergence(base, base, processor, [*prompts, asking("what")])
    with pytest.raises(UsageError, match="no prompts"):
        divergence(base, base, processor, [])
