"""Naming the colour of the object: a word."""

from __future__ import annotations

import numpy as np

from holdfast.lab.ability import Question
from holdfast.lab.canvas import COLOURS
from holdfast.lab.scene import Scene, about_scene


def ask(scene: Scene, rng: np.random.Generator) -> Question:
    return "What colour is it?", scene.colour


ABILITY = about_scene("colour", "name the colour of an object", ask, chance=100 / len(COLOURS))
