"""Times of day as a clock's face shows them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from holdfast.tasks.base import Answer, Score
from holdfast.tasks.scorers import DETAILS, SCORERS, plain

_TIME = re.compile(r"(?<![\d:.])(\d{1,2})\s?:\s?(\d{1,2})(?!\d)")


def time_of(text: str) -> tuple[int, int] | None:
    """The first 'H:MM' of ``text`` as (hour, minute), or None. 25:00 and 7:60 are no times."""
    for match in _TIME.finditer(plain(text)):
        hour, minute = int(match[1]), int(match[2])
        if hour <= 24 and minute <= 59:
            return hour, minute
    return None


def minutes_agree(a: int, b: int) -> bool:
    """Within one minute on the dial, so that 59 and 0 agree; the hour is not adjusted."""
    return abs(a - b) <= 1 or abs(a - b) == 59


@SCORERS.register(
    "clock",
    summary="H:MM, the same hour and a minute within one",
    paper="Zhu et al. 2025, arXiv 2510.08564 (hour and minute both right)",
)
def clock(reply: str, references: Sequence[str]) -> Score:
    """1 if hour and minute both agree with one reference."""
    said = time_of(reply)
    if said is None:
        return Score(0.0, None)
    wanted = [t for r in references if (t := time_of(r))]
    right = any(said[0] == t[0] and minutes_agree(said[1], t[1]) for t in wanted)
    return Score(float(right), f"{said[0]:02d}:{said[1]:02d}")


def clock_details(answers: Sequence[Answer]) -> Mapping[str, float]:
    """Hour, minute and both accuracy over all answers, in percent; an unread reply is wrong."""
    hour = minute = both = 0
    for answer in answers:
        said, wanted = time_of(answer.reply), time_of(answer.references[0])
        if said and wanted:
            hour += said[0] == wanted[0]
            minute += minutes_agree(said[1], wanted[1])
        both += answer.score == 1.0
    n = len(answers) or 1
    return {
        "hour_accuracy": 100 * hour / n,
        "minute_accuracy": 100 * minute / n,
        "both_accuracy": 100 * both / n,
    }


DETAILS["clock"] = clock_details
