"""Pictures that only the vision tower ever sees: print, crowds, dials.

A tower that was trained on the web has met letters in a row, many small things and needles
on a dial long before a language model is taught to read, to count or to tell the time. These
pictures give the lab's tower as much: what lies under each of its patches, and where a needle
points. No question is asked about them, so the language model learns none of those skills.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from holdfast.lab.canvas import COLOURS, SHAPES, SIDE, Canvas, around, grey, near, pick
from holdfast.lab.words import LETTERS

PATCH = 8
_GRID = SIDE // PATCH
_CENTRES = PATCH * (np.arange(_GRID) + 0.5)
DIRECTIONS = 24


@dataclass(frozen=True)
class Glimpse:
    """A picture and what can be said about it."""

    pixels: Any
    """[48, 48, 3] bytes."""
    whole: dict[str, str] = field(default_factory=dict)
    """What the whole picture shows, by kind of question."""
    patches: dict[str, Any] = field(default_factory=dict)
    """[36] class numbers, what lies under each patch, by kind of question."""


def print_(rng: np.random.Generator) -> Glimpse:
    """One to three letters in a row; each patch says which letter covers its centre."""
    canvas = Canvas(grey(rng, 200, 255))
    colour = near(rng, COLOURS[pick(rng, ("red", "green", "blue", "purple", "brown"))])
    under = np.full((_GRID, _GRID), len(LETTERS))
    number, size = int(rng.integers(1, 4)), rng.uniform(18, 27)
    pitch = min(size * rng.uniform(0.65, 0.85), (SIDE - 4) / number)
    x = rng.uniform(2 + pitch / 2, SIDE - 2 - pitch * (number - 0.5))
    y = rng.uniform(14, SIDE - 14)
    for _ in range(number):
        letter = int(rng.integers(len(LETTERS)))
        canvas.text(x, y, LETTERS[letter], size, colour)
        covered = np.ix_(abs(_CENTRES - y) < size * 0.42, abs(_CENTRES - x) < pitch / 2)
        under[covered] = letter
        x += pitch
    return Glimpse(np.asarray(canvas.finish()), patches={"print": under.ravel()})


def crowd(rng: np.random.Generator) -> Glimpse:
    """Up to 22 small things of any shape and colour; each patch says how many begin in it."""
    canvas = Canvas(grey(rng, 0, 40) if rng.random() < 0.5 else grey(rng, 215, 255))
    under = np.zeros((_GRID, _GRID), dtype=np.int64)
    placed: list[tuple[float, float]] = []
    wanted, r = int(rng.integers(23)), rng.uniform(2.2, 3.6)
    for _ in range(40 * wanted):
        if len(placed) == wanted:
            break
        x, y = rng.uniform(r + 1, SIDE - r - 1, size=2)
        if any((x - a) ** 2 + (y - b) ** 2 < (2.3 * r) ** 2 for a, b in placed):
            continue
        placed.append((x, y))
        canvas.shape(pick(rng, SHAPES), x, y, r, near(rng, COLOURS[pick(rng, tuple(COLOURS))]))
        under[int(y // PATCH), int(x // PATCH)] += 1
    return Glimpse(np.asarray(canvas.finish()), patches={"crowd": under.ravel().clip(max=2)})


def dial(rng: np.random.Generator) -> Glimpse:
    """A plate with a long and a short needle; which way each points."""
    canvas = Canvas(grey(rng, 100, 220))
    x, y = 24 + rng.uniform(-3, 3, size=2)
    r = rng.uniform(16, 21)
    canvas.disc(x, y, r, grey(rng, 220, 255))
    long, short = rng.uniform(size=2)
    paint = rng.permutation(list(COLOURS.values()))
    for turns, length, width, colour in ((long, 0.85, 1.8, paint[0]), (short, 0.5, 3.0, paint[1])):
        canvas.line((x, y), around(x, y, r * length, turns), width, near(rng, tuple(colour)))
    whole = {
        n: str(round(t * DIRECTIONS) % DIRECTIONS) for n, t in (("long", long), ("short", short))
    }
    return Glimpse(np.asarray(canvas.finish()), whole)


GLIMPSES: dict[str, Callable[[np.random.Generator], Glimpse]] = {
    "print": print_,
    "crowd": crowd,
    "dial": dial,
}
