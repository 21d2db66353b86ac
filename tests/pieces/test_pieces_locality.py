"""Selfless learning's locality term against loops, its closed cases, and through a stage."""

import math

import pytest
import torch

from holdfast.carried import Ahead, Ended
from holdfast.errors import SelectorError
from holdfast.pieces.locality import Locality, neuron_importance, watched
from holdfast.plan import Outputs
from holdfast.testing import tiny_llama

torch.set_num_threads(1)


def slowly(h, spread, importance=None, discount="product"):
    n = len(h)
    total = 0.0
    for i in range(n):
        for j in range(n):
            if i == j:
                continue
            near = math.exp(-((i - j) ** 2) / (2 * (n / spread) ** 2))
            a = [0.0] * n if importance is None else importance
            both = (
                math.exp(-(a[i] + a[j]))
                if discount == "product"
                else min(math.exp(-a[i]), math.exp(-a[j]))
            )
            total += near * both * abs(h[i]) * abs(h[j])
    return total


@pytest.mark.parametrize("discount", ["product", "min"])
def test_the_cost_is_its_equation(discount):
    torch.manual_seed(0)
    h, a = torch.randn(4, 7), torch.rand(7) * 2
    term = Locality(spread=3.0, discount=discount)
    want = [slowly(row.tolist(), 3.0, a.tolist(), discount) for row in h]
    torch.testing.assert_close(term.cost(h, a), torch.tensor(want))
    want = [slowly(row.tolist(), 3.0) for row in h]
    torch.testing.assert_close(term.cost(h), torch.tensor(want))


def test_units_that_are_never_active_together_cost_nothing():
    """The diagonal is left out: a unit by itself is free, however active it is."""
    assert torch.equal(Locality().cost(torch.eye(5) * 3), torch.zeros(5))
    assert Locality().cost(torch.ones(1, 5)) > 0


@pytest.mark.parametrize("discount", ["product", "min"])
def test_an_important_unit_is_left_alone(discount):
    h = torch.ones(1, 6, requires_grad=True)
    term, slopes = Locality(discount=discount), []
    for a in (0.0, 1.0, 20.0):
        importance = torch.zeros(6)
        importance[2] = a
        (slope,) = torch.autograd.grad(term.cost(h, importance).sum(), h)
        slopes.append(slope)
    assert slopes[0][0, 2] > slopes[1][0, 2] > slopes[2][0, 2]
    assert slopes[2][0, 2] < 1e-6
    assert (slopes[0][0, [0, 4]] > slopes[2][0, [0, 4]]).all()  # nor is it held against others
    far = slopes[0] / slopes[0].max()
    assert far.min() > 0


def outputs(batch):
    wanted = torch.zeros_like(batch["labels"], dtype=torch.bool)
    wanted[:, :-1] = batch["labels"][:, 1:] != -100
    n = int(wanted.sum())
    return Outputs(torch.zeros(n, 50), torch.zeros(n, dtype=torch.long), wanted.nonzero()[:, 0])


def test_it_reads_what_enters_the_second_layer_at_the_answers():
    tiny = tiny_llama()
    model, batch = tiny.model.train(), tiny.batch
    term, seen = Locality(), []
    for block in model.model.layers:
        block.mlp.down_proj.register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    term.look_ahead(Ahead(model, {}, [], 0.1, None, None))
    wanted = term.positions(batch)
    model(**batch)
    values = term(outputs(batch))
    want = sum(term.cost(hidden[wanted]) for hidden in seen)
    torch.testing.assert_close(values, want)
    values.mean().backward()
    assert model.model.layers[0].mlp.up_proj.weight.grad.any()
    assert not term(outputs(batch)).any()  # told once for each pass
    packed = [hidden.reshape(1, -1, hidden.shape[-1]) for hidden in seen]
    term.positions({**batch, "attention_mask": torch.ones_like(batch["input_ids"])})
    term._seen = dict(zip("ab", packed, strict=True))
    torch.testing.assert_close(term(outputs(batch)), want)


def test_importance_against_a_loop_and_over_stages():
    tiny = tiny_llama()
    model, batch = tiny.model.eval(), tiny.batch
    found = neuron_importance(model, "language.mlp.down", [batch])
    down, rows = model.model.layers[1].mlp.down_proj, []
    real = {k: v for k, v in batch.items() if k != "labels"}

    def squares(probe):
        handle = down.register_forward_pre_hook(lambda m, a: (a[0] + probe,))
        logits = model(**real).logits[:, :-1]
        handle.remove()
        return logits.square().sum()

    probe = torch.zeros(2, 12, 24, requires_grad=True)
    (slope,) = torch.autograd.grad(squares(probe), probe)
    torch.testing.assert_close(found["language.1.mlp.down"], slope.abs().sum((0, 1)) / 22)
    step = torch.zeros_like(probe)
    step[0, 3, 5] = 1e-2
    with torch.no_grad():
        difference = (squares(step) - squares(-step)) / 2e-2
    torch.testing.assert_close(difference, slope[0, 3, 5], rtol=2e-2, atol=1e-4)
    frozen = model.requires_grad_(False)
    rows = [batch]
    ended = Ended(1, 0, frozen, (), rows, lambda r: r[0])
    first = Locality().recall({})
    kept = first.keep(ended)
    other = {k: v * 3 if k.startswith("imp") else v for k, v in kept.items()}
    second = Locality().recall(other).keep(ended)
    name = "importance/language.1.mlp.down"
    torch.testing.assert_close(second[name], kept[name] * 2)  # the mean of 3 and 1
    assert int(second["stages"]) == 2
    assert all(p.grad is None for p in model.parameters())


def test_a_scope_without_units_is_refused():
    with pytest.raises(SelectorError, match="units to set apart"):
        watched(tiny_llama().model, "language.norm")


def test_the_cost_is_what_the_authors_code_returned():
    """SLNI_loss and SLNID_loss of rahafaljundi/Selfless-Sequential-Learning 49e0741."""
    h = torch.tensor([[1, 0, 2, 0.5, 0, 3], [0, 1, 1, 0, 2, 0.5], [2, 2, 0, 1, 0, 0]])
    a = torch.tensor([0.0, 0.5, 1, 2, 0.1, 0.3])
    for spread, told in ((6.0, 3.5887394), (2.0, 13.5018)):
        assert Locality(spread=spread).cost(h).mean().item() == pytest.approx(told, rel=1e-5)
    for discount, told in (("min", 5.3997154), ("product", 4.7688818)):
        found = Locality(spread=2.0, discount=discount).cost(h, a).mean().item()
        assert found == pytest.approx(told, rel=1e-5)
