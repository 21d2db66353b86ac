"""Answer styles: sizes, shares, balance, and that nothing but the chosen records changes."""

from collections import Counter

import pytest

from holdfast.data.records import ImageRef, Record, say
from holdfast.data.styles import REQUESTS, diversify, own_style, question
from holdfast.errors import DataError, UsageError

WORDS = ("red", "blue", "green", "black", "white", "pink")
NUMBERS = ("1", "2", "3", "4", "5", "6")


def rows(n=100):
    made = []
    for i in range(n):
        answer = (WORDS if i % 2 else NUMBERS)[i // 2 % 6]
        asked = f"What is {i}?\n{REQUESTS['short']}"
        image = ImageRef(path=f"/x/{i}.png")
        made.append(Record((say("user", None, asked), say("assistant", answer)), (image,), str(i)))
    return made


def test_a_share_is_replaced_and_split_equally_over_the_other_styles():
    before = rows()
    after = diversify(before, share=0.4, seed=3)
    assert [r.id for r in after] == [r.id for r in before]
    changed = [(b, a) for b, a in zip(before, after, strict=True) if a is not b]
    assert len(changed) == 40
    styles = Counter(a.meta["style"] for _, a in changed)
    assert styles == {"yes_no": 10, "choice": 10, "brief": 10, "detail": 10}
    said = Counter(a.answer() for _, a in changed if a.meta["style"] == "yes_no")
    assert said == {"Yes": 5, "No": 5}
    for b, a in changed:
        assert a.images == b.images
        assert a.messages[0].parts[0].kind == "image"
        asked = a.messages[0].text
        assert asked.endswith(REQUESTS[a.meta["style"]])
        assert REQUESTS["short"] not in asked
        assert a.meta["original"] == b.answer()
    assert diversify(before, share=0.4, seed=3) == after
    assert diversify(before, share=0.4, seed=4) != after
    assert diversify(before, share=0) == before


def test_options_are_of_one_kind_and_the_letter_is_right():
    seen = set()
    for record in diversify(rows(), share=1.0, styles=["choice"]):
        *asked, _ = record.messages[0].text.splitlines()
        options = dict(line.split(". ") for line in asked[1:])
        assert list(options) == list("ABCD")
        assert len(set(options.values())) == 4
        assert options[record.answer()] == record.meta["original"]
        group = WORDS if record.meta["original"] in WORDS else NUMBERS
        assert set(options.values()) <= set(group)
        seen.add(record.answer())
    assert seen == set("ABCD")


def test_yes_asks_for_the_answer_and_no_for_another():
    for record in diversify(rows(), share=1.0, styles=["yes_no"]):
        asked = record.messages[0].text.split('"')[1]
        assert (asked == record.meta["original"]) == (record.answer() == "Yes")


def test_a_choice_becomes_words_and_keeps_its_own_options():
    asked = "Which one?\nA. the sun\nB. the moon\n" + REQUESTS["choice"]
    data = [
        Record((say("user", asked), say("assistant", a)), id=str(k)) for k, a in enumerate("ABB")
    ]
    assert own_style(data) == "choice"
    assert question(data[1]).answer == "the moon"
    (short, *_) = diversify(data, share=1.0, styles=["short"])
    assert short.messages[0].text == f"Which one?\n{REQUESTS['short']}"
    assert short.answer() == "the sun"


def test_a_writer_is_asked_and_what_it_leaves_out_has_a_template():
    def writer(records, questions, style):
        return [f"{q.answer} it is" if k else None for k, q in enumerate(questions)]

    made = diversify(rows(), share=1.0, styles=["brief", "detail"], writer=writer)
    written = [r.answer().endswith("it is") for r in made]
    assert written.count(False) == 2
    assert all(r.meta["original"] in r.answer() for r in made)


def test_refusals():
    with pytest.raises(UsageError, match="share=2"):
        diversify(rows(), share=2)
    with pytest.raises(UsageError, match="'loud'"):
        diversify(rows(), styles=["loud"])
    with pytest.raises(DataError, match="4 of 4 records are to be rewritten, and 0 can be"):
        diversify(rows(4), share=1.0)
    turns = (say("user", "a?"), say("assistant", "b"), say("user", "c?"), say("assistant", "d"))
    assert question(Record(turns)) is None
    assert question(Record((say("assistant", "text"),), raw=True)) is None
