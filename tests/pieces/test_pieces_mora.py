"""Rank-one experts against a loop over tokens and atoms; growth, freezing, saving."""

import math

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from holdfast.anatomy import anatomy
from holdfast.errors import SelectorError
from holdfast.methods import mora
from holdfast.pieces.atoms import Atoms, Gate, layers
from holdfast.pieces.structures import rebuild
from holdfast.testing import tiny_llama


def layer(gate, stages=2, rank=3, inside=8, outside=5, seed=0):
    torch.manual_seed(seed)
    made = Atoms(nn.Linear(inside, outside), gate).double()
    for _ in range(stages):
        made.grow(rank)
        made.double()
    for values in made.values:
        values.data.normal_()
    return made.eval()


def slowly(made, x, training):
    """The equations of the docstring, one token and one atom at a time."""
    gate = made.gate
    keys = [a for stage in made.keys for a in stage.tolist()]
    values = [[row[i] for row in stage.tolist()] for stage in made.values
              for i in range(stage.shape[1])]  # fmt: skip
    out = []
    for token in x.tolist():
        raw = [sum(a * t for a, t in zip(key, token, strict=True)) for key in keys]
        length = math.sqrt(sum(r * r for r in raw))
        s = [r / length for r in raw]
        order = sorted(range(len(s)), key=lambda i: -s[i])[: gate.budget]
        pool = order if gate.softmax == "kept" else range(len(s))
        total = sum(math.exp(s[i] / gate.temperature) for i in pool)
        y = made.base_layer(torch.tensor(token, dtype=torch.float64)).tolist()
        for i in order:
            if gate.threshold is not None and not training and s[i] < gate.threshold:
                continue
            w = math.exp(s[i] / gate.temperature) / total
            y = [a + w * b * raw[i] for a, b in zip(y, values[i], strict=True)]
        out.append(y)
    return torch.tensor(out, dtype=torch.float64)


@pytest.mark.parametrize("softmax", ["all", "kept"])
@pytest.mark.parametrize("threshold", [0.0, 0.3, None])
@pytest.mark.parametrize("training", [False, True])
def test_a_layer_is_its_equations(softmax, threshold, training):
    made = layer(Gate(2, 0.1, threshold, softmax)).train(training)
    x = torch.randn(7, 8, dtype=torch.float64)
    torch.testing.assert_close(made(x), slowly(made, x, training))


def test_few_fire_and_the_scale_of_the_input_is_nothing_to_it():
    made = layer(Gate(2, 0.1, None))
    x = torch.randn(50, 8, dtype=torch.float64)
    weights = made.fire(x)
    assert set((weights > 0).sum(-1).tolist()) == {2}
    torch.testing.assert_close(made.fire(x * 37.5), weights)
    pruned = layer(Gate(6, 0.1, 0.2)).fire(x)
    assert (pruned > 0).sum() < 6 * 50
    assert torch.isfinite(made(torch.zeros(1, 8, dtype=torch.float64))).all()


def test_new_atoms_can_be_chosen_before_they_write():
    """Scores read the keys alone, so a value of zero does not keep an atom from its turn."""
    made = layer(Gate(3, 0.1, None))
    made.values[1].data.zero_()
    fired = made.fire(torch.randn(50, 8, dtype=torch.float64)) > 0
    assert fired[:, 3:].any()


def test_earlier_atoms_are_frozen_and_active():
    tiny = tiny_llama()
    adapter = mora(rank=2).adapt
    logits = tiny.model(**tiny.batch).logits
    model = adapter.attach(tiny.model, anatomy(tiny.model))
    torch.testing.assert_close(model(**tiny.batch).logits, logits)  # nothing is written yet
    for _, made in layers(model):
        made.values[0].data.normal_()
    before = model(**tiny.batch).logits
    model = adapter.attach(adapter.detach(model, None), anatomy(model))
    after = model(**tiny.batch).logits
    # the new keys share in the norm and in the softmax: an adapter that did not change here
    # would be another method
    assert not torch.equal(before, after)
    model.train()(**tiny.batch).loss.backward()
    for _, made in layers(model):
        assert made.keys[0].grad is None
        assert made.values[0].grad is None
        assert made.values[1].grad.abs().sum() > 0
    assert set(adapter.trainable(model)) == {
        n for n, p in model.named_parameters() if p.requires_grad
    }


def test_a_saved_model_is_built_again():
    tiny, again = tiny_llama(), tiny_llama()
    adapter = mora(rank=2, budget=3, threshold=None).adapt
    for _ in range(2):
        adapter.attach(tiny.model, anatomy(tiny.model))
    for _, made in layers(tiny.model):
        for values in made.values:
            values.data.normal_()
    model = rebuild(again.model, adapter.structure(), anatomy(again.model))
    model.load_state_dict(tiny.model.state_dict())
    assert torch.equal(model(**tiny.batch).logits, tiny.model(**tiny.batch).logits)


def test_transposed_layers_and_refusals():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=4, n_positions=16)
    model = GPT2LMHeadModel(config).eval()
    ids = torch.arange(8)[None]
    logits = model(ids).logits
    model = mora(rank=2).adapt.attach(model, anatomy(model))
    torch.testing.assert_close(model(ids).logits, logits)
    with pytest.raises(SelectorError, match="no linear layer"):
        mora(scope="language.norm").adapt.attach(tiny_llama().model, anatomy(tiny_llama().model))


def taught(made, x, y, rate=0.05, steps=200):
    free = [p for p in made.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(free, lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        (made(x) - y).square().mean().backward()
        optimizer.step()


def domains():
    """Two tasks whose inputs share no direction."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 64, 8, generator=g, dtype=torch.float64)
    x[0, :, 4:], x[1, :, :4] = 0.0, 0.0
    target = torch.randn(2, 8, 5, generator=g, dtype=torch.float64)
    return x, x @ target


def test_atoms_of_two_domains_do_not_disturb_each_other():
    x, y = domains()
    torch.manual_seed(0)
    made = Atoms(nn.Linear(8, 5).double().requires_grad_(False), Gate(4, 0.1, None))
    for stage in range(2):
        made.grow(4)
        made.double()
        for old in (*made.keys[:stage], *made.values[:stage]):
            old.requires_grad_(False)
        taught(made, x[stage], y[stage])
        if stage == 0:
            learned = (made(x[0]) - y[0]).square().mean().item()
    forgotten = (made(x[0]) - y[0]).square().mean().item() - learned
    own = [made.fire(x[d])[:, 4 * d : 4 * d + 4].sum() / made.fire(x[d]).sum() for d in (0, 1)]
    assert min(own) > 0.8
    assert forgotten < 0.1 * y[0].square().mean().item()


def test_a_shared_adapter_forgets_where_atoms_do_not():
    """A control for the test above: the same atoms, all trained on and on, no gate."""
    x, y = domains()
    y = torch.stack([y[0], -3 * y[0]])
    x = torch.stack([x[0], x[0]])  # the same inputs, asked for something else
    torch.manual_seed(0)
    made = Atoms(nn.Linear(8, 5).double().requires_grad_(False), Gate(4, 0.1, None))
    made.grow(4)
    made.double()
    taught(made, x[0], y[0])
    learned = (made(x[0]) - y[0]).square().mean().item()
    taught(made, x[1], y[1])
    assert (made(x[0]) - y[0]).square().mean().item() - learned > y[0].square().mean().item()
