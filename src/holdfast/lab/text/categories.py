"""Knowing what kind of thing something is: a word. See ``opposites`` for the splits."""

from __future__ import annotations

from holdfast.lab.ability import Ability
from holdfast.lab.words import facts_ability

_MEMBERS = {
    "fruit": "apple pear plum grape lemon mango peach melon",
    "tool": "hammer saw drill axe wrench chisel spade rake",
    "metal": "iron gold silver copper tin lead zinc steel",
    "drink": "tea coffee milk juice water cider cocoa wine",
    "sport": "tennis golf rugby hockey chess judo rowing boxing",
}
_FORMS = (
    "What kind of thing is {}?",
    "What is {}?",
    "{} is a kind of what?",
    "Which group does {} belong to?",
    "Sort {} into its group.",
)

ABILITY: Ability = facts_ability(
    "categories",
    "say what kind of thing a word names",
    {member: kind for kind, members in _MEMBERS.items() for member in members.split()},
    _FORMS,
)
