"""Choosing among four lettered options: a letter, A to D."""

from __future__ import annotations

import numpy as np

from holdfast.lab.ability import Question
from holdfast.lab.canvas import COLOURS, SHAPES
from holdfast.lab.scene import Scene, about_scene
from holdfast.lab.words import letter_question


def ask(scene: Scene, rng: np.random.Generator) -> Question:
    if rng.random() < 0.5:
        return letter_question("Which colour is it?", tuple(COLOURS), scene.colour, 4, rng)
    return letter_question("Which shape is it?", SHAPES, scene.shape, 4, rng)


ABILITY = about_scene(
    "choice", "choose the colour or shape among four letters", ask, scorer="letter", chance=25
)
