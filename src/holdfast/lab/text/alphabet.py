"""Going on with the alphabet, forwards or backwards: a letter."""

from __future__ import annotations

import numpy as np

from holdfast.lab.ability import Ability, Draft
from holdfast.lab.canvas import pick
from holdfast.lab.words import LETTERS, OPENINGS

_FORMS = (
    "What comes after {run}?",
    "Go on: {run}",
    "{run} and then?",
    "Which letter follows {run}?",
)


def draw(rng: np.random.Generator) -> Draft:
    length = int(rng.integers(2, 6))
    letters = LETTERS if rng.random() < 0.5 else LETTERS[::-1]
    start = int(rng.integers(len(letters) - length))
    run = letters[start : start + length]
    return Draft(pick(rng, OPENINGS) + pick(rng, _FORMS).format(run=run), letters[start + length])


ABILITY = Ability(
    "alphabet", "go on with the alphabet", draw, scorer="letter", max_new_tokens=4, chance=100 / 26
)
