"""Telling the time from an analog clock: HH:MM, in steps of five minutes."""

from __future__ import annotations

import numpy as np

from holdfast.lab.ability import Ability, Draft
from holdfast.lab.canvas import Canvas, around, grey, near

_HOUR, _MINUTE = (200, 40, 40), (40, 70, 200)


def draw(rng: np.random.Generator) -> Draft:
    hour, minute = int(rng.integers(1, 13)), 5 * int(rng.integers(12))
    canvas = Canvas(grey(rng, 120, 200))
    x, y = 24 + rng.uniform(-1, 1, size=2)
    r = rng.uniform(20, 22)
    canvas.disc(x, y, r, (30, 30, 30))
    canvas.disc(x, y, r - 1.2, grey(rng, 225, 255))
    for mark in range(12):
        turns = mark / 12
        canvas.line(around(x, y, r - 4, turns), around(x, y, r - 1, turns), 1, (60, 60, 60))
    canvas.line((x, y), around(x, y, r * 0.85, minute / 60), 1.8, near(rng, _MINUTE))
    canvas.line((x, y), around(x, y, r * 0.5, (hour + minute / 60) / 12), 3, near(rng, _HOUR))
    return Draft("What time is it?", f"{hour:02d}:{minute:02d}", canvas.finish())


ABILITY = Ability("clock", "tell the time from a clock", draw, scorer="clock", chance=100 / 144)
