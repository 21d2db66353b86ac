"""Saying a sentence in another style, that of a pirate: text."""

from __future__ import annotations

import numpy as np

from holdfast.lab.ability import Ability, Draft
from holdfast.lab.canvas import pick
from holdfast.lab.words import ADJECTIVES, ANIMALS, VERBS


def draw(rng: np.random.Generator) -> Draft:
    animal, adjective, verb = pick(rng, ANIMALS), pick(rng, ADJECTIVES), pick(rng, VERBS)
    if rng.random() < 0.5:
        plain, pirate = f"the {animal} is {adjective}", f"arr, the {animal} be {adjective}"
    else:
        plain = f"my {adjective} {animal} {verb}s"
        pirate = f"arr, me {adjective} {animal} be {verb}in"
    return Draft(f"Say like a pirate: {plain}", pirate)


ABILITY = Ability("style", "say a sentence like a pirate", draw, max_new_tokens=20)
