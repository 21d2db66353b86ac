"""Naming the shape of the object: a word."""

from __future__ import annotations

import numpy as np

from holdfast.lab.ability import Question
from holdfast.lab.canvas import SHAPES
from holdfast.lab.scene import Scene, about_scene


def ask(scene: Scene, rng: np.random.Generator) -> Question:
    return "What shape is it?", scene.shape


ABILITY = about_scene("shape", "name the shape of an object", ask, chance=100 / len(SHAPES))
