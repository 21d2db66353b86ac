"""Confirming or denying what the picture shows: yes or no, equally often."""

from __future__ import annotations

import numpy as np

from holdfast.lab.ability import Question
from holdfast.lab.canvas import pick
from holdfast.lab.scene import SIZES, Scene, about_scene


def ask(scene: Scene, rng: np.random.Generator) -> Question:
    size = pick(rng, tuple(SIZES))
    return f"Is it {size}?", "yes" if size == scene.size else "no"


ABILITY = about_scene("check", "confirm a size", ask, scorer="yes_no", chance=50)
