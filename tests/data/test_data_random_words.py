"""Questions of random words: of the vocabulary, about the stage's own pictures, by seed alone."""

from __future__ import annotations

import pytest

from holdfast import lab
from holdfast.data.random_words import FEWEST_WORDS, MOST, random_words, vocabulary
from holdfast.errors import DataError
from holdfast.models.loading import load_processor


@pytest.fixture(scope="module")
def tokenizer():
    return load_processor(lab.path("lab:vlm")).tokenizer


def test_words_of_the_vocabulary_alone(tokenizer):
    words = set(vocabulary(tokenizer))
    assert {"colour", "letter"} <= words
    for record in random_words(lab.records("lab:read", n=40), tokenizer, 3):
        question = record.messages[0].text
        assert set(question.rstrip("?.").split()) <= words
        assert record.answer() in words


def test_every_other_one_keeps_the_pictures_of_a_record(tokenizer):
    records = lab.records("lab:count", n=20)
    found = random_words(records, tokenizer, 0)
    assert [r.images for r in found[::2]] == [r.images for r in records[::2]]
    assert not any(r.images for r in found[1::2])
    assert all(r.prompt().messages[0].text not in {x.messages[0].text for x in records}
               for r in found)  # fmt: skip


def test_the_seed_alone_says_what_they_are(tokenizer):
    records = lab.records("lab:arithmetic", n=30)
    one, again, other = (list(random_words(records, tokenizer, s)) for s in (1, 1, 2))
    assert one == again
    assert one != other
    assert not any(r.images for r in one)


def test_at_most_so_many(tokenizer):
    records = lab.records("lab:arithmetic", n=10) * 100
    assert len(random_words(records, tokenizer, 0)) == MOST


@pytest.mark.parametrize("mark", ["\u0120", "\u2581", ""])
def test_vocabularies_that_mark_a_words_beginning_and_those_that_do_not(mark):
    class Tokens:
        all_special_ids = (0,)

        def get_vocab(self):
            return {"<s>": 0, f"{mark}cat": 1, f"{mark}12": 2, "ing" if mark else "a1": 3}

        def decode(self, ids):
            tokens = {v: k for k, v in self.get_vocab().items()}
            return tokens[ids[0]].replace(mark, " ") if mark else tokens[ids[0]]

    assert vocabulary(Tokens()) == ["cat"]
    with pytest.raises(DataError, match=f"need {FEWEST_WORDS}"):
        random_words(lab.records("lab:arithmetic", n=2), Tokens(), 0)
