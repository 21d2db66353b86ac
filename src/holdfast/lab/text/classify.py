"""Sorting reviews: good or bad, equally often, with and without a negation."""

from __future__ import annotations

import numpy as np

from holdfast.lab.ability import Ability, Draft
from holdfast.lab.canvas import pick

_THINGS = ("soup", "film", "hotel", "song", "book", "train", "cake", "play", "room", "phone")
_WORDS = {
    "good": ("lovely", "superb", "tasty", "perfect", "brilliant", "charming"),
    "bad": ("awful", "boring", "broken", "nasty", "horrible", "stale"),
}
_FORMS = ("The {thing} was {word}.", "A {word} {thing}.", "I found the {thing} {word}.")
_NEGATED = ("The {thing} was not {word}.", "The {thing} was never {word}.")


def draw(rng: np.random.Generator) -> Draft:
    label, negated = pick(rng, ("good", "bad")), bool(rng.random() < 0.3)
    tone = {"good": "bad", "bad": "good"}[label] if negated else label
    form = pick(rng, _NEGATED if negated else _FORMS)
    review = form.format(thing=pick(rng, _THINGS), word=pick(rng, _WORDS[tone]))
    return Draft(f"Good or bad? {review}", label)


ABILITY = Ability("classify", "sort reviews into good and bad", draw, max_new_tokens=4, chance=50)
