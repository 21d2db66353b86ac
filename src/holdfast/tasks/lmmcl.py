"""The official parsers of Zhu et al. (2025), quirks kept, to compare with published numbers.

Facts from the released code of arXiv 2510.08564: the letter is the first lone one, so that
'I think B' is read as I and the article of 'A bird' as A; number words are replaced inside
other words and in the order zero to twenty, so that 'fourteen' becomes 4 and 'often' 10.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from holdfast.tasks.base import Score
from holdfast.tasks.numbers import UNIT_WORDS
from holdfast.tasks.scorers import SCORERS

_PAPER = "Zhu et al. 2025, arXiv 2510.08564, released code"
_WORDS = f"{UNIT_WORDS} twenty"


@SCORERS.register(
    "letter_lmmcl", summary="compatibility: the first lone letter, 'I' too", paper=_PAPER
)
def letter_lmmcl(reply: str, references: Sequence[str]) -> Score:
    found = re.search(r"\b([a-zA-Z])\b", reply)
    if found is None:
        return Score(0.0, None)
    said = found.group(1).lower()
    return Score(float(said in {r.strip().lower() for r in references}), said.upper())


@SCORERS.register(
    "integer_lmmcl", summary="compatibility: number words replaced inside words", paper=_PAPER
)
def integer_lmmcl(reply: str, references: Sequence[str]) -> Score:
    said, wanted = _first(reply), {_first(r) for r in references}
    return Score(0.0, None) if said is None else Score(float(said in wanted), str(said))


def _first(text: str) -> int | None:
    low = text.lower()
    for value, word in enumerate(_WORDS.split()):
        low = low.replace(word, str(value))
    found = re.search(r"\d+", low)
    return int(found.group()) if found else None
