"""Pairs that differ by nothing, or by so little that nobody should report it.

Every seed is a model of its own (a tiny Llama with random weights, right on about half of its
questions, so that answers flip either way) and questions of its own. All seeds, with a table:

    pytest tests/changes/test_nothing_at_all.py -m slow -s
"""

from __future__ import annotations

import copy
import functools
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from holdfast.changes.compare import NOISE_ROWS, Comparison, compare_answers
from holdfast.data.records import Record, say
from holdfast.tasks import Example, Task, TaskResult, evaluate

sys.path.append(str(Path(__file__).parents[1] / "e2e"))
from tiny_world import WORDS, make_tokenizer

SEEDS, FEW = 100, 3
N = 400
JITTER = 0.004
"""Noise on each weight, as a share of its tensor's spread: one answer in 300 flips."""


@functools.cache
def tokenizer() -> Any:
    return make_tokenizer()


def model(seed: int) -> Any:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer()), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=32,
        pad_token_id=0, eos_token_id=1, bos_token_id=None, initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def questions(seed: int) -> Task:
    """Three words, and two others of which one is called right."""
    rng = random.Random(seed)
    examples = []
    for i in range(N):
        *asked, right, wrong = rng.sample(WORDS, 5)
        choices = tuple(sorted((right, wrong)))
        prompt = Record((say("user", " ".join(asked)),))
        examples.append(Example(f"{i}", prompt, (right,), choices))
    return Task("words", tuple(examples), ask="choices")


def rounded(base: Any, seed: int) -> Any:
    """As it comes back after it was saved in half precision."""
    del seed
    return copy.deepcopy(base).to(torch.bfloat16).float()


def jittered(base: Any, seed: int) -> Any:
    torch.manual_seed(seed + 1)
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        for weight in tuned.parameters():
            weight.add_(JITTER * weight.std().nan_to_num(0.0) * torch.randn_like(weight))
    return tuned


PAIRS: dict[str, Callable[[Any, int], Any]] = {
    "equal": lambda base, seed: copy.deepcopy(base),
    "rounded to bfloat16": rounded,
    "jittered": jittered,
}


def asked(one: Any, seed: int, rows: int) -> list[TaskResult]:
    return evaluate(one, tokenizer(), [questions(seed)], batch_size=rows)


@functools.cache
def base_answers(seed: int) -> tuple[list[TaskResult], list[TaskResult]]:
    """Of the base, and of the base in other batches."""
    base = model(seed)
    return asked(base, seed, 64), asked(base, seed, NOISE_ROWS)


def compared(change: Callable[[Any, int], Any], seed: int, rows: int = 64) -> Comparison:
    before, again = base_answers(seed)
    return compare_answers(before, asked(change(model(seed), seed), seed, rows), again=again)


def verdicts(change: Callable[[Any, int], Any], seeds: int, rows: int = 64) -> Counter[str]:
    found = [compared(change, seed, rows) for seed in range(seeds)]
    flips = [j.lost + j.gained for f in found for j in f.tasks]
    right = [j.before for f in found for j in f.tasks]
    said = Counter(f.overall for f in found)
    print(f"{dict(said)}; {100 * sum(flips) / (N * seeds):.2f} % of the answers flip, at most "
          f"{max(flips)} of {N}; right before: {min(right):.0f} to {max(right):.0f} %")  # fmt: skip
    return said


@pytest.mark.parametrize("pair", PAIRS)
def test_a_few_seeds(pair: str) -> None:
    said = verdicts(PAIRS[pair], FEW)
    assert said["unchanged"] >= FEW - (pair == "jittered")
    assert not said["worse"] + said["better"]


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS)
def test_a_hundred_seeds(pair: str) -> None:
    assert verdicts(PAIRS[pair], SEEDS)["unchanged"] >= 95


@pytest.mark.slow
def test_a_hundred_seeds_in_other_batches() -> None:
    assert verdicts(PAIRS["equal"], SEEDS, rows=7)["unchanged"] >= 95
