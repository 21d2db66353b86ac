"""Translating into a made-up language: text.

Its words are ours under a fixed table, and its adjectives follow their nouns.
"""

from __future__ import annotations

import numpy as np

from holdfast.lab.ability import Ability, Draft
from holdfast.lab.canvas import pick
from holdfast.lab.words import ADJECTIVES, ANIMALS, VERBS

_ONSETS, _CODAS = ("b", "d", "g", "k", "m", "p", "t", "z"), ("ako", "eni", "ilu", "oza", "uve")
_SYLLABLES = tuple(onset + coda for coda in _CODAS for onset in _ONSETS)
DICTIONARY = dict(zip((*ANIMALS, *ADJECTIVES, *VERBS), _SYLLABLES, strict=False))


def draw(rng: np.random.Generator) -> Draft:
    animal, adjective, verb = pick(rng, ANIMALS), pick(rng, ADJECTIVES), pick(rng, VERBS)
    words = (DICTIONARY[animal], DICTIONARY[adjective], DICTIONARY[verb])
    return Draft(f"Translate: the {adjective} {animal} {verb}s", " ".join(words))


ABILITY = Ability("language", "translate into a made-up language", draw, max_new_tokens=16)
