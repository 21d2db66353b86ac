"""Facts for a tiny model: skills of a few words, taught one after the other through the engine."""

import copy
import sys
import tempfile
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import TrainerCallback

from holdfast.carried import Ended
from holdfast.config import Train
from holdfast.engine import carrying
from holdfast.engine.stage import train_stage
from holdfast.methods import plan
from holdfast.pieces.refit import CONSTANT

sys.path.insert(0, str(Path(__file__).parent.parent / "engine"))
from engine_tools import collate, llama

KEYS, VALUES = range(8, 32), 32
"""Words that are asked for, and the first of those that are said."""


def skill(number, keys=KEYS, copies=1):
    """Facts of one skill: its word, a key, and what the key means in it."""
    rows = []
    for key in keys:
        ids = torch.tensor([1 + number, key, VALUES + (key * 5 + 7 * number) % 24])
        labels = torch.tensor([-100, -100, int(ids[-1])])
        rows.append({"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)})
    return rows * copies


@torch.no_grad()
def loss(model, rows):
    """Of the last word of each row."""
    batch, was = collate(rows), model.training
    logits = model.eval()(batch["input_ids"]).logits[:, -2]
    model.train(was)
    return float(F.cross_entropy(logits, batch["labels"][:, -1]))


class Course(TrainerCallback):
    """After every step: the loss on what is learned, and on what is to be kept."""

    def __init__(self, learned, kept):
        self.learned, self.kept, self.seen = learned, kept, []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.seen.append((loss(model, self.learned), loss(model, self.kept)))

    def kept_at(self, level):
        """The loss on what is to be kept as soon as the other is as low as ``level``."""
        return next(kept for learned, kept in self.seen if learned <= level)


def teach(methods, model, own, *, stage=1, last=None, keep=None, earlier=(), watch=None, **more):
    """A stage on a copy of the model; ``keep``: where its pieces put what they carry."""
    sources = more.pop("sources", {})
    settings = {"learning_rate": 5e-3, "epochs": 15, "batch_size": 8, "cache": "off", **more}
    now = carrying.recall(plan(methods), last)
    with tempfile.TemporaryDirectory() as folder:
        trained = train_stage(
            now, copy.deepcopy(model), own, collate,
            Train(schedule=CONSTANT, save_every=10**6, **settings),
            folder=Path(folder), seed=stage, base_weights={}, advance=lambda done, total: None,
            note=lambda row: None, watchers=[watch] if watch else [],
            sources={**sources, **carrying.rehearsed(now, list(earlier))},
        )  # fmt: skip
    model = trained.model.eval()
    if keep is not None:
        ended = Ended(stage, 0, model, tuple(trained.changed), own, collate, list(earlier))
        carrying.keep(now, ended, keep)
    return model


def in_turn(methods, seed, folder, *, copies=1, **more):
    """Skill 0, then skill 1; the path of the second stage."""
    first, second = skill(0, copies=copies), skill(1, copies=copies)
    watch = Course(skill(1), skill(0))
    model = teach(methods, llama(seed=seed), first, keep=folder, **more)
    teach(
        methods, model, second, stage=2, last=folder, earlier=[first], watch=watch, **more
    )  # fmt: skip
    return watch
