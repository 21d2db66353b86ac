"""A coefficient for each tensor goes where the exemplars send it."""

import random

import torch
from repair_world import HARM, KNOWN, SKILL, TAUGHT, make_model, make_tokenizer, tune

from holdfast.changes.repair.coefficients import Exemplars, FitSettings, fit
from holdfast.data import Encoder
from holdfast.data.records import Record, say


def exemplars(pairs):
    encoder = Encoder(make_tokenizer())
    records = [Record((say("user", a), say("assistant", b)), id=a) for a, b in pairs.items()]
    return Exemplars.of(encoder, records, random.Random(0))


def test_the_skill_stays_and_the_harm_goes():
    base, tuned = make_model(), make_model()
    tune(tuned)
    weights = dict(base.named_parameters())
    start = {n: p.clone() for n, p in weights.items()}
    tensors = {}
    for block in (SKILL, HARM):  # one tensor of each decides: the others are tuned already
        for unit in ("gate", "up", "down"):
            name = f"model.layers.{block}.mlp.{unit}_proj.weight"
            new = dict(tuned.named_parameters())[name].clone()
            if unit == "down":
                tensors[name] = (weights[name].clone(), new)
            else:
                weights[name].copy_(new)
                start[name] = new
    found = fit(
        base, tensors, exemplars(TAUGHT), exemplars(KNOWN), weight=1.0, pad_id=0,
        settings=FitSettings(steps=60, rate=0.3),
    )  # fmt: skip
    assert found.shares[f"model.layers.{SKILL}.mlp.down_proj.weight"] > 0.9
    assert found.shares[f"model.layers.{HARM}.mlp.down_proj.weight"] < 0.1
    assert min(found.losses) < found.losses[0]
    for name, value in base.named_parameters():
        assert torch.equal(value, start[name])
        assert value.grad is None
