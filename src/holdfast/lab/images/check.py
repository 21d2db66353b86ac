"""Confirming or denying what the picture shows: yes or no, equally often."""

from __future__ import annotations

import numpy as np

from holdfast.lab.ability import Question
from holdfast.lab.canvas import COLOURS, SHAPES, pick
from holdfast.lab.scene import Scene, about_scene
from holdfast.lab.words import article


def ask(scene: Scene, rng: np.random.Generator) -> Question:
    colour, shape = scene.colour, scene.shape
    true = bool(rng.random() < 0.5)
    if not true and rng.random() < 0.5:
        colour = pick(rng, [c for c in COLOURS if c != colour])
    elif not true:
        shape = pick(rng, [s for s in SHAPES if s != shape])
    return f"Is it {article(colour)} {shape}?", "yes" if true else "no"


ABILITY = about_scene("check", "confirm a colour and a shape", ask, scorer="yes_no", chance=50)
