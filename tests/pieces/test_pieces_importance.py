"""Per-example gradients against a loop over examples, Fisher and MAS against closed forms."""

import math

import pytest
import torch
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from holdfast.carried import Ended
from holdfast.methods import method
from holdfast.pieces import per_example
from holdfast.pieces.importance import importance, log_likelihood, squared_outputs
from holdfast.pieces.per_example import fold_gradients

torch.set_num_threads(1)
SHAPE = {
    "vocab_size": 30,
    "hidden_size": 12,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}


def llama(**changes):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE, **changes)).eval()


def qwen3():
    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=6, attention_bias=True)).eval()


def mixtral():
    torch.manual_seed(0)
    config = MixtralConfig(**SHAPE, num_local_experts=2, num_experts_per_tok=1)
    return MixtralForCausalLM(config).eval()


def rows(n=5, seed=1):
    g = torch.Generator().manual_seed(seed)
    found = []
    for i in range(n):
        ids = torch.randint(1, 30, (5 + i,), generator=g)
        labels = ids.clone()
        labels[: 1 + i % 3] = -100
        found.append({"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)})
    return found


def batch_of(found):
    fill = {"input_ids": 0, "labels": -100, "attention_mask": 0}
    return {
        k: nn.utils.rnn.pad_sequence([r[k] for r in found], batch_first=True, padding_value=v)
        for k, v in fill.items()
    }


def loop(model, names, found, score, fold):
    """One example, one backward pass, unpadded."""
    sums = {n: torch.zeros_like(p) for n, p in model.named_parameters() if n in names}
    for row in found:
        model.zero_grad()
        score(model, batch_of([row])).sum().backward()
        for name, parameter in model.named_parameters():
            if name in names and parameter.grad is not None:
                sums[name] += fold(parameter.grad)
    model.zero_grad(set_to_none=True)
    return sums


@pytest.mark.parametrize(
    ("make", "hooked"),
    [
        (llama, True),
        (lambda: llama(tie_word_embeddings=True), True),
        (qwen3, True),
        (mixtral, False),
    ],
)
@pytest.mark.parametrize("score", [log_likelihood, squared_outputs])
@pytest.mark.parametrize("fold", [torch.square, torch.abs])
def test_hooks_are_the_loop_over_examples(make, hooked, score, fold, monkeypatch):
    """Every weight: linear layers, norms, biases, embeddings, heads that are tied to them."""
    model, found = make(), rows()
    model = model.double() if hooked else model  # grouped products of experts know no float64
    names = [n for n, _ in model.named_parameters()]
    wanted = loop(model, names, found, score, fold)
    singles = []
    one = per_example.single
    monkeypatch.setattr(per_example, "single", lambda *a: singles.append(1) or one(*a))
    monkeypatch.setattr(per_example, "HELD", 200)  # some rows at a time
    got, count = fold_gradients(
        model, names, [batch_of(found[:3]), batch_of(found[3:])], score, fold
    )
    assert count == 5
    assert bool(singles) != hooked
    for name in names:
        scale = wanted[name].abs().max().clamp(min=1e-6)
        assert (got[name] - wanted[name]).abs().max() / scale < (1e-9 if hooked else 1e-5), name


def test_squared_batch_gradients_are_something_else():
    model, found = llama(), rows()
    name = "model.layers.0.mlp.up_proj.weight"
    fisher = importance("empirical-fisher", model, [name], [batch_of(found)])[name]
    cut = importance("empirical-fisher", model, [name], [batch_of([r]) for r in found])[name]
    torch.testing.assert_close(fisher, cut, rtol=1e-4, atol=1e-9)
    log_likelihood(model, batch_of(found)).mean().backward()
    fake = dict(model.named_parameters())[name].grad.square()
    assert fake.sum() < 0.7 * fisher.sum()


def test_the_model_is_left_as_it_was():
    model, found = llama(), rows()
    model.requires_grad_(False)
    model.model.norm.weight.requires_grad_(True)
    before = {n: (p.clone(), p.requires_grad) for n, p in model.named_parameters()}
    state = torch.get_rng_state()
    importance("fisher", model, ["lm_head.weight"], [batch_of(found)])
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name][0])
        assert parameter.requires_grad == before[name][1]
        assert parameter.grad is None
        assert not [h for m in model.modules() for h in m._forward_hooks]
    assert torch.equal(torch.get_rng_state(), state)


class Head(nn.Module):
    """Logits W e_x for token x: what the Fisher information of has a closed form."""

    def __init__(self, words=3):
        super().__init__()
        self.table = nn.Embedding(words, words)
        self.table.weight.data.copy_(
            torch.randn(words, words, generator=torch.Generator().manual_seed(0))
        )

    def forward(self, input_ids, attention_mask=None, use_cache=None):
        return type("O", (), {"logits": self.table(input_ids)})()


def test_true_fisher_of_a_softmax():
    """One prediction, logits are weights: F_v = p_v (1 - p_v), whatever the label; empirical:
    (1[v = y] - p_v)^2."""
    model = Head()
    batch = {
        "input_ids": torch.tensor([[1, 2]]).repeat(4000, 1),
        "labels": torch.tensor([[-100, 2]]).repeat(4000, 1),
    }
    p = model.table.weight[1].detach().softmax(-1)
    true = importance("fisher", model, ["table.weight"], [batch])["table.weight"]
    torch.testing.assert_close(true[1], p * (1 - p), rtol=0.2, atol=0)
    assert not true[0].any()
    seen = importance("empirical-fisher", model, ["table.weight"], [batch])["table.weight"]
    onehot = torch.tensor([0.0, 0.0, 1.0])
    torch.testing.assert_close(seen[1], (onehot - p) ** 2)
    weighted = importance("weighted-fisher", model, ["table.weight"], [batch])["table.weight"]
    torch.testing.assert_close(weighted[1], p[2] * (onehot - p) ** 2)


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding.from_pretrained(torch.tensor([[1.0, 2.0], [-1.0, 3.0]]))
        self.w = nn.Linear(2, 2, bias=False)
        self.w.weight.data = torch.tensor([[1.0, -2.0], [0.5, 1.0]])

    def forward(self, input_ids, attention_mask=None, use_cache=None):
        return type("O", (), {"logits": self.w(self.embed(input_ids))})()


def test_mas_of_a_linear_map():
    """f = W x: the mean of |2 y_i x_j|; no label is read; outputs twice as large count 4 times."""
    model = Linear()
    batch = {"input_ids": torch.tensor([[0, 0], [1, 0]])}
    x = model.embed.weight
    y = x @ model.w.weight.detach().T
    closed = sum((2 * y[k][:, None] * x[k][None]).abs() for k in (0, 1)) / 2
    got = importance("outputs", model, ["w.weight"], [batch])["w.weight"]
    torch.testing.assert_close(got, closed)
    labelled = {**batch, "labels": torch.tensor([[-100, 1], [-100, 0]])}
    torch.testing.assert_close(
        importance("outputs", model, ["w.weight"], [labelled])["w.weight"], got
    )
    model.w.weight.data *= 3
    scaled = importance("outputs", model, ["w.weight"], [batch])["w.weight"]
    torch.testing.assert_close(scaled, 3 * got)  # 9 times the norm, per weight 3 times as large


def test_mas_against_finite_differences():
    model, found = llama().double(), rows(3)
    name = "model.layers.1.mlp.down_proj.weight"
    weight = dict(model.named_parameters())[name]
    got = importance("outputs", model, [name], [batch_of(found)])[name]
    for i, j in [(0, 0), (3, 7), (11, 15)]:
        total, step = 0.0, 1e-3  # norms are computed in float32
        for row in found:
            sides = []
            for sign in (1, -1):
                weight.data[i, j] += sign * step
                with torch.no_grad():
                    sides.append(float(squared_outputs(model, batch_of([row]))))
                weight.data[i, j] -= sign * step
            total += abs(sides[0] - sides[1]) / (2 * step)
        assert math.isclose(float(got[i, j]), total / 3, rel_tol=1e-2)


def test_images_that_are_not_one_to_a_row():
    batch = {**batch_of(rows(2)), "pixel_values": torch.zeros(3, 1)}
    with pytest.raises(ValueError, match="'pixel_values' has 3 entries for 2 rows"):
        list(per_example.rows_of(batch))


def test_mas_is_the_authors_code_also_with_its_batches():
    """What compute_importance_l2 of rahafaljundi/MAS-Memory-Aware-Synapses c3e6a85 returned."""
    model = Linear()
    inputs = [[1.0, 0], [0, 1], [1, -1], [-1, 2], [2, 1], [-1, -3]]
    model.embed = nn.Embedding.from_pretrained(torch.tensor(inputs))
    model.w.weight.data = torch.tensor([[1.0, 2], [-1, -1]])
    ids = torch.arange(6)[:, None].expand(6, 2)
    batches = [{"input_ids": part} for part in ids.split(3)]
    one = importance("outputs", model, ["w.weight"], batches)["w.weight"]
    torch.testing.assert_close(one, torch.tensor([[20 / 3, 34 / 3], [4, 6]]))
    three = importance("outputs", model, ["w.weight"], batches, batchwise=True)["w.weight"]
    torch.testing.assert_close(three, torch.tensor([[4, 34 / 3], [10 / 3, 6]]))
    term = method("mas:code_batch=3").learn[0]
    rows = [{"input_ids": row} for row in ids]
    ended = Ended(
        1, 0, model, ("w.weight",), rows,
        lambda found: {"input_ids": torch.stack([row["input_ids"] for row in found])},
    )  # fmt: skip
    torch.testing.assert_close(term.keep(ended)["importance/w.weight"], three)


def test_the_norms_of_outputs():
    model = Linear()
    batch = {"input_ids": torch.tensor([[0, 0], [1, 0]])}
    x = model.embed.weight
    y = x @ model.w.weight.detach().T
    closed = sum((y[k][:, None] * x[k][None]).abs() / y[k].norm() for k in (0, 1)) / 2
    found = importance("output-norms", model, ["w.weight"], [batch])["w.weight"]
    torch.testing.assert_close(found, closed)
