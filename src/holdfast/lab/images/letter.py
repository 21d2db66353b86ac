"""Reading a printed capital letter: a letter."""

from __future__ import annotations

import numpy as np

from holdfast.lab.ability import Ability, Draft
from holdfast.lab.canvas import COLOURS, Canvas, grey, near, pick
from holdfast.lab.words import LETTERS


def draw(rng: np.random.Generator) -> Draft:
    letter = pick(rng, LETTERS)
    canvas = Canvas(grey(rng, 215, 255))
    x, y = rng.uniform(22, 26, size=2)
    colour = near(rng, COLOURS[pick(rng, ("red", "green", "blue", "purple", "brown"))])
    canvas.text(x, y, letter, rng.uniform(26, 30), colour)
    return Draft("Which letter is it?", letter, canvas.finish())


ABILITY = Ability("letter", "read a printed letter", draw, scorer="letter", chance=100 / 26)
