"""Describing the picture: a phrase that never holds a number, for probes of drift."""

from __future__ import annotations

import numpy as np

from holdfast.lab.ability import Question
from holdfast.lab.scene import Scene, about_scene


def ask(scene: Scene, rng: np.random.Generator) -> Question:
    return "Describe it.", f"a {scene.size} {scene.colour} {scene.shape} at the {scene.side}"


ABILITY = about_scene("captions", "describe an object, without any number", ask, max_new_tokens=12)
