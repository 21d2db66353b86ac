"""Expert gates: autoencoders, relatedness, which expert an input meets and is taught by."""

import pytest
import torch
from torch.nn import functional as F

from holdfast.anatomy import anatomy
from holdfast.errors import UsageError
from holdfast.methods import expert_gates
from holdfast.pieces.bank import layers
from holdfast.pieces.gate import Autoencoder, ExpertGate, relatedness
from holdfast.pieces.structures import rebuild
from holdfast.testing import tiny_llama

torch.set_num_threads(1)


def clusters(n=60, width=12, count=3):
    g = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(count, width, generator=g)
    return centres[:, None] + 0.3 * torch.randn(count, n, width, generator=g)


def gate_of(data, steps=150):
    gate = ExpertGate(data.shape[-1], 4)
    gate.begin_statistics(data[0])
    for k, states in enumerate(data):
        generator = torch.Generator().manual_seed(k)
        gate.add(Autoencoder(gate.width, gate.code, generator).fit(gate.inputs(states), steps))
    return gate


def test_three_clusters_find_their_autoencoders():
    data = clusters()
    learned, fresh = data[:, :40], data[:, 40:]
    gate = gate_of(learned)
    right = [(gate.errors(fresh[k]).argmin(1) == k).float().mean().item() for k in range(3)]
    assert min(right) > 0.95
    chance = gate.probabilities(fresh[1])
    torch.testing.assert_close(chance.sum(1), torch.ones(20))
    assert torch.equal(chance.argmax(1), gate.errors(fresh[1]).argmin(1))
    ratio = chance[:, 0] / chance[:, 1]
    gap = gate.errors(fresh[1])
    torch.testing.assert_close(ratio, torch.exp((gap[:, 1] - gap[:, 0]) / 2))


def test_a_task_is_related_to_itself_and_less_to_others():
    data = clusters()
    gate = gate_of(data[:2])
    one, other = gate.autoencoders
    x = gate.inputs(data[0])
    assert relatedness(one, one, x) == 1.0
    own, far = one.errors(x).mean(), other.errors(x).mean()
    assert relatedness(one, other, x) == pytest.approx(float(1 - (far - own) / own), rel=1e-5)
    assert relatedness(one, other, x) < 0.5


def test_an_error_is_a_distance():
    autoencoder = Autoencoder(4, 2)
    x = torch.rand(3, 4)
    code = (x @ autoencoder.encoder.weight.T + autoencoder.encoder.bias).clamp(min=0)
    made = 1 / (1 + torch.exp(-(code @ autoencoder.decoder.weight.T + autoencoder.decoder.bias)))
    torch.testing.assert_close(autoencoder.errors(x), (made - x).square().sum(1).sqrt())


def task(number, n=16, answer=None):
    """Prompts of a few words of the task's own, and one answer."""
    g = torch.Generator().manual_seed(number)
    own = torch.randint(3 + 6 * number, 7 + 6 * number, (n, 5), generator=g)
    ids = torch.cat([own, torch.full((n, 1), 40 + number if answer is None else answer)], 1)
    return {"input_ids": ids, "labels": ids.masked_fill(torch.arange(6) < 5, -100)}


def staged(adapter, model, batch):
    adapter.calibrate([batch])
    return adapter.attach(model, anatomy(model))


def teach(model, batch, steps=15):
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-2)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    model.zero_grad()
    return model.eval()


def tiny():
    model = tiny_llama().model
    model.lm_head.weight.data.mul_(40)
    model.model.embed_tokens.weight.data.mul_(20)
    return model


@torch.no_grad()
def said(model, batch):
    prompt = {"input_ids": batch["input_ids"][:, :5]}
    return model(**prompt).logits[:, -1]


def test_each_task_meets_its_own_expert_and_nothing_is_forgotten():
    plan = expert_gates(rank=2, steps=150)
    adapter, model = plan.adapt, tiny()
    first = said(model, task(0))
    model = staged(adapter, model, task(0))
    torch.testing.assert_close(said(model, task(0)), first)
    model = adapter.detach(teach(model, task(0)), None)
    learned = said(model, task(0))
    assert (learned.argmax(1) == 40).all()
    model = staged(adapter, model, task(1))
    assert not adapter.distils, adapter.relatedness
    assert plan.learn[0].reference is None
    teach(model, task(1))
    assert not any(layer.updates[0].ups[0].requires_grad for _, layer in layers(model))
    model = adapter.detach(model, None)
    assert (said(model, task(1)).argmax(1) == 41).all()
    torch.testing.assert_close(said(model, task(0)), learned)


def test_a_related_task_begins_with_its_expert_and_is_taught_by_it():
    plan = expert_gates(rank=2, steps=40, threshold=-1e6)
    adapter, model = plan.adapt, tiny()
    model = adapter.detach(teach(staged(adapter, model, task(0)), task(0)), None)
    before = said(model, task(0))
    model = staged(adapter, model, task(0, answer=45))
    (related,) = adapter.relatedness
    assert adapter.distils == (related > -1e6)
    assert plan.learn[0].reference == "stage"
    torch.testing.assert_close(said(model, task(0)), before)  # both experts say the same
    for _, layer in layers(model):
        old, new = layer.updates[0].ups
        assert torch.equal(old, new)
        assert not old.requires_grad
        assert new.requires_grad


def test_the_gate_reads_the_model_without_experts_at_the_end_of_the_prompt():
    adapter, model = expert_gates(rank=2, steps=1).adapt, tiny()
    batch = task(0, n=3)
    padded = {
        "input_ids": F.pad(batch["input_ids"][:, :5], (2, 1)),
        "attention_mask": F.pad(torch.ones(3, 5, dtype=torch.long), (2, 1)),
    }
    with torch.no_grad():
        want = model.model(batch["input_ids"][:, :5], output_hidden_states=True).hidden_states
    model = staged(adapter, model, batch)
    for _, layer in layers(model):
        layer.updates[0].ups[0].data.normal_()
    gate = model.expert_gate
    seen = []
    handle = model.model.norm.register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    states = gate.states(model, batch)
    places = (padded["attention_mask"].cumsum(1) - 1).clamp(min=0)
    torch.testing.assert_close(gate.states(model, {**padded, "position_ids": places}), states)
    assert not seen  # nothing above the blocks is computed
    handle.remove()
    # the last of transformers' hidden states is after the norm
    torch.testing.assert_close(model.model.norm(states), want[-1][:, -1])
    assert gate.chosen is None


def test_a_saved_model_is_built_again():
    adapter, model = expert_gates(rank=2, steps=5).adapt, tiny()
    named = {n for n, _ in model.named_parameters()}
    for number in (0, 1):
        touched = set(adapter.touches(model, anatomy(model)))
        before = {n for n, _ in model.named_parameters()}
        model = staged(adapter, model, task(number))
        new = {n for n, _ in model.named_parameters()} - before
        assert touched == {n for n in new if n.startswith("expert_gate.")}
        model = adapter.detach(model, None)
    for _, layer in layers(model):
        for up in layer.updates[0].ups:
            up.data.normal_()
    other = rebuild(tiny(), adapter.structure(), anatomy(tiny()))
    other.load_state_dict(model.state_dict())
    assert torch.equal(said(other.eval(), task(1)), said(model.eval(), task(1)))
    assert len(named) < len(list(model.named_parameters()))


def test_without_data_it_says_so():
    with pytest.raises(UsageError, match="looks at a stage's data"):
        expert_gates().adapt.attach(tiny(), anatomy(tiny()))
