"""Reading a reply for its content."""

from __future__ import annotations

import pytest

from holdfast.changes.lenient import finds, options, with_options
from holdfast.data.records import Record, say

COLOURS = ["red", "green", "blue", "dark blue"]


@pytest.mark.parametrize(
    ("reply", "answer", "scorer", "space", "right"),
    [
        ("The colour is red.", "red", "exact", COLOURS, True),
        ('{"answer": "red"}', "red", "exact", COLOURS, True),
        ("red or blue", "red", "exact", COLOURS, False),
        ("reddish", "red", "exact", COLOURS, False),
        ("it is green", "red", "exact", COLOURS, False),
        ("", "red", "exact", COLOURS, False),
        ("There are seven dots", "7", "integer", ["7", "8"], True),
        ("7 or 8", "7", "integer", ["7", "8"], False),
        ("There are 17", "7", "integer", ["7", "17"], False),
        ("Well, yes it does", "yes", "yes_no", ["yes", "no"], True),
        ("yes and no", "yes", "yes_no", ["yes", "no"], False),
        ("I believe the answer is (B)", "B", "letter", ["A", "B"], True),
        ("A bird", "A", "letter", ["A", "B"], False),
    ],
)
def test_content_is_found_whatever_the_form(
    reply: str, answer: str, scorer: str, space: list[str], right: bool
) -> None:
    assert finds(reply, [answer], space, scorer) is right


def test_an_option_may_be_named_by_its_words() -> None:
    prompt = Record((say("user", "Which is it?\nA. sparrow\nB) blue tit\n(C) owl"),))
    listed = options(prompt)
    assert listed == {"A": "sparrow", "B": "blue tit", "C": "owl"}
    words = with_options(["B"], listed)
    assert finds("a blue tit, I think", words, [*listed, *listed.values()], "letter")
    assert not finds("an owl", words, [*listed, *listed.values()], "letter")
