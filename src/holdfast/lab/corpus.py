"""What the models are pre-trained on: the train split of every ability that they are to have."""

from __future__ import annotations

import itertools
from bisect import bisect
from collections.abc import Iterator
from typing import Any

import numpy as np

from holdfast.lab.ability import Draft, drafts
from holdfast.lab.catalogue import HELD_OUT, PROBES, TARGETS, ability
from holdfast.lab.packing import Packed, Row, pack
from holdfast.lab.scene import Scene, draw_scene
from holdfast.lab.tokenizer import Codec

SCENES = 12
"""Scenes per step; each of the scene's abilities asks about each of them."""
SHARES = {
    "vlm": {"digits": 8, "level": 4, "letter": 8, "sums": 8, "initial": 16},
    "lm": {"copy": 8, "reverse": 16, "alphabet": 8, "compare": 12},
}
SHARE = 8
"""Questions per step of each ability that is not about scenes, if ``SHARES`` says nothing."""
BANK = {"scenes": 10000, "copy": 12000, "reverse": 12000}
BANK_SIZE = 6000
"""Distinct questions that are drawn beforehand; ``BANK_SIZE`` where ``BANK`` says nothing."""
EDGES = (24, 52)
"""Rows of text are batched apart below, between and above these lengths, in tokens."""


def texts(which: str, seed: int) -> Iterator[str]:
    """Questions and answers for the tokenizer, those of the target skills included.

    A model's tokenizer has seen more kinds of text than the model's training: names and
    words of the targets are then single tokens, as a skill's words are for a large model.
    """
    for name in (*HELD_OUT[which], *PROBES[which], *TARGETS[which]):
        for draft in itertools.islice(drafts(ability(name), "train", seed), 300):
            yield f"{draft.question}\n{draft.answer}"


def batches(which: str, codec: Codec, seed: int) -> Iterator[list[Packed]]:
    """Endless: one step's batches, each of rows of a like length."""
    rng = np.random.default_rng([seed, 1])
    names = (*HELD_OUT[which], *PROBES[which])
    about = [name for name in names if ability(name).ask is not None]
    banks = {n: _bank(n, codec, seed) for n in names if n not in about}
    shares = SHARES[which]
    scenes = _scene_bank(about, codec, seed) if about else []
    while True:
        drawn = [
            banks[name][int(i)]
            for name in banks
            for i in rng.integers(len(banks[name]), size=shares.get(name, SHARE))
        ]
        groups = [
            [scenes[int(i)] for i in rng.integers(len(scenes), size=SCENES)] if scenes else [],
            [row for row in drawn if row.pixels is not None],
            *_by_length([row for row in drawn if row.pixels is None]),
        ]
        yield [pack(group, codec) for group in groups if group]


def _by_length(rows: list[Row]) -> list[list[Row]]:
    """Rows of a like length together, so that little is padding."""
    groups: list[list[Row]] = [[] for _ in range(len(EDGES) + 1)]
    for row in rows:
        groups[bisect(EDGES, len(row.branches[0][0]))].append(row)
    return groups


def _bank(name: str, codec: Codec, seed: int) -> list[Row]:
    source = drafts(ability(name), "train", seed)
    return [
        Row(_pixels(draft), (codec.branch(draft.question, draft.answer),))
        for draft in itertools.islice(source, BANK.get(name, BANK_SIZE))
    ]


def _scene_bank(about: list[str], codec: Codec, seed: int) -> list[Row]:
    rng = np.random.default_rng([seed, 2])
    rows: list[Row] = []
    while len(rows) < BANK["scenes"]:
        scene = draw_scene(rng)
        if Draft("", "", scene.image).split == "train":
            rows.append(_scene_row(scene, about, codec, rng))
    return rows


def _scene_row(scene: Scene, about: list[str], codec: Codec, rng: np.random.Generator) -> Row:
    asks = [ask for name in about if (ask := ability(name).ask) is not None]
    return Row(np.asarray(scene.image), tuple(codec.branch(*ask(scene, rng)) for ask in asks))


def _pixels(draft: Draft) -> Any:
    return None if draft.image is None else np.asarray(draft.image)
