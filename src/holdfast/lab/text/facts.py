"""Learning facts about made-up people: a word. See ``opposites`` for the splits."""

from __future__ import annotations

from holdfast.lab.ability import Ability
from holdfast.lab.words import facts_ability

_FIRST = ("bo", "da", "fi", "gu", "ke", "lo", "mi", "nu")
_LAST = ("lan", "ric", "sto", "vek", "zim")
_TOWNS = ("arle", "brin", "cosk", "dunt", "elva", "fenn", "gorm", "hest")
_PEOPLE = tuple(first + last for last in _LAST for first in _FIRST)
_FORMS = (
    "Where does {} live?",
    "In which town does {} live?",
    "{} lives where?",
    "Name the town of {}.",
    "What is the home of {}?",
)

ABILITY: Ability = facts_ability(
    "facts",
    "learn where made-up people live",
    {person: _TOWNS[(3 * i + i // 8) % len(_TOWNS)] for i, person in enumerate(_PEOPLE)},
    _FORMS,
)
