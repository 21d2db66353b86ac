"""What of a stage's data is held back for its test."""

import json

import pytest

from holdfast.data import read
from holdfast.engine.preparing import write_styles
from holdfast.engine.skills import split
from holdfast.errors import DataError

COLOURS = ("red", "blue", "green", "black", "white")


def written(file, n=60, image=None):
    rows = [
        {"id": f"{i}", "question": f"Colour of {i}?", "answer": COLOURS[i % 5]}
        | ({"image": f"{i // image}.png"} if image else {})
        for i in range(n)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_a_test_keeps_the_datas_own_style(tmp_path):
    """SEFE rewrites what is trained on. With rewritten tests a model that has lost its own way
    of answering would pass, and the remedy could not be seen to help."""
    plain = written(tmp_path / "plain.jsonl")
    write_styles(str(plain), tmp_path / "styled.jsonl", share=0.5)
    data = read(str(tmp_path / "styled.jsonl"))
    train, held = split(data, 0.25, seed=0)
    assert len(held) == 15
    assert {data[i].answer() for i in held} <= set(COLOURS)
    assert not any("style" in data[i].meta for i in held)
    assert sum("style" in data[i].meta for i in train) == 30  # all of them are learned
    assert sorted(train + held) == list(range(60))


def test_without_rewritten_records_nothing_is_left_out(tmp_path):
    data = read(str(written(tmp_path / "plain.jsonl")))
    train, held = split(data, 0.1, seed=3)
    assert (len(train), len(held)) == (54, 6)
    assert sorted(train + held) == list(range(60))
    assert split(data, 0.1, seed=4)[1] != held


def test_rewritten_records_of_a_held_back_image_are_not_learned_either(tmp_path):
    from PIL import Image

    for i in range(12):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{i}.png")
    plain = written(tmp_path / "plain.jsonl", image=5)
    write_styles(str(plain), tmp_path / "styled.jsonl", share=0.4)
    data = read(str(tmp_path / "styled.jsonl"))
    train, held = split(data, 0.2, seed=0)
    pictures = [{data[i].images[0].path for i in side} for side in (train, held)]
    assert not pictures[0] & pictures[1]
    assert not any("style" in data[i].meta for i in held)
    left_out = set(range(60)) - {*train, *held}
    assert left_out
    assert all("style" in data[i].meta for i in left_out)


def test_where_all_is_rewritten_a_test_is_asked_for(tmp_path):
    plain = written(tmp_path / "plain.jsonl")
    write_styles(str(plain), tmp_path / "styled.jsonl", share=1.0)
    with pytest.raises(DataError, match=r"0 of them not rewritten.*--test"):
        split(read(str(tmp_path / "styled.jsonl")), 0.1, seed=0)
