"""Cross-entropy in tiles and activations computed again, against plain autograd."""

import pytest
import torch
from engine_tools import collate, examples, gemma2, llama, train, values
from torch.nn import functional as F

from holdfast.engine import tiles
from holdfast.engine.forward import logits_at, next_labels
from holdfast.engine.sparing import sparing
from holdfast.engine.tiles import PlainHead


def batch(rows=6):
    read = collate(examples(rows))
    labels = next_labels(read.pop("labels"))
    return read, labels != -100, labels


def gradients(model):
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def close(mine, theirs, **allowed):
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, msg=name, **allowed)


@pytest.mark.parametrize("tile", [1, 7, 1000])
@pytest.mark.parametrize("frozen", [(), ("lm_head",), ("model",), ("model.layers.0", "lm_head")])
def test_tiles_give_autograds_loss_and_gradients(monkeypatch, tile, frozen):
    monkeypatch.setitem(tiles.TILE, "cpu", tile)
    model = llama().double()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen or ("none",)))
    read, positions, labels = batch()
    plain = F.cross_entropy(
        logits_at(model, model, read, positions), labels[positions], reduction="sum"
    )
    (0.3 * plain).backward()
    theirs = gradients(model)
    tiled = PlainHead().loss(model, model, read, positions, labels[positions])
    (0.3 * tiled).backward()
    torch.testing.assert_close(tiled, plain.detach(), check_dtype=False)
    close(gradients(model), theirs)


def test_a_head_with_a_bias_and_targets_that_are_ignored():
    torch.manual_seed(0)
    model = llama()
    model.lm_head = torch.nn.Linear(32, 64)
    read, positions, labels = batch()
    targets = labels[positions]
    targets[::3] = -100
    plain = F.cross_entropy(logits_at(model, model, read, positions), targets, reduction="sum")
    plain.backward()
    theirs = gradients(model)
    PlainHead().loss(model, model, read, positions, targets).backward()
    close(gradients(model), theirs, rtol=1e-4, atol=1e-5)


def test_no_position_gives_zero_that_reaches_the_weights():
    model = llama()
    read, positions, labels = batch()
    nothing = torch.zeros_like(positions)
    loss = PlainHead().loss(model, model, read, nothing, labels[nothing])
    loss.backward()
    assert loss == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_a_soft_cap_is_noticed_and_chance_put_back():
    model, head = gemma2().train(), PlainHead()
    read, positions, labels = batch()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert head.loss(model, model, read, positions, labels[positions]) is None
    assert head.fits is False
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("make", [llama, gemma2])
def test_activations_computed_again_are_the_same_bits(make):
    model = make()
    read, positions, labels = batch()

    def loss():
        return F.cross_entropy(logits_at(model, model, read, positions), labels[positions])

    loss().backward()
    theirs = gradients(model)
    with sparing(model):
        again = loss()
    again.backward()
    mine = gradients(model)
    assert all(torch.equal(mine[n], theirs[n]) for n in theirs)


def test_activations_are_not_kept():
    """Of a frozen MLP: the gate's and the up's output, and not the activation's."""
    model = llama()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("self_attn" in name)
    read, positions, _ = batch()
    outputs: list[torch.Tensor] = []  # as long as one lives, nothing else lies at its address
    hook = model.model.layers[1].mlp.act_fn.register_forward_hook(
        lambda module, given, output: outputs.append(output.detach())
    )
    kept: list[torch.Tensor] = []
    real = torch.autograd.graph.saved_tensors_hooks.__init__

    def watch(self, pack, unpack):
        def packed(tensor):
            result = pack(tensor)
            if isinstance(result, torch.Tensor):
                kept.append(result)
            return result

        real(self, packed, unpack)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.autograd.graph.saved_tensors_hooks, "__init__", watch)
        with sparing(model):
            logits = logits_at(model, model, read, positions)
    hook.remove()
    assert logits.requires_grad
    assert outputs
    assert not {t.data_ptr() for t in kept} & {t.data_ptr() for t in outputs}


def test_an_activation_in_place_is_kept_as_it_is():
    layer = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(inplace=True))
    given = torch.randn(3, 4)
    (layer(given) * 2).sum().backward()
    theirs = gradients(layer)
    with sparing(layer):
        total = (layer(given) * 2).sum()
    total.backward()
    close(gradients(layer), theirs, rtol=0, atol=0)


def test_a_stage_in_tiles_is_a_stage_without(tmp_path, monkeypatch):
    first = values(train(llama(), "sa-proj", tmp_path / "a").model)
    monkeypatch.setattr(PlainHead, "loss", lambda *args: None)
    second = values(train(llama(), "sa-proj", tmp_path / "b").model)
    close(first, second, rtol=0, atol=2e-5)
