"""Teaching the vision tower to see before the language model listens to it.

A LLaVA starts from a tower that was trained on images with their descriptions. Here the
tower first learns to tell what a picture shows from the mean of its patches, and what lies
under a patch from that patch, one linear read-out per kind of question; the read-outs are
thrown away. Without this the language model spends most of its training at chance, since at
first it looks everywhere alike.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from holdfast.lab.ability import Draft, drafts
from holdfast.lab.catalogue import ability
from holdfast.lab.glimpses import GLIMPSES, Glimpse
from holdfast.lab.packing import to_pixel_values
from holdfast.lab.scene import draw_scene

if TYPE_CHECKING:
    from torch import Tensor

STEPS, PEAK = 1200, 1.5e-3
BATCH = {
    "scenes": 32,
    "letter": 24,
    "digits": 24,
    "level": 8,
    "print": 24,
    "crowd": 20,
    "dial": 24,
}
"""Pictures of each kind per step."""
_ATTRIBUTES = ("colour", "shape", "size", "side")
_BANK = 8000


def teach_to_see(tower: Any, seed: int) -> Iterator[tuple[int, float]]:
    """Train ``tower`` in place; yields (steps done, mean loss) after each step."""
    import torch

    banks = {name: _bank(name, seed) for name in BATCH}
    everything = list(itertools.chain(*banks.values()))
    whole, patches = _classes(everything), _depths(everything)
    width = tower.config.hidden_size
    sizes = {kind: len(values) for kind, values in whole.items()} | patches
    heads = torch.nn.ModuleDict({kind: torch.nn.Linear(width, n) for kind, n in sizes.items()})
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
        loss = _loss(tower, heads, whole, batch)
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        yield step, loss.item()


def _loss(tower: Any, heads: Any, whole: dict[str, list[str]], batch: list[Glimpse]) -> Tensor:
    """The mean over kinds of question of the cross-entropy."""
    import torch
    import torch.nn.functional as F

    pixels = to_pixel_values(np.stack([glimpse.pixels for glimpse in batch]))
    hidden = tower(pixel_values=pixels).last_hidden_state[:, 1:]
    pooled = hidden.mean(dim=1)
    losses = []
    for kind in heads:
        if kind in whole:
            rows = [i for i, glimpse in enumerate(batch) if kind in glimpse.whole]
            wanted = torch.tensor([whole[kind].index(batch[i].whole[kind]) for i in rows])
            seen = pooled[rows]
        else:
            rows = [i for i, glimpse in enumerate(batch) if kind in glimpse.patches]
            wanted = torch.from_numpy(np.stack([batch[i].patches[kind] for i in rows])).flatten()
            seen = hidden[rows].flatten(0, 1)
        losses.append(F.cross_entropy(heads[kind](seen), wanted))
    return torch.stack(losses).mean()


def _bank(name: str, seed: int) -> list[Glimpse]:
    if name in GLIMPSES:
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        return [GLIMPSES[name](rng) for _ in range(_BANK)]
    if name == "scenes":
        return _scenes(seed)
    source = itertools.islice(drafts(ability(name), "train", seed), _BANK)
    return [Glimpse(np.asarray(draft.image), {name: draft.answer}) for draft in source]


def _scenes(seed: int) -> list[Glimpse]:
    rng = np.random.default_rng([seed, 4])
    bank: list[Glimpse] = []
    while len(bank) < _BANK:
        scene = draw_scene(rng)
        if Draft("", "", scene.image).split == "train":
            said = {kind: getattr(scene, kind) for kind in _ATTRIBUTES}
            bank.append(Glimpse(np.asarray(scene.image), said))
    return bank


def _classes(glimpses: list[Glimpse]) -> dict[str, list[str]]:
    found: dict[str, set[str]] = {}
    for glimpse in glimpses:
        for kind, value in glimpse.whole.items():
            found.setdefault(kind, set()).add(value)
    return {kind: sorted(values) for kind, values in found.items()}


def _depths(glimpses: list[Glimpse]) -> dict[str, int]:
    """How many classes each kind of question about patches has."""
    most: dict[str, int] = {}
    for glimpse in glimpses:
        for kind, under in glimpse.patches.items():
            most[kind] = max(most.get(kind, 0), int(under.max()) + 1)
    return most
