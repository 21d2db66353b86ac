"""Continuations as branches of one row: the numbers of rows of their own, or not at all."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from holdfast.tasks.branches import branch_logits, may_branch, width_of
from holdfast.tasks.likelihood import score_continuations

torch.set_num_threads(1)
PROMPTS = [[5, 9, 3, 7, 7, 2], [4, 8], [6, 6, 6, 1, 3, 9, 2, 5, 4]]
MANY = [[(3, 4, 5), (9,), (2, 2)], [(7, 1), (8, 8, 8, 8)], [(1, 2, 3), (1, 2, 4)]]


def llama(**more: object) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64, **more,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=64)
    ).eval()


def encoded(ids: list[int]) -> dict[str, torch.Tensor]:
    row = torch.tensor(ids)
    return {"input_ids": row, "attention_mask": torch.ones_like(row)}


def alone(model: torch.nn.Module, prompt: list[int], c: tuple[int, ...]) -> float:
    ids = torch.tensor([[*prompt, *c]])
    logp = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return float(logp.gather(-1, torch.tensor(c)[:, None]).sum())


@pytest.mark.parametrize("make", [llama, gpt2])
def test_a_branch_has_the_numbers_of_a_row_of_its_own(make) -> None:
    model = make()
    with torch.no_grad():
        found = branch_logits(model, [encoded(p) for p in PROMPTS], MANY, 0)
        for prompt, many, logits in zip(PROMPTS, MANY, found, strict=True):
            for c, z in zip(many, logits, strict=True):
                mine = z.log_softmax(-1).gather(-1, torch.tensor(c)[:, None]).sum()
                assert float(mine) == pytest.approx(alone(model, prompt, c), abs=1e-4)


def scores(model: torch.nn.Module) -> list[list[float]]:
    found = score_continuations(
        model, lambda i: encoded(PROMPTS[i]), [len(p) for p in PROMPTS], MANY, pad_id=0
    )
    return [[one.logprob for one in row] for row in found]


@pytest.mark.parametrize("make", [llama, gpt2])
def test_branches_are_trusted_where_they_are_right(make) -> None:
    model = make()
    wanted = [[alone(model, p, c) for c in many] for p, many in zip(PROMPTS, MANY, strict=True)]
    for row, right in zip(scores(model), wanted, strict=True):
        assert row == pytest.approx(right, abs=1e-4)
    assert may_branch(model, width_of(encoded(PROMPTS[0]), MANY[0])) is True


def test_a_model_that_makes_its_own_positions_is_found_out() -> None:
    """OPT counts its positions off a two-dimensional mask: in branches its numbers are wrong."""
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=40, hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, word_embed_proj_dim=16,
    )  # fmt: skip
    model = OPTForCausalLM(config).eval()
    model.config._attn_implementation = "sdpa"
    wanted = [[alone(model, p, c) for c in many] for p, many in zip(PROMPTS, MANY, strict=True)]
    for row, right in zip(scores(model), wanted, strict=True):
        assert row == pytest.approx(right, abs=1e-4)


def test_wrong_numbers_are_never_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Branches that see each other are found out by the first batch, which is read twice."""
    from holdfast.tasks import branches

    def open_mask(segments: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        width = segments.shape[1]
        sees = torch.ones(width, width, dtype=torch.bool).tril()
        mask = torch.zeros(width, width).masked_fill(~sees, torch.finfo(dtype).min)
        return mask.expand(len(segments), 1, width, width)

    monkeypatch.setattr(branches, "_mask", open_mask)
    model = llama()
    wanted = [[alone(model, p, c) for c in many] for p, many in zip(PROMPTS, MANY, strict=True)]
    for row, right in zip(scores(model), wanted, strict=True):
        assert row == pytest.approx(right, abs=1e-4)
    assert may_branch(model, 10) is False


def test_a_window_or_a_very_long_row_is_left_alone() -> None:
    assert may_branch(llama(sliding_window=8), 9) is False
    assert may_branch(llama(), 5000) is False
