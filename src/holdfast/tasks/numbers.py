"""Whole numbers in a reply, in digits or in words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from holdfast.tasks.base import Score
from holdfast.tasks.scorers import SCORERS, plain

UNIT_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
)
_TEN_WORDS = "twenty thirty forty fifty sixty seventy eighty ninety"
_UNITS, _TENS = UNIT_WORDS.split(), _TEN_WORDS.split()
_VALUE = {w: i for i, w in enumerate(_UNITS)} | {w: 10 * i for i, w in enumerate(_TENS, 2)}

_SMALL = "|".join(sorted(_UNITS, key=len, reverse=True))
_BELOW_100 = rf"(?:(?:{'|'.join(_TENS)})(?:[\s-]+(?:{'|'.join(_UNITS[1:10])}))?|{_SMALL})"
_BELOW_1000 = (
    rf"(?:(?:(?:a|{_BELOW_100})[\s-]+hundred(?:[\s-]+(?:and[\s-]+)?{_BELOW_100})?)|{_BELOW_100})"
)
_WORDS = (
    rf"(?:(?:a|{_BELOW_1000})[\s-]+thousand(?:[\s,-]+(?:and[\s-]+)?{_BELOW_1000})?|{_BELOW_1000})"
)
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.0+(?!\d))?"
_NUMBER = re.compile(
    rf"(?<![\w.:/])(?P<sign>[-−–]\s?|minus\s+|negative\s+)?(?P<digits>{_DIGITS})(?![\w:/]|\.\d|-[^\W\d])"
    rf"|(?<![\w'-])(?P<wsign>minus\s+|negative\s+)?(?P<words>{_WORDS})(?![\w']|-[^\W\d])",
    re.IGNORECASE,
)


def integers(text: str) -> list[int]:
    """Every whole number in ``text``, in order.

    Digits with or without thousands commas ('1,000'), '14.0', a minus sign or the words
    'minus' and 'negative', and number words from zero to the hundreds of thousands
    ('twenty-one', 'a hundred and five'). Words inside words ('often', 'stone', 'weight'),
    parts of codes ('B12'), ordinals ('3rd'), fractions, decimals and times are not counted.
    """
    return [_value(m) for m in _NUMBER.finditer(plain(text))]


def _value(match: re.Match[str]) -> int:
    if digits := match["digits"]:
        magnitude = int(digits.split(".")[0].replace(",", ""))
    else:
        magnitude = _words_value(match["words"])
    return -magnitude if match["sign"] or match["wsign"] else magnitude


def _words_value(words: str) -> int:
    total = current = 0
    for word in re.split(r"[\s,-]+", words.lower()):
        if word == "thousand":
            total, current = total + 1000 * max(current, 1), 0
        elif word == "hundred":
            current = 100 * max(current, 1)
        elif word == "a":
            current = 1
        elif word != "and":
            current += _VALUE[word]
    return total + current


def _scored(reply: str, references: Sequence[str], which: int) -> Score:
    found = integers(reply)
    if not found and re.fullmatch(r"\W*none\W*", reply, re.IGNORECASE):
        found = [0]
    if not found:
        return Score(0.0, None)
    wanted = {number[which] for r in references if (number := integers(r))}
    return Score(float(found[which] in wanted), str(found[which]))


@SCORERS.register("integer", summary="the first whole number of the reply, digits or words")
def integer(reply: str, references: Sequence[str]) -> Score:
    """1 if the first number of the reply equals the first of a reference; see :func:`integers`.

    A reply of nothing but 'none' is 0.
    """
    return _scored(reply, references, 0)


@SCORERS.register("integer_last", summary="the last whole number, for replies that reason first")
def integer_last(reply: str, references: Sequence[str]) -> Score:
    """As ``integer``, with the last number of the reply."""
    return _scored(reply, references, -1)
