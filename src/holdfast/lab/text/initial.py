"""A name's first letter, without a picture: a letter."""

from __future__ import annotations

from holdfast.lab.words import ANIMALS, SPECIES, facts_ability

FORMS = (
    "Which letter does {} begin with?",
    "With which letter does {} start?",
    "What is the first letter of {}?",
    "How does one begin to spell {}?",
)
ABILITY = facts_ability(
    "initial",
    "say the letter that a name begins with",
    {word: word[0].upper() for word in (*SPECIES, *ANIMALS)},
    FORMS,
)
