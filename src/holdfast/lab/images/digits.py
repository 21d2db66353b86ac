"""Reading a handwritten digit: a number. Real handwriting, scikit-learn's ``load_digits``.

1,797 digits by 43 people (Alpaydin and Kaynak, 1998, UCI optical recognition of handwritten
digits). A digit belongs to one split, however it is placed and inked.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from holdfast.errors import need
from holdfast.lab.ability import Ability, Draft
from holdfast.lab.canvas import SIDE


@lru_cache(maxsize=1)
def _handwriting() -> tuple[Any, Any]:
    digits = need("sklearn.datasets", "lab").load_digits()
    return digits.images / 16.0, digits.target


def draw(rng: np.random.Generator) -> Draft:
    images, labels = _handwriting()
    wanted = np.flatnonzero(labels == rng.integers(10))
    index = int(wanted[rng.integers(len(wanted))])
    side = int(rng.integers(42, 47))
    ink = Image.fromarray((images[index] * 255).astype(np.uint8)).resize((side, side))
    left, top = (int(v) for v in rng.integers(0, SIDE - side + 1, size=2))
    picture = Image.new("L", (SIDE, SIDE), 0)
    picture.paste(ink, (left, top))
    return Draft(
        "Which digit is it?", str(labels[index]), picture.convert("RGB"), f"handwriting {index}"
    )


ABILITY = Ability("digits", "read a handwritten digit", draw, scorer="integer", chance=10)
