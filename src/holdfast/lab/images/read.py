"""Reading a printed string of three letters: text. No string occurs in both splits."""

from __future__ import annotations

import numpy as np

from holdfast.lab.ability import Ability, Draft
from holdfast.lab.canvas import COLOURS, Canvas, grey, near, pick
from holdfast.lab.words import LETTERS


def draw(rng: np.random.Generator) -> Draft:
    string = "".join(pick(rng, LETTERS) for _ in range(3))
    canvas = Canvas(grey(rng, 215, 255))
    colour = near(rng, COLOURS[pick(rng, ("red", "green", "blue", "purple", "brown"))])
    size = rng.uniform(20, 24)
    dx, y = rng.uniform(-1, 1), 24 + rng.uniform(-6, 6)
    for i, letter in enumerate(string):
        canvas.text(9 + 15 * i + dx, y, letter, size, colour)
    return Draft("What does it say?", string, canvas.finish(), f"string {string}")


ABILITY = Ability("read", "read a printed string", draw, scorer="anls")
