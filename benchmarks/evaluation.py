"""Evaluation: options scored beside lm-eval's ``hf`` model, generation beside ``generate``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks._measure import flops, one_thread, take_turns
from benchmarks._models import REFERENCE, TINY, Shape, reference_model
from benchmarks._rows import Check, Goal, Row, Section

LOGPROB_TOLERANCE = 1e-6
"""Relative to the largest, which is near -100: float32 resolves no more there."""


def run(quick: bool = False) -> list[Section]:
    """Likelihood of four options, the same behind a few-shot header, and greedy generation."""
    one_thread()
    shape = TINY if quick else REFERENCE
    model = reference_model(shape).eval()
    return [
        _likelihood(model, shape, header=0, items=4 if quick else 10),
        _likelihood(model, shape, header=48 if quick else 320, items=4 if quick else 10),
        _generation(model, shape, *((4, 2, 12) if quick else (24, 8, 64))),
    ]


# Likelihood


@dataclass(frozen=True)
class Items:
    """Prompts with four options each, in tokens."""

    prompts: list[list[int]]
    options: list[list[tuple[int, ...]]]

    @classmethod
    def random(cls, shape: Shape, count: int, header: int) -> Items:
        g = torch.Generator().manual_seed(0)

        def tokens(low: int, high: int) -> list[int]:
            length = int(torch.randint(low, high + 1, (), generator=g))
            return torch.randint(3, shape.vocabulary, (length,), generator=g).tolist()

        first = tokens(header, header)
        prompts = [first + (tokens(40, 80) if header else tokens(50, 350)) for _ in range(count)]
        return cls(prompts, [[tuple(tokens(4, 12)) for _ in range(4)] for _ in range(count)])

    def predicted(self, header: int) -> float:
        """Tokens through the blocks, theirs over ours: C (P + m) to P + C m, less the header."""
        pairs = list(zip(self.prompts, self.options, strict=True))
        theirs = sum(len(p) + len(o) - 1 for p, many in pairs for o in many)
        ours = sum(len(p) - header + sum(len(o) - 1 for o in many) for p, many in pairs) + header
        return theirs / ours


def _likelihood(model: Any, shape: Shape, *, header: int, items: int) -> Section:
    from holdfast.tasks.likelihood import Likelihood, score_continuations

    asked = Items.random(shape, items, header)
    encoded = [_encoded(torch.tensor(ids)) for ids in asked.prompts]
    harness = _harness(model, shape)
    requests = [
        ((f"{i}", f"{j}"), prompt, list(option))
        for i, (prompt, options) in enumerate(zip(asked.prompts, asked.options, strict=True))
        for j, option in enumerate(options)
    ]

    def ours() -> list[list[Likelihood]]:
        lengths = [len(p) for p in asked.prompts]
        return score_continuations(model, encoded.__getitem__, lengths, asked.options, pad_id=0)

    def theirs() -> list[tuple[float, bool]]:
        with torch.no_grad():
            found: list[tuple[float, bool]] = harness._loglikelihood_tokens(
                requests, disable_tqdm=True
            )
        return found

    mine = [[one.logprob for one in row] for row in ours()]
    flat = [logprob for logprob, _ in theirs()]
    yours = [flat[4 * i : 4 * i + 4] for i in range(items)]
    checks = [
        Check.same(f"answers to {items} items", _best(mine), _best(yours)),
        Check.close("log-likelihoods", mine, yours, LOGPROB_TOLERANCE),
    ]
    counted = flops(ours), flops(theirs)
    timing = take_turns({"ours": ours, "lm-eval": theirs})
    what = "four options" + (", few-shot header" if header else "")
    by_tokens = asked.predicted(header)
    rows = [
        Row.counted(what, "lm-eval hf", "FLOPs", *counted, "FLOP", predicted=1 / by_tokens,
                    note="the prediction counts tokens and leaves out the head and the padding"),
        Row.faster(what, "lm-eval hf", timing, "ours", "lm-eval", work=items, unit="items/s",
                   predicted=by_tokens, goal=Goal(4, "least")),
    ]  # fmt: skip
    length = f"{header} shared tokens and 40-80 of its own" if header else "50-350 tokens"
    setting = (
        f"{shape}; float32. {items} items; a prompt has {length}, its four options have 4-12. "
        "The baseline is lm-eval's `HFLM`, given the same tokens: batches of 8 requests (on this "
        "machine no larger size is faster, and `auto` first times sizes, which is left out here), "
        "`logits_cache` on."
    )
    title = "Likelihood, few-shot" if header else "Likelihood of options"
    return Section(title, setting, checks, rows, _remarks(rows[1], by_tokens))


def _remarks(row: Row, by_tokens: float) -> list[str]:
    if row.goal is None or row.goal.met(row.ratio):
        return []
    return [
        f"{row.what}: {row.ratio:.2f} times the rate. These items have {by_tokens:.2f} times fewer "
        "tokens to read when a prompt is read once, which bounds what the blocks can save; what "
        "lies beyond it comes from logits at the options only."
    ]


def _harness(model: Any, shape: Shape) -> Any:
    from lm_eval.models.huggingface import HFLM
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(shape.vocabulary)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")),
        pad_token="w0",
        eos_token="w2",
    )
    return HFLM(
        pretrained=model,
        tokenizer=tokenizer,
        backend="causal",
        device="cpu",
        batch_size=8,
        logits_cache=True,
    )


def _best(rows: Sequence[Sequence[float]]) -> list[int]:
    return [max(range(len(row)), key=row.__getitem__) for row in rows]


def _encoded(ids: Tensor) -> dict[str, Tensor]:
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


# Generation


@dataclass(frozen=True)
class Replies:
    """Prompts, and after how many tokens the reply to each is over.

    A model with random weights does not end its replies, so that both sides are told where
    each one ends: exponential lengths, as those of short answers with a few long ones are.
    """

    prompts: list[Tensor]
    tokens: list[int]
    longest: int

    @classmethod
    def random(cls, shape: Shape, count: int, longest: int) -> Replies:
        g = torch.Generator().manual_seed(1)
        lengths = torch.randint(16, 129, (count,), generator=g).tolist()
        prompts = [torch.randint(3, shape.vocabulary, (n,), generator=g) for n in lengths]
        uniform = torch.rand(count, generator=g)
        ends = (-20 * torch.log(uniform)).clamp(2, longest).int().tolist()
        return cls(prompts, ends, longest)

    def batch(self, rows: Sequence[int]) -> dict[str, Tensor]:
        from holdfast.data import collate

        return collate([_encoded(self.prompts[i]) for i in rows], pad_id=0, side="left")

    def predicted(self, batch: int) -> float:
        """Row-steps of ``generate`` in fixed batches, in the order of the set, over the tokens."""
        groups = [self.tokens[i : i + batch] for i in range(0, len(self.tokens), batch)]
        return sum(max(g) * len(g) for g in groups) / sum(self.tokens)


def _generation(model: Any, shape: Shape, prompts: int, batch: int, longest: int) -> Section:
    asked = Replies.random(shape, prompts, longest)
    order = list(range(prompts))
    by_length = sorted(order, key=lambda i: -len(asked.prompts[i]))

    def ours() -> list[list[int]]:
        return _decoded(model, asked, batch)

    def fixed() -> list[list[int]]:
        return _generated(model, asked, order, batch)

    def ordered() -> list[list[int]]:
        return _generated(model, asked, by_length, batch)

    mine = ours()
    checks = [
        Check.same(f"tokens of {prompts} replies, fixed batches", mine, fixed()),
        Check.same(f"tokens of {prompts} replies, sorted batches", mine, ordered()),
    ]
    counted = {"ours": flops(ours), "generate": flops(fixed), "generate, sorted": flops(ordered)}
    timing = take_turns({"ours": ours, "generate": fixed, "generate, sorted": ordered})
    what, told = "mixed lengths", asked.predicted(batch)
    rows = [
        Row.counted(what, "generate", "FLOPs", counted["ours"], counted["generate"], "FLOP"),
        Row.faster(what, "generate", timing, "ours", "generate", work=sum(asked.tokens),
                   unit="tokens/s", predicted=told, goal=Goal(1.5, "least"),
                   note="the prediction counts row-steps and leaves out the prompts"),
        Row.counted(what, "generate, sorted", "FLOPs", counted["ours"],
                    counted["generate, sorted"], "FLOP"),
        Row.faster(what, "generate, sorted", timing, "ours", "generate, sorted",
                   work=sum(asked.tokens), unit="tokens/s"),
    ]  # fmt: skip
    setting = (
        f"{shape}; float32. {prompts} prompts of 16-128 tokens with replies of 2-{longest} tokens "
        f"(mean {sum(asked.tokens) / prompts:.0f}), greedy, {batch} rows at a time. The baselines "
        "are transformers' `generate` in batches as the set comes, and sorted by prompt length; "
        "both stop a batch when its last row has ended. Only rows that have written all their "
        "tokens count as ended, on every side alike."
    )
    return Section("Generation", setting, checks, rows)


def _decoded(model: Any, asked: Replies, batch: int) -> list[list[int]]:
    from holdfast.tasks.batches import asked as quietly
    from holdfast.tasks.decoding import Decoder, decode
    from holdfast.tasks.generation import greedy
    from holdfast.tasks.room import Room

    with quietly(model), greedy(model, asked.longest, set(), 0):
        return decode(
            Decoder(model, asked.batch),
            [len(p) for p in asked.prompts],
            lambda i, written: len(written) >= asked.tokens[i],
            max_new_tokens=asked.longest,
            room=Room(torch.device("cpu")),
            batch_size=batch,
        )


def _generated(model: Any, asked: Replies, order: Sequence[int], batch: int) -> list[list[int]]:
    from transformers import StoppingCriteriaList

    found: dict[int, list[int]] = {}
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        inputs = asked.batch(rows)
        width = inputs["input_ids"].shape[1]
        ends = torch.tensor([width + asked.tokens[i] for i in rows])
        stop = StoppingCriteriaList([lambda ids, _, ends=ends, **__: ids.shape[1] >= ends])
        out = model.generate(
            **inputs, max_new_tokens=asked.longest, do_sample=False, stopping_criteria=stop,
            eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        for i, row in zip(rows, out.tolist(), strict=True):
            found[i] = row[width : width + asked.tokens[i]]
    return [found[i] for i in range(len(order))]
