"""The worlds: same seed same data, nothing shared between splits, answers without a bias."""

from __future__ import annotations

import io
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats

from holdfast import lab
from holdfast.data.records import Record
from holdfast.lab.ability import Draft, drafts, draw_records
from holdfast.lab.canvas import COLOURS
from holdfast.lab.catalogue import HELD_OUT, PROBES, ability, names
from holdfast.lab.words import ANIMALS, LETTERS, SPECIES

NUMBER_WORDS = set(
    re.findall(
        r"\w+",
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
        "fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy "
        "eighty ninety hundred thousand million first second third single pair couple dozen",
    )
)


def pixels(record: Record) -> np.ndarray:
    data = record.images[0].data
    assert data is not None
    return np.asarray(Image.open(io.BytesIO(data)))


def question(record: Record) -> str:
    return record.messages[0].text


def content(record: Record) -> bytes:
    return pixels(record).tobytes() if record.images else question(record).encode()


@pytest.mark.parametrize("name", names())
def test_same_seed_same_records_other_seed_other_records(name: str) -> None:
    first = lab.records(name, "train", 20, seed=3)
    draw_records.cache_clear()
    assert lab.records(name, "train", 20, seed=3) == first
    assert lab.records(name, "train", 20, seed=4) != first
    assert len({content(r) + question(r).encode() for r in first}) == 20


def test_no_picture_and_no_question_of_a_test_occurs_in_training() -> None:
    train: set[bytes] = set()
    test: set[bytes] = set()
    for name in names():
        train |= {content(r) for r in lab.records(name, "train", 120, seed=1)}
        test |= {content(r) for r in lab.records(name, "test", 30, seed=2)}
    assert len(train) > 2000
    assert len(test) > 600
    assert not train & test


def test_same_handwriting_and_same_string_stay_in_one_split() -> None:
    for name in ("digits", "read", "copy", "reverse", "compare"):
        keys = {
            split: {
                d.key for d, _ in zip(drafts(ability(name), split, 0), range(300), strict=False)
            }
            for split in ("train", "test")
        }
        assert all(keys["test"])
        assert not keys["train"] & keys["test"]


def test_split_depends_on_the_picture_not_on_the_question() -> None:
    image = Image.fromarray(np.arange(48 * 48 * 3, dtype=np.uint8).reshape(48, 48, 3))
    assert len({Draft(f"question {i}", "yes", image).split for i in range(40)}) == 1
    shares = Counter(Draft(f"question {i}", "yes").split for i in range(2000))
    assert 320 < shares["test"] < 480


@pytest.mark.parametrize("name", [n for n in names() if lab.records(n, "train", 1)[0].images])
def test_pictures_are_small_and_come_before_the_question(name: str) -> None:
    for record in lab.records(name, "test", 5):
        assert pixels(record).shape == (48, 48, 3)
        assert [part.kind for part in record.messages[0].parts] == ["image", "text"]


def lettered_lines(record: Record) -> dict[str, str]:
    """The options of a lettered question: letter to name."""
    return dict(line.split() for line in question(record).splitlines()[1:])


def test_species_letters_are_uniform_and_options_distinct() -> None:
    species = lab.records("lab:species", "train", 1500)
    counts = Counter(r.answer() for r in species)
    assert set(counts) == set(LETTERS)
    assert stats.chisquare(list(counts.values())).pvalue > 0.001
    for record in species:
        assert list(lettered_lines(record)) == list(LETTERS)
        assert len(set(lettered_lines(record).values())) == 26


def test_right_option_names_the_creature_that_is_drawn() -> None:
    """Pictures of one answer are alike: their coats have one colour."""
    coats: dict[str, list[np.ndarray]] = {}
    for record in lab.records("lab:species", "train", 800):
        name = lettered_lines(record)[record.answer()]
        coats.setdefault(name, []).append(pixels(record)[32, 20].astype(int))
    assert len(coats) == 26
    for samples in coats.values():
        middle = np.median(samples, axis=0)
        assert np.median(np.abs(samples - middle).max(axis=1)) < 30


def test_right_choice_is_what_the_picture_shows() -> None:
    """The colour that covers most of the object, measured from the pixels."""
    asked = [r for r in lab.records("lab:choice", "test", 60) if "colour" in question(r)]
    assert len(asked) > 10
    for record in asked:
        picture = pixels(record).astype(int)
        ink = picture[np.ptp(picture, axis=2) > 40]
        shown = min(COLOURS, key=lambda c: np.abs(np.median(ink, axis=0) - COLOURS[c]).sum())
        assert lettered_lines(record)[record.answer()] == shown


@pytest.mark.parametrize("name", ["check", "medical", "compare"])
def test_yes_and_no_are_equally_frequent(name: str) -> None:
    answers = Counter(r.answer() for r in lab.records(name, "train", 1500))
    assert stats.binomtest(answers["yes"], answers["yes"] + answers["no"]).pvalue > 0.001


@pytest.mark.parametrize(("name", "most"), [("count", 20), ("level", 10), ("digits", 9)])
def test_numbers_are_uniform(name: str, most: int) -> None:
    counts = Counter(int(r.answer()) for r in lab.records(name, "train", 1000))
    assert sorted(counts) == list(range(most + 1))
    assert stats.chisquare(list(counts.values())).pvalue > 0.001


def test_as_many_objects_are_drawn_as_the_answer_says() -> None:
    for record in lab.records("lab:count", "test", 60):
        picture = pixels(record).astype(int)
        ink = np.abs(picture - picture[0, 0]).max(axis=2)
        components = ndimage.label(ink > 0.55 * max(ink.max(), 1))[1]
        assert components == int(record.answer())


def test_captions_hold_no_number() -> None:
    for record in lab.records("lab:captions", "train", 500):
        words = re.findall(r"\w+", (question(record) + " " + record.answer()).lower())
        assert not set(words) & NUMBER_WORDS
        assert not re.search(r"\d", question(record) + record.answer())


def test_text_answers_are_right() -> None:
    for record in lab.records("lab:reverse", "test", 50):
        assert "".join(reversed(question(record).split()[-1])) == record.answer()
    for record in lab.records("lab:copy", "test", 50):
        assert question(record).split()[-1] == record.answer()
    for record in lab.records("lab:sums", "test", 50):
        assert sum(map(int, re.findall(r"\d+", question(record)))) == int(record.answer())
    for record in lab.records("lab:arithmetic", "test", 50):
        low, high = sorted(map(int, re.findall(r"\d+", question(record))))
        assert high - low == int(record.answer())
    for record in lab.records("lab:compare", "test", 50):
        asked = re.fullmatch(r"Is (\d+) (more|less) than (\d+)\?", question(record))
        assert asked
        more = int(asked[1]) > int(asked[3])
        assert record.answer() == ("yes" if more == (asked[2] == "more") else "no")
    for record in lab.records("lab:initial", "test", 50):
        named = set(re.findall(r"\w+", question(record))) & {*SPECIES, *ANIMALS}
        assert {name[0].upper() for name in named} == {record.answer()}


def test_clock_answers_are_padded_times() -> None:
    hours = Counter()
    for record in lab.records("lab:clock", "train", 600):
        found = re.fullmatch(r"(\d\d):(\d\d)", record.answer())
        assert found
        assert int(found[2]) % 5 == 0
        assert int(found[2]) < 60
        hours[int(found[1])] += 1
    assert sorted(hours) == list(range(1, 13))


def test_captions_are_a_probe_and_no_part_of_the_suite() -> None:
    assert "captions" in PROBES["vlm"]
    assert "captions" not in HELD_OUT["vlm"]
