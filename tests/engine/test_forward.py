"""Logits at chosen positions, and the reference model, against full forwards and copies."""

import copy

import pytest
import torch
from engine_tools import collate, examples, gemma2, llama
from torch.nn.functional import cross_entropy

from holdfast.engine.forward import Reference, logits_at, next_labels
from holdfast.errors import ModelError


@pytest.mark.parametrize("make", [llama, gemma2])
def test_chosen_logits_are_the_full_forwards(make):
    model, batch = make(), collate(examples(5))
    labels = batch.pop("labels")
    positions = next_labels(labels) != -100
    with torch.no_grad():
        full = model(**batch).logits
        chosen = logits_at(model, model, batch, positions)
    torch.testing.assert_close(chosen, full[positions], rtol=0, atol=1e-6)
    assert not model.get_output_embeddings()._forward_pre_hooks


def test_the_loss_over_them_is_the_models_own():
    model, batch = llama(), collate(examples(5))
    own = model(**batch).loss
    labels = batch.pop("labels")
    targets = next_labels(labels)
    logits = logits_at(model, model, batch, targets != -100)
    torch.testing.assert_close(cross_entropy(logits, targets[targets != -100]), own)


def test_no_position_is_fine():
    model, batch = llama(), collate(examples(2))
    labels = batch.pop("labels")
    logits = logits_at(model, model, batch, torch.zeros_like(labels, dtype=torch.bool))
    assert logits.shape == (0, 64)
    logits.sum().backward()


def test_a_model_without_a_head_is_refused():
    model = llama().model
    with pytest.raises(ModelError, match="no language-model head"):
        logits_at(model, model, {}, torch.ones(1, 1, dtype=torch.bool))


def test_reference_is_a_deep_copy_without_the_copy():
    model, batch = llama(attention_dropout=0.5), collate(examples(3))
    labels = batch.pop("labels")
    copied = copy.deepcopy(model).eval()
    names = [n for n, _ in model.named_parameters() if "mlp" in n]
    kept = Reference({n: p.detach().clone() for n, p in model.named_parameters() if n in names})
    model.train()
    with torch.no_grad():
        for n, p in model.named_parameters():
            if n in names:
                p.add_(torch.randn_like(p))
    positions = next_labels(labels) != -100
    got = kept.logits(model, batch, positions)
    with torch.no_grad():
        wanted = copied(**batch).logits[positions]
        moved = logits_at(model.eval(), model, batch, positions)
    torch.testing.assert_close(got, wanted)
    assert not torch.allclose(moved, wanted)
    assert not got.requires_grad


def test_reference_leaves_the_models_mode():
    model, batch = llama().train(), collate(examples(2))
    labels = batch.pop("labels")
    Reference({}).logits(model, batch, labels != -100)
    assert model.training
