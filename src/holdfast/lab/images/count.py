"""Counting the objects: a number from 0 to 20."""

from __future__ import annotations

import numpy as np

from holdfast.lab.ability import Ability, Draft
from holdfast.lab.canvas import COLOURS, Canvas, grey, near, pick

_PLURALS = {
    "circle": "circles",
    "square": "squares",
    "triangle": "triangles",
    "cross": "crosses",
}
_CELL, _MOST = 9.0, 20


def draw(rng: np.random.Generator) -> Draft:
    """Objects of one shape and colour, never touching, in a loose 5 by 5 grid."""
    number = int(rng.integers(_MOST + 1))
    shape, colour = pick(rng, tuple(_PLURALS)), COLOURS[pick(rng, tuple(COLOURS))]
    ground = grey(rng, 0, 40) if rng.random() < 0.5 else grey(rng, 215, 255)
    canvas = Canvas(ground)
    for cell in rng.choice(25, size=number, replace=False):
        row, column = divmod(int(cell), 5)
        dx, dy = rng.uniform(-1.2, 1.2, size=2)
        x, y = 6 + column * _CELL + dx, 6 + row * _CELL + dy
        canvas.shape(shape, x, y, rng.uniform(2.6, 3.2), near(rng, colour))
    return Draft(f"How many {_PLURALS[shape]} are there?", str(number), canvas.finish())


ABILITY = Ability("count", "count 0 to 20 objects", draw, scorer="integer", chance=100 / 21)
