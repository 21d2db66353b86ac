"""Images in rows of any form, and LLaVA's files and mixtures of them."""

from __future__ import annotations

import base64
import io
import json

import pytest
from PIL import Image

from holdfast.data import DataSet, ImageRef, read, say
from holdfast.errors import DataError


def data_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def test_images_as_paths_bytes_structs_urls_and_pictures(tmp_path, picture):
    png = picture()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png)
    picture_object = Image.open(io.BytesIO(png))
    base = {"question": "<image>\nQ", "answer": "A"}
    path = ImageRef(path=str((tmp_path / "images" / "a.png").resolve()))
    for value in ("images/a.png", {"path": "images/a.png", "bytes": None}, ["images/a.png"]):
        assert read([{**base, "image": value}], image_root=tmp_path)[0].images == (path,)
    for value in (png, {"bytes": png, "path": "a.png"}, data_url(png)):
        assert read([{**base, "images": [value]}])[0].images == (ImageRef(data=png),)
    record = read([{**base, "image": picture_object}])[0]
    decoded = Image.open(io.BytesIO(record.images[0].data))
    assert decoded.tobytes() == picture_object.tobytes()
    assert record.messages[0] == say("user", None, "Q")


def test_places_of_images(picture):
    a, b = picture(5, 5), picture(6, 6)
    refs = (ImageRef(data=a), ImageRef(data=b))
    row = {"prompt": "<image>\nWhat is <image> and\n<image>\nthat?", "completion": "x"}
    record = read([{**row, "images": [a, b, a]}])[0]
    assert record.messages[0] == say("user", None, "What is ", None, " and", None, "that?")
    assert record.images == (*refs, refs[0])
    blocks = [
        {"type": "image"},
        {"type": "image_url", "image_url": {"url": data_url(b)}},
        {"type": "text", "text": "Q <image>"},
    ]
    turns = [{"role": "user", "content": blocks}, {"role": "assistant", "content": "x"}]
    record = read([{"messages": turns, "images": [a]}])[0]
    assert record.images == refs
    assert record.messages[0] == say("user", None, None, "Q <image>")


def test_images_without_a_place_go_in_front_and_it_is_said(picture):
    row = {"question": "Q", "answer": "A", "images": [picture(), picture()]}
    data = read([row, row])
    assert data[0].messages[0] == say("user", None, None, "Q")
    assert len(data[0].images) == 2
    assert data.notices == (
        "<rows>: 2 records have images but no place for them in the text; "
        "the images were put in front of the first user turn",
    )


def llava_rows(n: int):
    return [
        {
            "id": f"r{i}",
            "image": "pics/a.png",
            "conversations": [
                {"from": "human", "value": "<image>\nWhat?"},
                {"from": "gpt", "value": str(i)},
            ],
        }
        for i in range(n)
    ]


@pytest.fixture
def llava_folder(tmp_path, picture):
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics" / "a.png").write_bytes(picture())
    for name in ("one", "two"):
        (tmp_path / f"{name}.json").write_text(json.dumps(llava_rows(10)))
    return tmp_path


def test_llava_json(llava_folder):
    data = read(llava_folder / "one.json")
    assert (data.format, len(data), data.name) == ("llava", 10, "one")
    assert data[3].id == "r3"
    assert data[3].messages == (say("user", None, "What?"), say("assistant", "3"))
    assert data[3].meta == {"id": "r3"}
    assert len(read(llava_folder / "one.json", limit=4)) == 4
    assert isinstance(data[2:4], DataSet)
    assert [r.id for r in data.sample(3, seed=1)] == [r.id for r in data.sample(3, seed=1)]


@pytest.mark.parametrize(
    ("strategy", "answers"),
    [
        ("all", list("0123456789")),
        ("first:3", list("012")),
        ("first:25%", list("012")),
        ("end:2", list("89")),
        ("end:20%", list("89")),
        ("random:100", list("0123456789")),
    ],
)
def test_llava_mixture(llava_folder, strategy, answers):
    listing = f"datasets:\n- json_path: one.json\n  sampling_strategy: {strategy}\n"
    (llava_folder / "mix.yaml").write_text(
        listing + "- {json_path: two.json, sampling_strategy: 'end:1'}"
    )
    data = read(llava_folder / "mix.yaml")
    assert sorted(r.answer() for r in data[:-1]) == answers
    assert data[-1].answer() == "9"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("datasets: 5", "datasets: 5; expected a list"),
        (
            "datasets:\n- json_path: one.json\n  sampling_strategy: some",
            r"datasets\[0\].sampling_str",
        ),
        ("datasets:\n- path: one.json", r"datasets\[0\]"),
        ("datasets: [", "not valid YAML"),
        ("datasets:\n- json_path: three.json", "three.json"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_bad_mixtures(llava_folder, text, words):
    (llava_folder / "mix.yaml").write_text(text)
    with pytest.raises(DataError, match=words):
        read(llava_folder / "mix.yaml")
