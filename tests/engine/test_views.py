"""Views from the feed to the weights."""

import torch
from engine_tools import collate, examples, llama

from holdfast.config import Train
from holdfast.engine.stage import train_stage
from holdfast.methods import plan


def weights(method, folder, **settings):
    """The weights after a stage of 3 steps."""
    model = llama()
    train = Train(learning_rate=1e-2, steps=3, batch_size=8, cache="off", **settings)
    train_stage(
        plan(method), model, examples(6), collate, train, folder=folder, seed=0, base_weights={},
        advance=lambda done, total: None, note=lambda row: None,
    )  # fmt: skip
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_how_a_step_is_cut_changes_nothing(tmp_path):
    whole = weights("full | view-batch:views=2", tmp_path / "a", micro_batch_size=8)
    cut = weights("full | view-batch:views=2", tmp_path / "b", micro_batch_size=2)
    assert torch.allclose(whole, cut, atol=1e-5)
    alone = weights("full | view-batch:views=2,weight=0", tmp_path / "c", micro_batch_size=8)
    assert not torch.allclose(whole, alone, atol=1e-4), "the term says something"


def test_one_view_is_ordinary_training_to_the_bit(tmp_path):
    assert torch.equal(weights("full | view-batch:views=1", tmp_path / "a"),
                       weights("full", tmp_path / "b"))  # fmt: skip
