"""Scorers of the visual question answering benchmarks: VQA accuracy, ANLS, relaxed accuracy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

from holdfast.tasks.base import Score
from holdfast.tasks.numbers import UNIT_WORDS
from holdfast.tasks.scorers import SCORERS, normalise, plain

_CONTRACTIONS = """ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't
hadn't've hasn't haven't he'd he'd've he's how'd how'll how's i'd've i'm i've isn't it'd it'd've
it'll let's ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock oughtn't
'ow's'at shan't she'd've she's should've shouldn't shouldn't've somebody'd somebody'd've
somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've
something'll that's there'd there'd've there're there's they'd they'd've they'll they're they've
'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've
who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all
y'all'll y'all'd've you'd you'd've you'll you're you've"""
_CONTRACTION = {word.replace("'", ""): word for word in _CONTRACTIONS.split()}
_VQA_NUMBERS = {word: str(value) for value, word in enumerate(UNIT_WORDS.split()[:11])}
_VQA_NUMBERS["none"] = "0"
_VQA_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'


def vqa_normalise(text: str) -> str:
    """The answer form of the VQA evaluation: case, punctuation, numbers zero to ten, articles,
    contractions ('dont' is "don't").

    Punctuation that touches a space, or any when the text has a number with a comma, is
    dropped; other punctuation becomes a space; a full stop stays only before a digit.
    """
    text = " ".join(text.lower().split())
    has_number = re.search(r"\d,\d", text) is not None
    out = text
    for mark in _VQA_PUNCTUATION:
        touches = mark + " " in text or " " + mark in text
        out = out.replace(mark, "" if touches or has_number else " ")
    out = re.sub(r"\.(?!\d)", "", out)
    words = (_VQA_NUMBERS.get(word, word) for word in out.split())
    return " ".join(_contracted(w) for w in words if w not in ("a", "an", "the"))


def _contracted(word: str) -> str:
    return _CONTRACTION.get(word.replace("'", ""), word) if word.isascii() else word


@SCORERS.register(
    "vqa",
    summary="agreement with ten human answers, three of them being full marks",
    paper="Antol et al. 2015, arXiv 1505.00468",
)
def vqa(reply: str, references: Sequence[str]) -> Score:
    """mean over the references i of min(#{j != i : reference_j = reply} / 3, 1).

    With k of ten references equal to the reply: 0, 0.3, 0.6, 0.9, 1 for k = 0, 1, 2, 3, 4.
    With fewer than four references three matches among the others cannot happen, and one
    match counts in full. A reply of an article alone, such as 'a', is that of a reference.
    """
    said = vqa_normalise(reply)
    equal = [vqa_normalise(r) == said for r in references]
    if not plain(reply) or not (said or any(equal)):
        return Score(0.0, None)
    shown = said or plain(reply)
    if len(equal) < 4:
        return Score(float(any(equal)), shown)
    matches = sum(equal)
    return Score(sum(min((matches - e) / 3, 1.0) for e in equal) / len(equal), shown)


@SCORERS.register(
    "anls",
    summary="1 minus the normalised edit distance, 0 from a distance of one half on",
    paper="Biten et al. 2019, arXiv 1905.13648",
)
def anls(reply: str, references: Sequence[str]) -> Score:
    """The best over the references of 1 - d/max(len), set to 0 where d/max(len) >= 0.5.

    Case and white space at the ends and in runs do not count.
    """
    said = plain(reply).lower()
    if not said:
        return Score(0.0, None)
    return Score(max((_similarity(said, plain(r).lower()) for r in references), default=0.0), said)


def _similarity(a: str, b: str) -> float:
    distance = edit_distance(a, b) / max(len(a), len(b))
    return 1.0 - distance if distance < 0.5 else 0.0


def edit_distance(a: str, b: str) -> int:
    """Levenshtein: the fewest insertions, deletions and replacements from ``a`` to ``b``."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


_QUANTITY = re.compile(
    r"(?<![\w.,])(?P<sign>[-−+])?\s?[$€£¥]?\s?(?P<digits>\d{1,3}(?:,\d{3})+|\d+)?(?P<part>\.\d+)?"
    r"(?:e(?P<power>[-+]?\d{1,3}))?\s?(?P<percent>%|percent\b)?(?![\w%])",
    re.IGNORECASE,
)


def quantities(text: str) -> list[tuple[Decimal, bool]]:
    """Every number in ``text`` with whether a percent sign follows; exact, not floating point."""
    found = []
    for m in _QUANTITY.finditer(plain(text)):
        if m["digits"] or m["part"]:
            literal = (m["digits"] or "0").replace(",", "") + (m["part"] or "")
            value = Decimal(f"{literal}e{m['power'] or 0}")
            found.append((-value if m["sign"] in ("-", "−") else value, bool(m["percent"])))
    return found


@SCORERS.register(
    "relaxed",
    summary="a number within 5 percent, or the exact text",
    paper="Masry et al. 2022, arXiv 2203.10244 (ChartQA)",
)
def relaxed(reply: str, references: Sequence[str]) -> Score:
    """Numbers agree if |reply - reference| <= 0.05 |reference|, the boundary included; a
    reference of zero asks for zero. Other references are compared as ``exact`` does.

    A percent sign on one side only is taken for a unit or for a factor of 1/100, whichever
    agrees: '5%' fits '5' and '0.05'. Currency signs and thousands commas do not count.
    A reply to a numeric reference that has no number, or several, is unread.
    """
    said = normalise(reply)
    if not said:
        return Score(0.0, None)
    texts = [r for r in references if not _is_number(r)]
    if said in {normalise(r) for r in references}:
        return Score(1.0, said)
    numbers = quantities(reply)
    wanted = [quantities(r)[0] for r in references if _is_number(r)]
    if len(numbers) != 1:
        return Score(0.0, said if texts else None)
    right = any(_close(numbers[0], w) for w in wanted)
    return Score(
        float(right), said if texts and not right else f"{numbers[0][0]}" + "%" * numbers[0][1]
    )


def _is_number(text: str) -> bool:
    match = _QUANTITY.fullmatch(plain(text))
    return match is not None and bool(match["digits"] or match["part"])


def _close(said: tuple[Decimal, bool], wanted: tuple[Decimal, bool]) -> bool:
    value, reference = said[0], wanted[0]
    readings = [value] if said[1] == wanted[1] else [value, value / 100 if said[1] else value * 100]
    return any(abs(v - reference) <= abs(reference) * Decimal("0.05") for v in readings)
