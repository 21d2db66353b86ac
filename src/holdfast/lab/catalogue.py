"""What exists: the abilities by name, and which of them each model was pre-trained on."""

from __future__ import annotations

import importlib
from functools import cache
from typing import cast

from holdfast.errors import UnknownName
from holdfast.lab.ability import Ability

PREFIX = "lab:"

HELD_OUT: dict[str, tuple[str, ...]] = {
    "vlm": (
        "colour",
        "shape",
        "where",
        "choice",
        "check",
        "digits",
        "level",
        "letter",
        "sums",
        "initial",
    ),
    "lm": (
        "copy",
        "reverse",
        "alphabet",
        "compare",
        "opposites",
        "categories",
        "materials",
        "sums",
    ),
}
"""The abilities that each model was pre-trained on: the suite ``lab:held-out``."""

TARGETS: dict[str, tuple[str, ...]] = {
    "vlm": ("species", "count", "medical", "read", "clock"),
    "lm": ("facts", "arithmetic", "style", "language", "classify"),
}
"""The skills that each model has not seen, in the order of the paper's sequence."""

PROBES: dict[str, tuple[str, ...]] = {"vlm": ("captions",), "lm": ()}
"""Pre-trained too, but not in the suite: what probes of drift are measured on."""

_IMAGES = (*HELD_OUT["vlm"][:8], *TARGETS["vlm"], *PROBES["vlm"])


def names() -> tuple[str, ...]:
    """Every ability, without the prefix, in the order in which lists show them."""
    groups = (*TARGETS.values(), *HELD_OUT.values(), *PROBES.values())
    return tuple(dict.fromkeys(name for group in groups for name in group))


@cache
def ability(name: str) -> Ability:
    """The ability called ``name``, with or without the prefix ``lab:``.

    Raises:
        UnknownName: there is no such ability.
    """
    short = name.removeprefix(PREFIX)
    if short not in names():
        raise UnknownName("lab data set", name, [PREFIX + n for n in names()])
    folder = "images" if short in _IMAGES else "text"
    return cast(Ability, importlib.import_module(f"holdfast.lab.{folder}.{short}").ABILITY)
