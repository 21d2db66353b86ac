"""Spelling a string of letters backwards: text."""

from __future__ import annotations

import numpy as np

from holdfast.lab.ability import Ability, Draft
from holdfast.lab.words import random_string


def draw(rng: np.random.Generator) -> Draft:
    string = random_string(rng, 2, 5)
    return Draft(f"Reverse {string}", string[::-1], key=f"string {string}")


ABILITY = Ability("reverse", "spell a string backwards", draw, max_new_tokens=10)
