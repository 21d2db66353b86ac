"""Questions about a made-up scan: yes or no half of the time, a short noun otherwise."""

from __future__ import annotations

import numpy as np
from PIL import Image

from holdfast.lab.ability import Ability, Draft
from holdfast.lab.canvas import Canvas, grey, pick

ORGANS = ("lung", "brain", "bone", "kidney")
FINDINGS = ("mass", "cyst", "stones", "crack")
_PLACES = {"lung": (-10.5, 10.5), "brain": (-8.5, 8.5), "bone": (0.0,), "kidney": (-8.0, -3.0)}
"""Where a finding may lie in each organ, left or right of the middle."""


def draw(rng: np.random.Generator) -> Draft:
    """A scan shows one organ and one finding; the question is about either."""
    organ, finding = pick(rng, ORGANS), pick(rng, FINDINGS)
    image = _scan(organ, finding, rng)
    names, right, noun = pick(rng, ((ORGANS, organ, "organ"), (FINDINGS, finding, "finding")))
    if rng.random() < 0.5:
        return Draft(f"Which {noun} does the scan show?", right, image)
    true = bool(rng.random() < 0.5)
    asked = right if true else pick(rng, [name for name in names if name != right])
    return Draft(f"Does the scan show a {asked}?", "yes" if true else "no", image)


def _scan(organ: str, finding: str, rng: np.random.Generator) -> Image.Image:
    canvas = Canvas(grey(rng, 0, 25))
    x, y = 24 + rng.uniform(-2, 2, size=2)
    tissue = grey(rng, 100, 140)
    if organ == "lung":
        canvas.disc(x - 10.5, y, 8.5, tissue, 18)
        canvas.disc(x + 10.5, y, 8.5, tissue, 18)
    elif organ == "brain":
        canvas.disc(x, y, 19, (200, 200, 200), 20)
        canvas.disc(x, y, 17, tissue, 18)
        canvas.line((x, y - 17), (x, y + 17), 1, (60, 60, 60))
    elif organ == "bone":
        canvas.box(x - 7, y - 20, x + 7, y + 20, tissue)
        for end in (-18, 18):
            canvas.disc(x - 6, y + end, 6, tissue)
            canvas.disc(x + 6, y + end, 6, tissue)
    else:
        canvas.disc(x, y, 16, tissue, 19)
        canvas.disc(x + 17, y, 9, canvas.ground, 8)
    _mark(canvas, finding, x + pick(rng, _PLACES[organ]), y + rng.uniform(-7, 7), rng)
    return canvas.finish()


def _mark(canvas: Canvas, finding: str, x: float, y: float, rng: np.random.Generator) -> None:
    if finding == "mass":
        canvas.disc(x, y, rng.uniform(3.5, 5), grey(rng, 220, 255))
    elif finding == "cyst":
        canvas.disc(x, y, rng.uniform(3.5, 5), grey(rng, 20, 50))
    elif finding == "stones":
        for dx, dy in ((-3, -2), (3, -3), (0, 1), (-2, 4), (3, 4)):
            canvas.disc(x + dx, y + dy, 1.2, (250, 250, 250))
    else:
        canvas.line((x - 5, y - 4), (x, y + 1), 1.5, (15, 15, 15))
        canvas.line((x, y + 1), (x + 5, y - 2), 1.5, (15, 15, 15))


ABILITY = Ability("medical", "answer questions about a made-up scan", draw, chance=37.5)
