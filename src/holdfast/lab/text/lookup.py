"""Finding a name in a lettered list: a letter. Most lists are short, some have 26 lines."""

from __future__ import annotations

import numpy as np

from holdfast.lab.ability import Ability, Draft
from holdfast.lab.canvas import pick
from holdfast.lab.words import SPECIES, letter_question


def draw(rng: np.random.Generator) -> Draft:
    right = pick(rng, SPECIES)
    count = min(26, 1 + int(rng.geometric(0.15)))
    return Draft(*letter_question(f"Which line is {right}?", SPECIES, right, count, rng))


ABILITY = Ability(
    "lookup", "find a name in a lettered list", draw, scorer="letter", max_new_tokens=4, chance=25
)
