"""Surveys kept for the next run of a process: the same ones, and never stale."""

import json
import os

import pytest
from PIL import Image

from holdfast.data import read
from holdfast.engine import surveys
from holdfast.engine.surveys import Reader
from holdfast.models.loading import load_processor
from holdfast.models.source import fetch, resolve
from holdfast.progress import Progress


@pytest.fixture
def keeping():
    surveys.keep()
    yield
    surveys.forget()


@pytest.fixture(scope="module")
def folder():
    return fetch(resolve("lab:vlm"))


class Spoken(Progress):
    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


def reader(folder, progress=None, **changes):
    settings = {"loss_on": "answer", "max_length": None, **changes}
    return Reader(folder, load_processor(folder), progress=progress or Progress(), **settings)


def test_a_second_reader_takes_what_the_first_one_read(folder, keeping):
    data = read("lab:count", limit=4)
    first, spoken = reader(folder).survey("a", data, ()), Spoken()
    again = reader(folder, spoken).survey("b", read("lab:count", limit=4), ("a notice",))
    assert again is first
    assert spoken.said == [
        "b: 4 records (lab)",
        "  a notice",
        *(f"  {line}" for line in first.lines()),
    ]
    assert reader(folder).survey("a", read("lab:count", limit=3), ()) is not first
    assert reader(folder, loss_on="all").survey("a", data, ()) is not first
    assert reader(folder, max_length=46).survey("a", data, ()).longest == 46


def test_nothing_is_kept_unless_asked(folder):
    data = read("lab:count", limit=2)
    assert reader(folder).survey("a", data, ()) is not reader(folder).survey("a", data, ())


def test_a_picture_that_changed_is_read_again(folder, keeping, tmp_path):
    Image.new("RGB", (48, 48), "red").save(tmp_path / "a.png")
    row = {"image": "a.png", "question": "Which colour?", "answer": "red"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    before = reader(folder).survey("a", read(tmp_path / "a.jsonl"), ())
    Image.new("RGB", (48, 48), "blue").save(tmp_path / "a.png")
    os.utime(tmp_path / "a.png", ns=(1, 1))
    after = reader(folder).survey("a", read(tmp_path / "a.jsonl"), ())
    assert not before.encoded[0]["pixel_values"].equal(after.encoded[0]["pixel_values"])


def test_what_does_not_fit_is_let_go(folder, keeping, monkeypatch):
    one = reader(folder).survey("a", read("lab:count", limit=2), ())
    assert one.encoded.held > 2 * 3 * 48 * 48 * 4
    monkeypatch.setattr(surveys, "MEMORY", one.encoded.held + 1)
    reader(folder).survey("b", read("lab:species", limit=2), ())
    assert reader(folder).survey("a", read("lab:count", limit=2), ()) is not one
