from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from probe_models import image_pair, noisy, text_pair, with_offset
from torch import nn

from holdfast.errors import UnknownName, UsageError
from holdfast.probes import (
    SubtractOffset,
    TokenClass,
    answered,
    class_offset,
    classes_of,
    debiased,
    number_tokens,
    read,
    token_bias,
    token_class,
)
from holdfast.probes._offset import matching_offset
from holdfast.probes._reading import Head, Reading
from holdfast.probes._token_bias import class_statistics
from holdfast.tasks import choice_logprobs, generate


class Words:
    """A tokenizer of nothing but a vocabulary."""

    all_special_ids: tuple[int, ...] = ()

    def __init__(self, *tokens: str) -> None:
        self.tokens = tokens

    def get_vocab(self) -> dict[str, int]:
        return {t: i for i, t in enumerate(self.tokens)}

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [self.tokens.index(w) for w in text.split() if w in self.tokens]


def constant(vocabulary: int, ids: list[int], offset: float, positions: int = 5) -> Reading:
    """A reading whose logits are 0, and ``offset`` on ``ids``."""
    head = nn.Linear(4, vocabulary)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
        head.bias[ids] = offset
    return Reading((torch.randn(positions, 4), torch.randn(1, 4)), Head(head))


def test_number_tokens_are_exactly_those_of_the_rule():
    tokens = ("Ġ12", "▁seven", "3rd", "1,000", "²", "٣", "tenth", "often", "12.", "1.2.3", "1.5",
              "<0x31>", "Seven", "stone", "Ġ", "-3", "11th", "1rd")  # fmt: skip
    found = number_tokens(Words(*tokens))
    assert [tokens[i] for i in found.ids] == [
        "Ġ12",
        "▁seven",
        "3rd",
        "1,000",
        "1.5",
        "Seven",
        "11th",
    ]


@pytest.mark.parametrize("offset", [0.0, 2.0, -3.0])
def test_closed_form_of_constant_logits(offset: float):
    vocabulary, ids = 40, [3, 7, 9]
    found = class_statistics(constant(vocabulary, ids, offset), TokenClass("c", tuple(ids)))
    total = 3 * math.exp(offset) + vocabulary - 3
    assert found["max_probability"] == pytest.approx([math.exp(offset) / total] * 2, rel=1e-6)
    assert found["mass"] == pytest.approx([3 * math.exp(offset) / total] * 2, rel=1e-6)
    assert found["max_logit"] == pytest.approx([offset] * 2)


def test_an_empty_reply_is_left_out():
    reading = constant(10, [1], 0.0)
    reading = Reading((torch.zeros(0, 4), *reading.hidden), reading.head)
    found = class_statistics(reading, TokenClass("c", (1,)))
    assert math.isnan(found["mass"][0])
    assert found["mass"][1:] == pytest.approx([0.1, 0.1])


def test_free_running_bias_is_that_of_the_reply_token_by_token():
    """Against generate's own scores: the published way to compute it."""
    base, processor, prompts = text_pair()
    tuned = noisy(base, 0.3)
    result = token_bias(base, tuned, processor, prompts[:1], max_new_tokens=6)
    ids = processor.apply_chat_template(
        [{"role": "user", "content": prompts[0].messages[0].text}],
        add_generation_prompt=True, return_tensors="pt", return_dict=True,
    )  # fmt: skip
    from holdfast.data import Encoder
    from holdfast.tasks.generation import stop_ids

    stops = stop_ids(tuned, Encoder(processor))
    out = tuned.generate(
        **ids, max_new_tokens=6, do_sample=False, return_dict_in_generate=True,
        output_logits=True, eos_token_id=sorted(stops), pad_token_id=0,
    )  # fmt: skip
    chosen = list(number_tokens(processor).ids)
    written = out.sequences[0, ids["input_ids"].shape[1] :].tolist()
    values = [
        float(scores[0].softmax(-1)[chosen].max())
        for scores, token in zip(out.logits, written, strict=True)
        if token not in stops
    ]
    (row,) = result.find("free.max_probability", "tuned")
    assert row.value == pytest.approx(np.mean(values), rel=1e-4)
    assert result["free.length", "tuned"].value == len(values)


def test_a_numeric_bias_raises_the_rows_of_numbers_and_not_of_letters():
    base, processor, prompts = image_pair()
    chosen = number_tokens(processor.tokenizer)
    tuned = with_offset(base, list(chosen.ids), 3.0)
    result = token_bias(
        base, tuned, processor, prompts, classes=("letters",), task_answers=("3", "12"),
        max_new_tokens=4,
    )  # fmt: skip
    rise = {r.token_class: r.value for r in result.find("forced.mass", "change")}
    assert rise["numbers"] > 0.01
    assert rise["letters"] < 0
    assert result.facts["classes"]["numbers"] == chosen.texts(processor.tokenizer)


@pytest.mark.parametrize(
    ("answers", "names"),
    [
        (["A", "B", "(C)", "D."], ["letters"]),
        (["yes", "No", "red", "left", "yes"], ["yes-no"]),
        (["12", "3", "seven", "1,000"], ["numbers"]),
        (["07:35", "11:05"], ["times"]),
        (["There are 14 red.", "There is one blue"], ["numbers"]),
        (["Yes, it is red.", "No."], ["yes-no"]),
        (["red one", "red", "blue", "blue", "blue"], ["answers"]),
        (["red", "red", "blue", "blue", "blue"], ["answers"]),
        (["yes", "no", "4", "5"], ["yes-no", "numbers"]),
    ],
)
def test_classes_are_found_from_answers(answers: list[str], names: list[str]):
    vocabulary = Words("A", "B", "C", "yes", "no", "7", "red", "blue", ":", "seven", "left")
    assert sorted(c.name for c in classes_of(answers, vocabulary)) == sorted(names)


def test_frequent_tokens_are_told_apart_from_the_background():
    vocabulary = Words("red", "blue", "the", "of", *(f"w{i}" for i in range(50)))
    (found,) = classes_of(
        ["the red", "the blue", "the red", "the blue"], vocabulary, background=["the of the"] * 30
    )
    assert found.ids == (0, 1)


def test_wrong_classes_are_refused():
    with pytest.raises(UnknownName, match="did you mean 'numbers'"):
        token_class("number", Words("1"))
    with pytest.raises(UsageError, match="no token of the class"):
        token_class("letters", Words("1"))
    with pytest.raises(UsageError, match="there are none"):
        classes_of([], Words("1"))


def test_a_class_that_the_vocabulary_splits_is_learned_instead():
    (found,) = classes_of(["yes", "no", "yes", "no"], Spelled("y", "e", "s", "n", "o"))
    assert found.name == "answers"
    with pytest.raises(UsageError, match="none of the 2 tokens"):
        TokenClass("c", (7, 8)).within(5)


class Spelled(Words):
    """One token per letter."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [self.tokens.index(c) for c in text]


@pytest.mark.parametrize("make", [text_pair, image_pair])
@pytest.mark.parametrize("offset", [1.7, -2.5])
def test_a_planted_offset_is_recovered_and_taken_back(make: Any, offset: float):
    base, processor, prompts = make()
    tokenizer = getattr(processor, "tokenizer", processor)
    chosen = number_tokens(tokenizer)
    tuned = with_offset(base, list(chosen.ids), offset)
    fixed = answered(base, processor, prompts)
    found = class_offset(base, tuned, fixed, chosen)
    assert found.offset.value == pytest.approx(offset, abs=1e-4)
    assert found.offset.low == pytest.approx(offset, abs=1e-4)
    assert found.offset.high == pytest.approx(offset, abs=1e-4)
    assert found.kl_before > 1e-4
    assert found.kl_after == pytest.approx(0, abs=1e-7)
    assert found.explained == pytest.approx(1, abs=1e-3)
    asked = [p.prompt() for p in prompts]
    with debiased(tuned, {chosen: found.offset.value}):
        again = generate(tuned, processor, asked, max_new_tokens=6)
        likely = choice_logprobs(tuned, processor, asked, [("red", "seven")] * 3)
    assert again == generate(base, processor, asked, max_new_tokens=6)
    expected = choice_logprobs(base, processor, asked, [("red", "seven")] * 3)
    assert np.array(likely) == pytest.approx(np.array(expected), abs=1e-3)
    scores = torch.randn(2, len(tokenizer))
    moved = scores.clone()
    moved[:, list(chosen.ids)] += offset
    assert torch.allclose(SubtractOffset({chosen: offset})(None, moved), scores, atol=1e-6)


def test_an_offset_of_nothing_is_exactly_zero():
    base, processor, prompts = text_pair()
    found = class_offset(base, base, answered(base, processor, prompts), number_tokens(processor))
    assert (found.offset.value, found.offset.low, found.offset.high) == (0.0, 0.0, 0.0)
    assert found.kl_before == found.kl_after == 0.0
    assert math.isnan(found.explained)


def test_the_matching_offset_minimises_the_divergence():
    """The condition it solves is that of the minimum of KL: seen on a grid."""
    base, processor, prompts = text_pair()
    tuned, chosen = noisy(base, 0.2), number_tokens(processor)
    fixed = answered(base, processor, prompts)
    found = class_offset(base, tuned, fixed, chosen)
    before, after = read(base, fixed), read(tuned, fixed)

    def kl(b: float) -> float:
        total = 0.0
        for i in range(len(fixed)):
            p = torch.cat(list(before.logits(i))).log_softmax(-1)
            logits = torch.cat(list(after.logits(i)))
            logits[:, list(chosen.ids)] -= b
            total += float((p.exp() * (p - logits.log_softmax(-1))).sum())
        return total / sum(fixed.counts)

    best = found.offset.value
    assert found.kl_after == pytest.approx(kl(best), rel=1e-5)
    assert kl(best) < min(kl(best - 0.05), kl(best + 0.05))


def test_matching_offset_at_the_edges_of_probability():
    """Masses next to 0 and next to 1, where one of the two is rounded to nothing."""
    for level in (-60.0, 60.0):
        odds_base = np.array([level, level - 1])
        found = matching_offset(odds_base + 1.25, odds_base, np.ones((1, 2)))
        assert found == pytest.approx([1.25], abs=1e-9)
