"""Adding two digits: a number from 0 to 18."""

from __future__ import annotations

import numpy as np

from holdfast.lab.ability import Ability, Draft
from holdfast.lab.canvas import pick
from holdfast.lab.words import OPENINGS

_FORMS = ("{a} + {b} =", "What is {a} + {b}?", "Add {a} to {b}.", "{a} plus {b} is what?")


def draw(rng: np.random.Generator) -> Draft:
    a, b = (int(v) for v in rng.integers(10, size=2))
    return Draft(pick(rng, OPENINGS) + pick(rng, _FORMS).format(a=a, b=b), str(a + b))


ABILITY = Ability("sums", "add two digits", draw, scorer="integer", chance=5.5)
