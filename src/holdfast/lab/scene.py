"""A scene: one object, with a colour, a shape, a size and a side. Six abilities ask about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from holdfast.lab.ability import Ability, Draft, Question
from holdfast.lab.canvas import COLOURS, SHAPES, Canvas, grey, near, pick

SIDES = {"left": (15, 24), "right": (33, 24), "top": (24, 15), "bottom": (24, 33)}
SIZES = {"small": (7.0, 7.8), "large": (12.0, 13.0)}


@dataclass(frozen=True)
class Scene:
    """What the picture shows, in the words of the answers."""

    colour: str
    shape: str
    size: str
    side: str
    image: Image.Image


def draw_scene(rng: np.random.Generator) -> Scene:
    """Every attribute uniform and independent."""
    colour, shape = pick(rng, tuple(COLOURS)), pick(rng, SHAPES)
    size, side = pick(rng, tuple(SIZES)), pick(rng, tuple(SIDES))
    ground = grey(rng, 0, 60) if rng.random() < 0.5 else grey(rng, 195, 255)
    canvas = Canvas(ground)
    x, y = SIDES[side]
    dx, dy = rng.uniform(-1, 1, size=2)
    canvas.shape(shape, x + dx, y + dy, rng.uniform(*SIZES[size]), near(rng, COLOURS[colour]))
    return Scene(colour, shape, size, side, canvas.finish())


def about_scene(
    name: str,
    summary: str,
    ask: Callable[[Scene, np.random.Generator], Question],
    *,
    scorer: str = "exact",
    max_new_tokens: int = 8,
    chance: float = 0.0,
) -> Ability:
    """An ability that asks ``ask`` about a random scene."""

    def draw(rng: np.random.Generator) -> Draft:
        scene = draw_scene(rng)
        question, answer = ask(scene, rng)
        return Draft(question, answer, scene.image)

    return Ability(name, summary, draw, scorer, max_new_tokens, chance, ask)
