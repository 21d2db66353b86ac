"""Repeating a string of letters: text."""

from __future__ import annotations

import numpy as np

from holdfast.lab.ability import Ability, Draft
from holdfast.lab.words import random_string


def draw(rng: np.random.Generator) -> Draft:
    string = random_string(rng, 3, 6)
    return Draft(f"Copy {string}", string, key=f"string {string}")


ABILITY = Ability("copy", "repeat a string of letters", draw, max_new_tokens=10)
