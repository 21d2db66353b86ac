"""Reading a gauge: a number from 0 to 10."""

from __future__ import annotations

import numpy as np

from holdfast.lab.ability import Ability, Draft
from holdfast.lab.canvas import COLOURS, Canvas, grey, near, pick

_BOTTOM, _STEP = 44.0, 4.0


def draw(rng: np.random.Generator) -> Draft:
    level = int(rng.integers(11))
    dark = bool(rng.random() < 0.5)
    canvas = Canvas(grey(rng, 0, 40) if dark else grey(rng, 215, 255))
    x, width = rng.uniform(8, 26), rng.uniform(8, 14)
    top = _BOTTOM - 10 * _STEP
    canvas.box(x - 1, top - 1, x + width + 1, _BOTTOM + 1, (120, 120, 120))
    canvas.box(x, top, x + width, _BOTTOM, canvas.ground)
    if level:
        colour = near(rng, COLOURS[pick(rng, tuple(COLOURS))])
        canvas.box(x, _BOTTOM - level * _STEP, x + width, _BOTTOM, colour)
    for tick in range(11):
        y = _BOTTOM - tick * _STEP
        canvas.line((x + width, y), (x + width + 3, y), 0.7, (120, 120, 120))
    return Draft("What is the level?", str(level), canvas.finish())


ABILITY = Ability("level", "read a gauge from 0 to 10", draw, scorer="integer", chance=100 / 11)
