"""Every method over two stages with kills: it goes on to the bit (:mod:`holdfast.testing.resume`).

What carries something runs here joined into as few plans as compose; ``make test-slow`` runs every
method alone, with three kills.
"""

from __future__ import annotations

import gc

import pytest
import torch

from holdfast.carried import Anchored, Calibrated, LooksAhead, Remembers, Running
from holdfast.engine.carrying import pieces, remembering
from holdfast.errors import DataError, PlanConflict, SelectorError
from holdfast.methods import METHODS, plan
from holdfast.testing import check_resume
from holdfast.testing.resume import MOMENTS

torch.set_num_threads(1)

WRITES = "max_new_tokens=1,samples=8"
SETTINGS = {
    "last-n": "n=1",
    "first-n": "n=1",
    "bottom-freeze": "n=1",
    "train": "select='language[0].attn.q+o + language[1].mlp.down'",
    "scole": "classes=other,at_once=1",
    "expert-gates": "steps=3",
    "mora": "rank=2",
    "l2m": "entries=3,rank=2",
    "fpf": "iterations=1,distill=0.1 | full",
    "k-fpf": "k=1,iterations=1,distill=0.1 | full",
    "on-policy-distill": "max_new_tokens=1",
    "auto-cei": f"{WRITES},refusal=sorry",
    **dict.fromkeys(("grpo", "rloo", "remax", "rif", "self-sft"), WRITES),
}
"""What a run of a few steps on tiny data needs."""
NAMES = [f"{e.name}:{SETTINGS[e.name]}" if e.name in SETTINGS else e.name for e in METHODS]
UNFIT = {"vision", "projector", "random-words", "keep"}
"""What needs a tower, or more words, than the tiny model has."""


@pytest.fixture(autouse=True, scope="module")
def _quick_collections():
    """The trainer collects garbage several times a run; what was imported need not be looked at."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def carries(name):
    made = plan(name)
    kinds = (Remembers, Running, LooksAhead, Anchored, Calibrated)
    leaves = made.adapt is not None and made.adapt.structure() is not None
    return leaves or any(isinstance(piece, kinds) for piece in pieces(made))


def joined(names):
    """The names in groups that compose."""
    groups = []
    for name in names:
        for group in groups:
            try:
                remembering(plan([*group, name]))
            except PlanConflict:
                continue
            group.append(name)
            break
        else:
            groups.append([name])
    return groups


@pytest.mark.parametrize("group", joined(filter(carries, NAMES)), ids=" | ".join)
def test_what_is_carried_survives_a_kill(group):
    check_resume(*group)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_method_survives_three_kills(name):
    try:
        check_resume(name, kills=MOMENTS)
    except (SelectorError, DataError):
        assert name in UNFIT


def test_pieces_that_draw_ahead_of_a_step_go_on_with_the_same_numbers():
    """Their numbers come before the trainer's own; dropout in both."""
    check_resume("lora:dropout=0.3", "a-gem", "refresh:noise=true")
