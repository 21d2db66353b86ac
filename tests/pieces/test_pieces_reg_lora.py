"""RegLoRA's positions, its term and what it carries, against dense products."""

import pytest
import torch

from holdfast.errors import ConfigError
from holdfast.pieces.reg_lora import RegLoRA, entries, largest


def _pair(rank=3, out=12, width=10, seed=0):
    torch.manual_seed(seed)
    return torch.randn(out, rank), torch.randn(rank, width)


def _named(b, a, layer="x"):
    return {f"{layer}.lora_A.default.weight": a, f"{layer}.lora_B.default.weight": b}


@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
def test_the_largest_products(share):
    b, a = _pair()
    found, product = largest(b, a, share), (b @ a).abs().flatten()
    assert len(found) == len(set(found.tolist())) == int(share * 120)
    rest = torch.ones(120, dtype=torch.bool)
    rest[found] = False
    assert not rest.any() or float(product[found].min()) >= float(product[rest].max())


@pytest.mark.parametrize("count", [0, 5, 400])
def test_entries_are_those_of_the_dense_product_gathered_or_not(count):
    b, a = (torch.randint(-4, 5, m.shape).float().requires_grad_() for m in _pair())
    at = torch.randint(0, 120, (count,))
    values = entries(b, a, at)
    assert torch.equal(values, (b @ a).flatten()[at])  # whole numbers: no rounding
    ours = torch.autograd.grad(values.square().sum(), (b, a))
    dense = torch.autograd.grad((b @ a).flatten()[at].square().sum(), (b, a))
    assert all(torch.equal(x, y) for x, y in zip(ours, dense, strict=True))


def test_the_term_is_a_mean_over_matrices_of_means_over_positions():
    (b, a), (d, c) = _pair(seed=1), _pair(seed=2)
    at = torch.tensor([7, 7, 31])  # important to two stages: twice in the mean
    term = RegLoRA(rank=3, alpha=6.0, earlier={"x": at, "y": torch.tensor([0])})
    value = term({**_named(b, a), **_named(d, c, "y"), **_named(b, a, "z")}, {})
    first, second = (b @ a).abs().flatten(), (d @ c).abs().flatten()
    wanted = ((2 * first[7] + first[31]) / 3 + second[0]) / 3
    torch.testing.assert_close(value, wanted)
    assert float(RegLoRA(rank=3, alpha=6.0)(_named(b, a), {})) == 0


def test_at_the_start_of_a_stage_only_protected_rows_of_b_are_pulled():
    _, a = _pair()
    b = torch.zeros(12, 3, requires_grad=True)
    term = RegLoRA(rank=3, alpha=6.0, earlier={"x": torch.tensor([25, 26, 90])})
    assert float(term(_named(b, a), {})) == 0
    live = torch.randn(12, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(term(_named(live, a), {}), live)
    assert set(gradient.abs().sum(1).nonzero().flatten().tolist()) == {2, 9}


def test_what_is_carried_is_concatenated_new_first():
    adapter = RegLoRA(rank=3, alpha=6.0, earlier={"x": torch.tensor([1, 2])})
    adapter._found = {"x": torch.tensor([2, 3]), "y": torch.tensor([5])}
    state = adapter.keep(None)
    assert state["x"].tolist() == [2, 3, 1, 2]
    again = adapter.recall(state)
    assert again.earlier["y"].tolist() == [5]
    assert adapter.earlier["x"].tolist() == [1, 2]


def test_only_merged_stages():
    with pytest.raises(ConfigError, match="merges"):
        RegLoRA(rank=2, alpha=2.0, stages="keep")
