"""Names that several abilities share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from holdfast.lab.ability import Ability, Draft
from holdfast.lab.canvas import pick

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

SPECIES = (
    "wolf", "fox", "owl", "bear", "frog", "toad", "crab", "swan", "duck", "goat",
    "lynx", "mole", "newt", "hare", "deer", "seal", "moth", "wasp", "crow", "dove",
    "hawk", "lark", "wren", "rook", "puma", "lion", "boar", "mule", "carp", "pike",
    "bass", "tuna", "slug", "worm", "flea", "gnat", "mink", "vole", "ibex", "kiwi",
)  # fmt: skip

ANIMALS = ("cat", "dog", "cow", "pig", "hen", "rat", "bee", "ant", "ape", "elk", "yak", "emu")
ADJECTIVES = ("red", "old", "big", "sad", "wet", "shy", "fat", "odd", "hot", "mad", "dry", "wise")
VERBS = ("sleep", "jump", "sing", "walk", "swim", "dream", "climb", "wait", "eat", "hunt")


def random_string(rng: np.random.Generator, shortest: int, longest: int) -> str:
    """Capital letters, each equally likely; every length equally likely."""
    length = int(rng.integers(shortest, longest + 1))
    return "".join(pick(rng, LETTERS) for _ in range(length))


OPENINGS = ("", "Tell me: ", "Quick: ", "Please say: ")
"""What a question may begin with, where a world has few questions."""


def facts_ability(
    name: str, summary: str, answers: Mapping[str, str], forms: Sequence[str]
) -> Ability:
    """An ability that asks in one of ``forms`` for what ``answers`` holds for a word.

    A form with a word belongs to one split: what is tested was taught in other words.
    """
    words = tuple(answers)

    def draw(rng: np.random.Generator) -> Draft:
        word = pick(rng, words)
        return Draft(pick(rng, OPENINGS) + pick(rng, forms).format(word), answers[word])

    return Ability(name, summary, draw, chance=100 / len(set(answers.values())))


def lettered(question: str, names: Sequence[str], right: str) -> tuple[str, str]:
    """``question`` above all ``names`` as lines ``A name``, and the letter of ``right``."""
    lines = (f"{letter} {name}" for letter, name in zip(LETTERS, names, strict=False))
    return "\n".join((question, *lines)), LETTERS[tuple(names).index(right)]
