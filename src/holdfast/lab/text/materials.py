"""Knowing the colours of things: a word. See ``opposites`` for the splits."""

from __future__ import annotations

from holdfast.lab.ability import Ability
from holdfast.lab.words import facts_ability

_THINGS = {
    "red": "blood ruby brick tomato cherry",
    "green": "grass moss leaf pea jade",
    "blue": "sky sea sapphire denim ink",
    "yellow": "sun butter corn canary straw",
    "white": "snow chalk salt cloud pearl",
    "black": "coal soot night tar raven",
}
_FORMS = (
    "What colour is {}?",
    "Which colour has {}?",
    "The colour of {} is what?",
    "Name the colour of {}.",
    "{} has what colour?",
)

ABILITY: Ability = facts_ability(
    "materials",
    "name the colour of a thing",
    {thing: colour for colour, things in _THINGS.items() for thing in things.split()},
    _FORMS,
)
