"""Telling 26 species of creature apart: a letter, A to Z, as in the paper's bird question.

The paper draws 25 wrong options for each question and puts the right one at a random letter.
Looking a name up in such a list is more than models of a million parameters were seen to
learn within a few hundred steps, so here the list is always the same, and each species has
its letter.
"""

from __future__ import annotations

import numpy as np

from holdfast.lab.ability import Ability, Draft
from holdfast.lab.canvas import COLOURS, Canvas, Colour, grey, near
from holdfast.lab.words import SPECIES as NAMES
from holdfast.lab.words import lettered

SPECIES = NAMES[:26]
_COATS = tuple(COLOURS.values())
_EARS = ("pointed", "round", "long", "horned", "none")


def draw(rng: np.random.Generator) -> Draft:
    """A species is a coat colour and a kind of ears; place, size and shade vary."""
    index = int(rng.integers(len(SPECIES)))
    # no species has the letter under which lab:choice lists the colour of its coat
    coat, ears = _COATS[(5 * index + 3) % len(_COATS)], _EARS[index // len(_COATS)]
    canvas = Canvas(grey(rng, 170, 255))
    x, y = 24 + rng.uniform(-4, 4), 29 + rng.uniform(-3, 3)
    _creature(canvas, x, y, rng.uniform(0.85, 1.1), near(rng, coat), ears)
    question, letter = lettered("Which species is it?", SPECIES, SPECIES[index])
    return Draft(question, letter, canvas.finish())


def _creature(canvas: Canvas, x: float, y: float, size: float, coat: Colour, ears: str) -> None:
    head, dark = 12 * size, (30, 30, 30)
    for side in (-1, 1):
        ear_x, ear_y = x + side * head * 0.65, y - head * 0.7
        if ears == "pointed":
            tip = (ear_x + side * 2 * size, ear_y - 9 * size)
            canvas.polygon([(ear_x - 5 * size, ear_y), tip, (ear_x + 5 * size, ear_y + 3)], coat)
        elif ears == "round":
            canvas.disc(ear_x, ear_y - 2 * size, 5.5 * size, coat)
        elif ears == "long":
            canvas.disc(x + side * head * 0.4, y - head - 5 * size, 2.6 * size, coat, 8 * size)
        elif ears == "horned":
            tip = (ear_x + side * 4 * size, ear_y - 9 * size)
            canvas.line((ear_x - side * 2 * size, ear_y), tip, 2.2 * size, dark)
    canvas.disc(x, y, head, coat)
    for side in (-1, 1):
        canvas.disc(x + side * head * 0.4, y - head * 0.2, 1.8 * size, dark)
    canvas.disc(x, y + head * 0.35, 2.2 * size, dark, 1.5 * size)


ABILITY = Ability(
    "species",
    "name a creature's species among 26 letters",
    draw,
    scorer="letter",
    max_new_tokens=4,
    chance=100 / 26,
)
