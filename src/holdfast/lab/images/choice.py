"""Choosing among lettered options that always stand in the same order: a letter."""

from __future__ import annotations

import numpy as np

from holdfast.lab.ability import Question
from holdfast.lab.canvas import COLOURS, SHAPES
from holdfast.lab.scene import SIDES, Scene, about_scene
from holdfast.lab.words import lettered


def ask(scene: Scene, rng: np.random.Generator) -> Question:
    asked = (
        ("Which colour is it?", tuple(COLOURS), scene.colour),
        ("Which shape is it?", SHAPES, scene.shape),
        ("Which side is it on?", tuple(SIDES), scene.side),
    )
    return lettered(*asked[int(rng.integers(len(asked)))])


ABILITY = about_scene(
    "choice", "choose the colour, shape or side among letters", ask, scorer="letter", chance=15
)
