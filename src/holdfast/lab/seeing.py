"""Teaching the vision tower to see before the language model listens to it.

A LLaVA starts from a tower that was trained on images with their descriptions. Here the
tower first learns to tell what a picture shows from the mean of its patches, one linear
read-out per kind of question; the read-outs are thrown away. Without this the language
model spends most of its training at chance, since at first it looks everywhere alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from holdfast.lab.ability import Draft, drafts
from holdfast.lab.catalogue import ability
from holdfast.lab.packing import to_pixel_values
from holdfast.lab.scene import draw_scene

if TYPE_CHECKING:
    from torch import Tensor

STEPS, PEAK = 900, 1.5e-3
BATCH = {"scenes": 40, "letter": 32, "digits": 24, "level": 8}
"""Pictures of each kind per step."""
_ATTRIBUTES = ("colour", "shape", "size", "side")
_BANK = 6000

Labelled = tuple[Any, dict[str, str]]
"""Pixels ([48, 48, 3] bytes) and what can be said about them."""


def teach_to_see(tower: Any, seed: int) -> Iterator[tuple[int, float]]:
    """Train ``tower`` in place; yields (steps done, mean loss) after each step."""
    import torch

    banks = {n: _scenes(seed) if n == "scenes" else _labelled(n, seed) for n in BATCH}
    classes = _classes(list(banks.values()))
    width = tower.config.hidden_size
    heads = torch.nn.ModuleDict({k: torch.nn.Linear(width, len(v)) for k, v in classes.items()})
    parameters = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK, total_steps=STEPS, pct_start=0.1
    )
    rng = np.random.default_rng([seed, 3])
    for step in range(1, STEPS + 1):
        batch = [
            bank[int(i)]
            for name, bank in banks.items()
            for i in rng.integers(len(bank), size=BATCH[name])
        ]
        loss = _loss(tower, heads, classes, batch)
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        yield step, loss.item()


def _loss(tower: Any, heads: Any, classes: dict[str, list[str]], batch: list[Labelled]) -> Tensor:
    """The mean over kinds of question of the cross-entropy."""
    import torch
    import torch.nn.functional as F

    pixels = to_pixel_values(np.stack([picture for picture, _ in batch]))
    pooled = tower(pixel_values=pixels).last_hidden_state[:, 1:].mean(dim=1)
    losses = []
    for kind, values in classes.items():
        rows = [i for i, (_, labels) in enumerate(batch) if kind in labels]
        wanted = torch.tensor([values.index(batch[i][1][kind]) for i in rows])
        losses.append(F.cross_entropy(heads[kind](pooled[rows]), wanted))
    return torch.stack(losses).mean()


def _scenes(seed: int) -> list[Labelled]:
    rng = np.random.default_rng([seed, 4])
    bank: list[Labelled] = []
    while len(bank) < _BANK:
        scene = draw_scene(rng)
        if Draft("", "", scene.image).split == "train":
            bank.append((np.asarray(scene.image), {k: getattr(scene, k) for k in _ATTRIBUTES}))
    return bank


def _labelled(name: str, seed: int) -> list[Labelled]:
    source = drafts(ability(name), "train", seed)
    return [(np.asarray(d.image), {name: d.answer}) for d in itertools.islice(source, _BANK)]


def _classes(banks: list[list[Labelled]]) -> dict[str, list[str]]:
    found: dict[str, set[str]] = {}
    for bank in banks:
        for _, labels in bank:
            for kind, value in labels.items():
                found.setdefault(kind, set()).add(value)
    return {kind: sorted(values) for kind, values in found.items()}
