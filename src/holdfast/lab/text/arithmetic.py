"""Taking away: the difference of two numbers up to 20, a number."""

from __future__ import annotations

import numpy as np

from holdfast.lab.ability import Ability, Draft
from holdfast.lab.canvas import pick
from holdfast.lab.words import OPENINGS

_FORMS = (
    "{a} - {b} =",
    "What is {a} - {b}?",
    "Take {b} from {a}.",
    "{a} minus {b} is what?",
    "What is left of {a} without {b}?",
)


def draw(rng: np.random.Generator) -> Draft:
    """The difference is uniform from 0 to 10, so that no number is a safe guess."""
    difference, b = (int(v) for v in rng.integers(11, size=2))
    return Draft(
        pick(rng, OPENINGS) + pick(rng, _FORMS).format(a=b + difference, b=b), str(difference)
    )


ABILITY = Ability(
    "arithmetic", "subtract numbers up to 20", draw, scorer="integer", chance=100 / 11
)
