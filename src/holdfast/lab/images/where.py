"""Saying on which side of the picture the object is: a word."""

from __future__ import annotations

import numpy as np

from holdfast.lab.ability import Question
from holdfast.lab.scene import SIDES, Scene, about_scene


def ask(scene: Scene, rng: np.random.Generator) -> Question:
    return "Where is it?", scene.side


ABILITY = about_scene("where", "say on which side an object is", ask, chance=100 / len(SIDES))
