"""Comparing two numbers below a hundred: yes or no, equally often."""

from __future__ import annotations

import numpy as np

from holdfast.lab.ability import Ability, Draft
from holdfast.lab.canvas import pick


def draw(rng: np.random.Generator) -> Draft:
    low, high = sorted(int(v) for v in rng.choice(100, size=2, replace=False))
    a, b = (low, high) if rng.random() < 0.5 else (high, low)
    word, true = pick(rng, (("more", a > b), ("less", a < b)))
    return Draft(f"Is {a} {word} than {b}?", "yes" if true else "no", key=f"pair {low} {high}")


ABILITY = Ability(
    "compare", "compare two numbers", draw, scorer="yes_no", max_new_tokens=4, chance=50
)
