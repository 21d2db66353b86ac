"""Knowing opposites: a word. A pair occurs in both splits, a way of asking for it in one."""

from __future__ import annotations

from holdfast.lab.ability import Ability
from holdfast.lab.words import facts_ability

_PAIRS = (
    ("hot", "cold"), ("big", "small"), ("fast", "slow"), ("up", "down"), ("wet", "dry"),
    ("old", "young"), ("light", "dark"), ("hard", "soft"), ("rich", "poor"), ("full", "empty"),
    ("early", "late"), ("near", "far"), ("loud", "quiet"), ("thick", "thin"), ("clean", "dirty"),
    ("happy", "sad"), ("open", "shut"), ("sharp", "blunt"), ("high", "low"), ("long", "short"),
)  # fmt: skip
_FORMS = (
    "What is the opposite of {}?",
    "Not {} but what?",
    "{} is the opposite of what?",
    "If it is not {}, what is it?",
    "Name the opposite of {}.",
)

ABILITY: Ability = facts_ability(
    "opposites",
    "name the opposite of a word",
    {**dict(_PAIRS), **{b: a for a, b in _PAIRS}},
    _FORMS,
)
