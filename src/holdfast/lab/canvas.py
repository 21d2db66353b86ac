"""Drawing: 48x48 RGB pictures, drawn three times as large and reduced, so that edges are smooth."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 48
"""Pixels per side of every picture of the lab."""
_UP = 3

Colour = tuple[int, int, int]
Point = tuple[float, float]

COLOURS: dict[str, Colour] = {
    "red": (214, 40, 40),
    "green": (44, 160, 44),
    "blue": (40, 80, 220),
    "yellow": (240, 220, 40),
    "purple": (140, 50, 180),
    "orange": (250, 135, 20),
    "pink": (250, 150, 200),
    "brown": (120, 75, 35),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")


class Canvas:
    """A picture being drawn; coordinates are in pixels of the finished 48x48 picture."""

    def __init__(self, ground: Colour) -> None:
        self.ground = ground
        self._image = Image.new("RGB", (SIDE * _UP, SIDE * _UP), ground)
        self._draw = ImageDraw.Draw(self._image)

    def finish(self) -> Image.Image:
        return self._image.reduce(_UP)

    def disc(self, x: float, y: float, rx: float, colour: Colour, ry: float | None = None) -> None:
        ry = rx if ry is None else ry
        self._draw.ellipse(_scaled(x - rx, y - ry, x + rx, y + ry), fill=colour)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        self._draw.rectangle(_scaled(x0, y0, x1, y1), fill=colour)

    def polygon(self, points: list[Point], colour: Colour) -> None:
        self._draw.polygon([(x * _UP, y * _UP) for x, y in points], fill=colour)

    def line(self, a: Point, b: Point, width: float, colour: Colour) -> None:
        self._draw.line(_scaled(*a, *b), fill=colour, width=round(width * _UP))

    def text(self, x: float, y: float, text: str, size: float, colour: Colour) -> None:
        """``text`` centred at (x, y), ``size`` pixels high."""
        font = _font(round(size * _UP))
        self._draw.text((x * _UP, y * _UP), text, fill=colour, font=font, anchor="mm")

    def shape(self, shape: str, x: float, y: float, r: float, colour: Colour) -> None:
        """One of ``SHAPES`` with centre (x, y) and half-width ``r``."""
        if shape == "circle":
            self.disc(x, y, r, colour)
        elif shape == "square":
            self.box(x - r * 0.85, y - r * 0.85, x + r * 0.85, y + r * 0.85, colour)
        elif shape == "cross":
            self.box(x - r, y - r * 0.3, x + r, y + r * 0.3, colour)
            self.box(x - r * 0.3, y - r, x + r * 0.3, y + r, colour)
        elif shape == "ring":
            self.disc(x, y, r, colour)
            self.disc(x, y, r * 0.55, self.ground)
        elif shape == "triangle":
            self.polygon(_offset(x, y, r, ((0, -1), (1, 0.8), (-1, 0.8))), colour)
        else:
            self.polygon(_offset(x, y, r, _STAR), colour)


def pick(rng: np.random.Generator, options: Any) -> Any:
    """One of ``options``, each equally likely."""
    return options[int(rng.integers(len(options)))]


def near(rng: np.random.Generator, colour: Colour, spread: int = 18) -> Colour:
    """``colour`` with a little noise: two pictures of one colour are rarely the same."""
    r, g, b = (int(np.clip(c + rng.integers(-spread, spread + 1), 0, 255)) for c in colour)
    return r, g, b


def grey(rng: np.random.Generator, low: int = 0, high: int = 255) -> Colour:
    """A random shade of grey."""
    level = int(rng.integers(low, high + 1))
    return level, level, level


def around(x: float, y: float, r: float, turns: float) -> Point:
    """The point at distance ``r`` from (x, y), ``turns`` of a circle clockwise from the top."""
    return x + r * math.sin(2 * math.pi * turns), y - r * math.cos(2 * math.pi * turns)


_STAR = tuple(around(0, 0, 1 if i % 2 == 0 else 0.42, i / 10) for i in range(10))


def _offset(x: float, y: float, r: float, points: tuple[Point, ...]) -> list[Point]:
    return [(x + r * dx, y + r * dy) for dx, dy in points]


def _scaled(*values: float) -> tuple[float, ...]:
    return tuple(v * _UP for v in values)


@lru_cache(maxsize=64)
def _font(size: int) -> Any:
    return ImageFont.load_default(size=size)
