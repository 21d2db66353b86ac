"""Half of the matrices of any family: counts, draws, whole matrices."""

from collections import Counter

import pytest
from tiny_halves import matrix
from transformers import Gemma2Config, GPT2Config, LlamaConfig, MixtralConfig, Phi3Config

from holdfast.anatomy import anatomy
from holdfast.errors import SelectorError
from holdfast.pieces.halves import Halves

TEXT = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 4, "pad_token_id": 0,
}  # fmt: skip
LLAMA = LlamaConfig(**TEXT)
OTHERS = [
    Phi3Config(**TEXT),
    Gemma2Config(**TEXT, head_dim=4),
    MixtralConfig(**TEXT, num_local_experts=4),
    GPT2Config(vocab_size=40, n_embd=16, n_layer=4, n_head=4),
]


def per_block(found, selection):
    """{(block, category): (trained, all)}, counted matrix by matrix."""
    taken, every = Counter(), Counter()
    for key, parts in matrix(found.parts).items():
        block, unit = key[0], key[1]
        here = (block, unit.split(".")[0])
        inside = {p in selection.parts for p in parts}
        assert len(inside) == 1, f"{key} is drawn in part"
        every[here] += 1
        taken[here] += inside == {True}
    return {k: (taken[k], every[k]) for k in every}


@pytest.mark.parametrize("seed", range(5))
def test_llama_as_in_the_paper(seed):
    found = anatomy(LLAMA)
    chosen = Halves()(found, seed)
    counts = per_block(found, chosen)
    assert {counts[b, "attn"] for b in range(4)} == {(2, 4)}
    assert {counts[b, "norm"] for b in range(4)} == {(1, 2)}
    assert sorted(counts[b, "mlp"] for b in range(4)) == [(1, 3), (1, 3), (2, 3), (2, 3)]
    blocks = sum(p.count for p in found.parts if p.block is not None)
    # heads are not shared here, so that the four attention matrices are of one size
    assert sum(p.count for p in chosen.parts if p.block is not None) == blocks / 2
    outside = [p for p in found.parts if p.block is None]
    assert set(outside) <= set(chosen.parts)
    assert not any(p.block is None for p in Halves(outside=False)(found, seed).parts)


@pytest.mark.parametrize("config", OTHERS, ids=lambda c: c.model_type)
def test_every_family_trains_half_of_each_category(config):
    found = anatomy(config)
    for seed in range(3):
        counts = per_block(found, Halves()(found, seed))
        for category in {c for _, c in counts}:
            taken = [v for (_, c), v in counts.items() if c == category]
            assert sum(t for t, _ in taken) == sum(n for _, n in taken) / 2
            assert max(t for t, _ in taken) - min(t for t, _ in taken) <= 1


def test_a_fused_weight_keeps_the_rows_that_were_not_drawn():
    found = anatomy(Phi3Config(**TEXT))
    fused = {
        name: rows for name, rows in Halves()(found, 0).parameters.items() if "qkv_proj" in name
    }
    assert any(rows is not None for rows in fused.values())


def test_a_draw_follows_from_the_seed_and_the_round():
    found = anatomy(LLAMA)
    draws = [frozenset(Halves()(found, seed).parameters) for seed in range(6)]
    assert len(set(draws)) == 6
    assert frozenset(Halves()(found, 3).parameters) == draws[3]
    assert frozenset(Halves(round=1)(found, 3).parameters) != draws[3]
    freed = Counter(name for draw in draws for name in draw if ".layers." in name)
    assert min(freed.values()) < 6
    assert len(freed) > 30  # of 36: the other half gets its turn


def test_an_odd_total_is_rounded_both_ways():
    found = anatomy(LlamaConfig(**{**TEXT, "num_hidden_layers": 3}))
    totals = set()
    for seed in range(12):
        counts = per_block(found, Halves()(found, seed))
        totals.add(sum(counts[b, "mlp"][0] for b in range(3)))
    assert totals == {4, 5}


def test_the_ablations_draw_blocks_or_any_matrix():
    found = anatomy(LLAMA)
    layers = per_block(found, Halves(level="layer")(found, 0))
    whole = {b: {t / n for (x, _), (t, n) in layers.items() if x == b} for b in range(4)}
    assert sorted(whole.values(), key=min) == [{0.0}, {0.0}, {1.0}, {1.0}]
    model = per_block(found, Halves(level="model")(found, 0))
    assert sum(t for t, _ in model.values()) == sum(n for _, n in model.values()) / 2
    assert any(model[b, "attn"][0] != 2 for b in range(4))


@pytest.mark.parametrize("share", [0.25, 0.4, 0.75, 1.0])
def test_other_shares(share):
    found = anatomy(LLAMA)
    counts = per_block(found, Halves(share=share)(found, 0))
    for category, n in (("attn", 16), ("mlp", 12), ("norm", 8)):
        taken = sum(t for (_, c), (t, _) in counts.items() if c == category)
        assert abs(taken - share * n) < 1


def test_a_scope_without_anything_is_refused():
    found = anatomy(LLAMA)
    with pytest.raises(SelectorError, match="no vision tower"):
        Halves(scope="vision")(found, 0)
    with pytest.raises(SelectorError, match="is nothing in this model"):
        Halves(scope="language.embed", outside=False)(found, 0)
