"""Answer-style diversification: a share of a data set asked and answered in other styles.

A model that learns one answer format after another forgets formats before it forgets facts.
Chen et al. 2025 (SEFE, arXiv 2505.02486) therefore rewrite X% of each task's training examples,
in equal parts, into the answer styles that the task does not have, each asked for in words.
The data keep their size and order, and test sets stay as they are.

The wording of the requests is not in the paper; two are LLaVA's, the others are ours. Nothing
here needs a model: explanations are made from a template unless a ``writer`` is given.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from holdfast.data.records import Message, Part, Record
from holdfast.errors import DataError, UsageError

Style = Literal["short", "yes_no", "choice", "brief", "detail"]
STYLES: tuple[Style, ...] = get_args(Style)

REQUESTS: Mapping[Style, str] = {
    "short": "Answer the question using a single word or phrase.",
    "yes_no": "Please answer yes or no.",
    "choice": "Answer with the option's letter from the given choices directly.",
    "brief": "Please give a brief answer in about 20 words.",
    "detail": "Please give a detailed answer in about 50 words.",
}
"""What is put behind a question to ask for a style."""

LETTERS = "ABCD"
_OPTION = re.compile(r"^\s*\(?([A-H])[.):]\s*(.+?)\s*$")


@dataclass(frozen=True)
class Question:
    """What a record asks, without a request for a style or a list of options."""

    text: str
    answer: str
    """In words: the option's text where the record's own answer is its letter."""
    options: tuple[str, ...] = ()


Writer = Callable[[Sequence[Record], Sequence[Question], Style], Sequence[str | None]]
"""``writer(records, questions, style)``: a ``brief`` or ``detail`` answer to each, or None."""


def diversify(
    records: Sequence[Record],
    *,
    share: float = 0.2,
    styles: Sequence[Style] = STYLES,
    own: Style | None = None,
    seed: int = 0,
    writer: Writer | None = None,
) -> list[Record]:
    """As many records in the same order, ``share`` of them in another style.

    Which ones is drawn by ``seed``, out of those that can be rewritten: one question with one
    answer. They are split equally over ``styles`` without the data's own; half of the yes/no
    questions are answered yes. Wrong options are other answers of the same kind in the data. A
    rewritten record has ``style`` and the ``original`` answer in ``meta``.

    Args:
        share: of all records, 0 to 1; the paper's X is 0.2.
        styles: those to use.
        own: the data's own style; by default what most of its answers look like.
        seed: of everything that is drawn.
        writer: makes explanations (:mod:`holdfast.tasks.teachers`); where it has none, and
            without one, a template does.

    Raises:
        UsageError: the share is not from 0 to 1, or a style is not known or there is no other.
        DataError: too few records can be rewritten.
    """
    own = own or own_style(records)
    others = _others(styles, own, share)
    questions = {i: q for i, r in enumerate(records) if (q := question(r)) is not None}
    pool = _Answers(questions.values())
    rng = random.Random(seed)
    wanted = round(share * len(records))
    ruled = {"choice", "yes_no"} & set(others)
    able = [
        i
        for i, q in questions.items()
        if not ruled or pool.wrong(q, 3, random.Random(0)) is not None
    ]
    if wanted > len(able):
        raise DataError(
            f"{wanted} of {len(records)} records are to be rewritten, and {len(able)} can be: "
            "one question with one answer, and three other answers of its kind in the data. "
            "Give a smaller share, or styles without choice and yes_no."
        )
    chosen = rng.sample(able, wanted)
    assigned = {i: others[k % len(others)] for k, i in enumerate(chosen)}
    made = list(records)
    _by_rule(made, questions, assigned, pool, rng)
    _explained(made, questions, assigned, writer)
    return made


def _others(styles: Sequence[Style], own: Style, share: float) -> list[Style]:
    if not 0 <= share <= 1:
        raise UsageError(f"share={share}: it is a part of the records, from 0 to 1")
    unknown = [s for s in styles if s not in STYLES]
    if unknown:
        raise UsageError(f"there is no answer style {unknown[0]!r}; there is: {', '.join(STYLES)}")
    others = [s for s in dict.fromkeys(styles) if s != own]
    if not others:
        raise UsageError(f"the data's own style is {own}; name at least one other style")
    return others


def rewritten(record: Record) -> bool:
    """Whether :func:`diversify` made it: no test is made of such records."""
    return record.meta.get("style") in STYLES and "original" in record.meta


def own_style(records: Sequence[Record]) -> Style:
    """The style that most answers have, by their look; ties go to ``short``."""
    looks: Counter[Style] = Counter({"short": 0})
    for record in records:
        answer = record.answer().strip()
        words = len(answer.split())
        if kind(answer) == "yes_no":
            looks["yes_no"] += 1
        elif re.fullmatch(r"\(?[A-H]\)?\.?", answer):
            looks["choice"] += 1
        elif answer:
            looks["short" if words <= 8 else "brief" if words <= 35 else "detail"] += 1
    return looks.most_common(1)[0][0]


def kind(answer: str) -> str:
    """What sort of answer it is; wrong options are taken from the same sort."""
    text = answer.strip().rstrip(".").lower()
    if text in ("yes", "no"):
        return "yes_no"
    if re.fullmatch(r"[-+]?[\d.,]+%?", text):
        return "number"
    if re.fullmatch(r"[\[(][-\d.,\s]+[\])]", text):
        return "box"
    return "phrase" if " " in text else "word"


def question(record: Record) -> Question | None:
    """What a record asks; None if it is not one question with one answer."""
    turns = [m for m in record.messages if m.role != "system"]
    if record.raw or [m.role for m in turns] != ["user", "assistant"]:
        return None
    answer, lines = turns[1].text.strip(), _bare(turns[0].text).splitlines()
    found = [(m[1], m[2]) for line in lines if (m := _OPTION.match(line))]
    if len(found) < 2:
        text = "\n".join(lines).strip()
        return Question(text, answer) if text and answer else None
    text = "\n".join(line for line in lines if not _OPTION.match(line)).strip()
    texts = dict(found)
    letter = answer.strip("(). ")
    answer = texts.get(letter, answer)
    known = answer in texts.values()
    return Question(text, answer, tuple(texts.values())) if text and known else None


def _bare(text: str) -> str:
    """A question without the request for a style that it may end in."""
    text = text.strip()
    for request in REQUESTS.values():
        text = text.removesuffix(request).rstrip()
    return text


class _Answers:
    """All answers of a data set by kind."""

    def __init__(self, questions: Iterable[Question]) -> None:
        self._kinds: dict[str, dict[str, str]] = defaultdict(dict)
        for q in questions:
            self._kinds[kind(q.answer)].setdefault(q.answer.lower(), q.answer)

    def wrong(self, q: Question, count: int, rng: random.Random) -> list[str] | None:
        """``count`` different wrong answers; its own options first. None if there are fewer."""
        own = [o for o in dict.fromkeys(q.options) if o.lower() != q.answer.lower()]
        rng.shuffle(own)
        others = self._kinds[kind(q.answer)]
        free = [a for low, a in others.items() if low != q.answer.lower() and a not in own]
        if len(own) + len(free) < count:
            return None
        return (own + rng.sample(free, min(len(free), count)))[:count]


def _by_rule(
    made: list[Record],
    questions: Mapping[int, Question],
    assigned: Mapping[int, Style],
    pool: _Answers,
    rng: random.Random,
) -> None:
    says_yes = True
    for i, style in assigned.items():
        q = questions[i]
        if style == "short":
            made[i] = _rewritten(made[i], style, q.text, q.answer)
        elif style == "choice":
            wrong = pool.wrong(q, 3, rng)
            assert wrong is not None
            options = [q.answer, *wrong]
            rng.shuffle(options)
            lines = [f"{letter}. {o}" for letter, o in zip(LETTERS, options, strict=True)]
            letter = LETTERS[options.index(q.answer)]
            made[i] = _rewritten(made[i], style, "\n".join([q.text, *lines]), letter)
        elif style == "yes_no":
            wrong = pool.wrong(q, 1, rng)
            assert wrong is not None
            asked = q.answer if says_yes else wrong[0]
            text = f'{q.text}\nIs the answer "{asked}"?'
            made[i] = _rewritten(made[i], style, text, "Yes" if says_yes else "No")
            says_yes = not says_yes


def _explained(
    made: list[Record],
    questions: Mapping[int, Question],
    assigned: Mapping[int, Style],
    writer: Writer | None,
) -> None:
    free: tuple[Style, ...] = ("brief", "detail")
    for style in free:
        rows = [i for i, s in assigned.items() if s == style]
        asked = [questions[i] for i in rows]
        written: Sequence[str | None] = [None] * len(rows)
        if writer is not None and rows:
            written = writer([made[i] for i in rows], asked, style)
        for i, q, text in zip(rows, asked, written, strict=True):
            made[i] = _rewritten(made[i], style, q.text, text or template(q, style))


def template(q: Question, style: Style) -> str:
    """An explanation that says nothing beyond the answer, for want of a writer."""
    answer = q.answer.rstrip(".")
    if style == "brief":
        return f'The answer to the question is "{answer}", which is what was asked for here.'
    return (
        f'The question that was asked is: "{q.text}" The answer to it is "{answer}". This is the '
        "answer that fits what is given, and no other answer is right in its place. To repeat it "
        f'in short, the answer is "{answer}".'
    )


def _rewritten(record: Record, style: Style, text: str, answer: str) -> Record:
    """The record with another question and answer; its images stay where they were."""
    messages: list[Message] = []
    for message in record.messages:
        if message.role == "user":
            images = tuple(p for p in message.parts if p.kind == "image")
            asked = Part("text", f"{text}\n{REQUESTS[style]}")
            messages.append(replace(message, parts=(*images, asked)))
        elif message.role == "assistant":
            messages.append(replace(message, parts=(Part("text", answer),)))
        else:
            messages.append(message)
    meta = {**record.meta, "style": style, "original": record.answer()}
    return replace(record, messages=tuple(messages), meta=meta)
