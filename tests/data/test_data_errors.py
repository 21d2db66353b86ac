"""Broken and hostile data: every problem is said with its place, and nothing is half read."""

from __future__ import annotations

import csv
import io
import json
import os
import struct
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from holdfast.data import DataSet, files, images, problems, read
from holdfast.errors import DataError, HoldfastError

GOOD = {"question": "Q", "answer": "A"}


def lines(*rows: object) -> bytes:
    return b"\n".join(r if isinstance(r, bytes) else json.dumps(r).encode() for r in rows)


def turns(*pairs: tuple[object, object]) -> dict[str, object]:
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


BROKEN_LINES = [
    ("half a line", b'{"question": "Q", "ans', ["line 2", "broken JSON", "valid JSON"]),
    ("not an object", b"[1, 2]", ["line 2", "a list", "a JSON object"]),
    ("null", b"null", ["line 2", "null", "a JSON object"]),
    ("bytes", b'{"question": "\xff\xfe", "answer": "A"}', ["line 2", "byte 15 is not UTF-8"]),
    ("utf-16", '{"question": "Q"}'.encode("utf-16"), ["line 2", "byte 1 is not UTF-8"]),
    (
        "twice",
        b'{"question": "Q", "answer": "A", "answer": "B"}',
        ["line 2", "duplicate keys ['ans"],
    ),
    ("nan", b'{"question": "Q", "answer": "A", "x": NaN}', ["line 2", "NaN", "null"]),
    ("infinity", b'{"question": "Q", "answer": "A", "x": -Infinity}', ["line 2", "Infinity"]),
    ("overflow", b'{"question": "Q", "answer": "A", "x": 1e999}', ["line 2", "1e999"]),
    ("deep", b'{"question": ' + b"[" * 100_000, ["line 2", "nested too deeply"]),
    ("digits", b'{"question": "Q", "answer": "A", "x": ' + b"1" * 9000 + b"}", ["line 2"]),
    ("surrogate", b'{"question": "\\ud800", "answer": "A"}', ["line 2", "surrogate"]),
    ("escape", b'{"question": "\x1b[31m", oops}', ["line 2", "\\x1b[31m"]),
    ("missing", {"question": "Q"}, ["line 2, answers", "nothing"]),
    ("empty answer", {"question": "Q", "answer": " "}, ["line 2, answer", "an empty answer (' ')"]),
    ("wrong type", {"question": ["x"], "answer": "A"}, ["line 2, question[0]", "an object with a"]),
    ("object", {"question": "Q", "answer": {"a": 1}}, ["line 2, answer", "dict", "a string"]),
    ("truth", {"question": "Q", "answer": True}, ["line 2, answer", "bool True", "a string"]),
    ("index", {**GOOD, "answer": 2, "choices": ["a", "b"]}, ["line 2, answer: 2", "0 to 1"]),
    ("place", {"question": "<image>Q", "answer": "A"}, ["line 2, images", "1 image place(s)"]),
]


@pytest.mark.parametrize(
    ("line", "words"), [r[1:] for r in BROKEN_LINES], ids=[r[0] for r in BROKEN_LINES]
)
def test_a_broken_line_in_the_middle(tmp_path, line, words):
    path = tmp_path / "d.jsonl"
    path.write_bytes(lines(GOOD, line, *[GOOD] * 50))
    with pytest.raises(DataError) as error:
        read(path)
    text = str(error.value)
    for word in [str(path), "1 problem,", *words]:
        assert word in text
    assert "\x1b" not in text
    assert all(len(row) < 400 for row in text.splitlines())
    assert len(error.value.problems) == 1


BROKEN_TURNS = [
    (turns(("user", "Hi"), ("robot", "x")), ["messages[1].role", "'robot'", "assistant"]),
    (turns(("user", "Hi"), (None, "x")), ["messages[1].role", "None"]),
    (turns(("user", "Hi"), ("assistant", "")), ["messages[1].content", "an empty answer"]),
    (turns(("user", "Hi"), ("assistant", None)), ["messages[1].content", "nothing"]),
    (turns(("user", "Hi"), ("assistant", 5)), ["messages[1].content", "int 5"]),
    (turns(("user", ""), ("assistant", "x")), ["messages[0].content", "an empty user turn"]),
    (turns(("user", [{"type": "video"}])), ["messages[0].content[0].type", "'video'"]),
    (turns(("user", [{"type": "text", "text": 5}])), ["messages[0].content[0].text", "int 5"]),
    (
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}]},
        ["messages[0].tool_calls", "written out in the content"],
    ),
    ({"messages": []}, ["messages", "not empty"]),
    ({"messages": "Hi"}, ["messages", "a list of turns"]),
    ({"messages": ["Hi"]}, ["messages[0]", "an object with role and content"]),
]


@pytest.mark.parametrize(("row", "words"), BROKEN_TURNS)
def test_broken_turns(row, words):
    with pytest.raises(DataError) as error:
        read([turns(("user", "Hi"), ("assistant", "x")), row], format="messages")
    for word in ["row 2, ", *words]:
        assert word in str(error.value)


def test_all_problems_in_one_go_and_ten_are_shown(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_bytes(lines(*[GOOD, {"question": "Q"}] * 14, b"{"))
    with pytest.raises(DataError) as error:
        read(path)
    text = str(error.value)
    assert "15 problems, nothing of it is used" in text
    assert text.count("line ") == 10
    assert "and 5 more" in text
    assert len(error.value.problems) == 15
    assert "line 29" in error.value.problems[-1] or "line 29" in " ".join(error.value.problems)


def test_a_record_with_several_problems_says_all():
    with pytest.raises(DataError) as error:
        read([turns(("robot", "x"), ("assistant", ""))], format="messages")
    assert len(error.value.problems) == 2


def test_problems_of_all_files_of_a_folder(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_bytes(lines(GOOD, b"{"))
    with pytest.raises(DataError) as error:
        read(tmp_path)
    assert "2 problems" in str(error.value)
    assert any("b.jsonl: line 2" in p for p in error.value.problems)


@pytest.mark.parametrize("name", ["d.jsonl", "d.json", "d.csv", "d.parquet"])
@pytest.mark.parametrize("content", [b"", b"   \n \n", b"\xef\xbb\xbf"])
def test_empty_files(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError):
        read(tmp_path / name)


def test_a_gigantic_line_is_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_LINE", 1000)
    path = tmp_path / "d.jsonl"
    path.write_bytes(lines(GOOD, {"question": "Q" * 5000, "answer": "A"}, GOOD, b"{"))
    with pytest.raises(DataError) as error:
        read(path)
    assert "line 2: the line is longer than 1,000 bytes" in str(error.value)
    assert "line 4: broken JSON" in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"question": "Q"},\n {"question" "Q"}]', ["line 2", "broken JSON"]),
        ("[1]", ["item 1", "a number 1"]),
        ("5", ["the file", "a list of objects"]),
        ("[]", ["no records"]),
    ],
)
def test_broken_json_files(tmp_path, text, words):
    (tmp_path / "d.json").write_text(text)
    with pytest.raises(DataError) as error:
        read(tmp_path / "d.json")
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("question,answer\na,b\nc\n", ["line 3", "1 cells", "2, as in the header"]),
        ("question,question\na,b\n", ["duplicate columns"]),
        ('question,answer\n"a,b\n', ["broken CSV"]),
        ("question,answer\na,b\na,\n", ["line 3, answer"]),
    ],
)
def test_broken_csv(tmp_path, text, words):
    (tmp_path / "d.csv").write_text(text)
    with pytest.raises(DataError) as error:
        read(tmp_path / "d.csv")
    assert all(word in str(error.value) for word in words)
    assert csv.field_size_limit() == 131072


def test_truncated_parquet(tmp_path):
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "d.parquet"
    datasets.Dataset.from_list([GOOD] * 100).to_parquet(str(path))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="row 1: unreadable"):
        read(path)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 50))]
    out = b"\x89PNG\r\n\x1a\n"
    for name, data in chunks:
        out += struct.pack(">I", len(data)) + name + data
        out += struct.pack(">I", zlib.crc32(name + data))
    return out


def test_bad_images(tmp_path, picture):
    (tmp_path / "cut.png").write_bytes(picture(60, 60)[:60])
    noise = io.BytesIO()
    Image.effect_noise((200, 200), 80).save(noise, format="JPEG")
    (tmp_path / "cut.jpg").write_bytes(noise.getvalue()[: noise.tell() // 2])  # header intact
    (tmp_path / "bomb.png").write_bytes(png_header(60_000, 60_000))
    (tmp_path / "large.png").write_bytes(png_header(12_000, 10_000))
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    wanted = {
        "cut.png": "cut short",
        "cut.jpg": "cut short",
        "bomb.png": "pixels",
        "large.png": "12000 x 10000 pixels",
        "empty.png": "the file is empty",
        "text.png": "not an image",
        "folder.png": "it is a folder",
        "gone.png": "no such file",
        "": "the path of an image",
        "a\0b": "the path of an image",
        "https://example.org/x.png": "download them",
        "data:image/png;base64,@@@": "valid base64",
        5: "int 5",
    }
    rows = [{**GOOD, "images": [name]} for name in wanted]
    path = tmp_path / "d.jsonl"
    path.write_bytes(lines(*rows))
    with pytest.raises(DataError) as error:
        read(path)
    found = error.value.problems
    assert len(found) == len(wanted)
    for number, (line, words) in enumerate(zip(found, wanted.values(), strict=True), 1):
        assert line.startswith(f"line {number}, images[0]:")
        assert words in line


def test_images_outside_the_folder(tmp_path, picture):
    inside, outside = tmp_path / "data", tmp_path / "else"
    inside.mkdir()
    outside.mkdir()
    (outside / "a.png").write_bytes(picture())
    os.symlink(outside / "a.png", inside / "link.png")
    os.symlink(outside, inside / "folder")
    path = inside / "d.jsonl"
    names = ["../else/a.png", str(outside / "a.png"), "link.png", "folder/a.png"]
    path.write_bytes(lines(*[{**GOOD, "image": name} for name in names]))
    with pytest.raises(DataError) as error:
        read(path)
    assert len(error.value.problems) == 4
    assert all("outside the data folder" in line for line in error.value.problems)
    path.write_bytes(lines({**GOOD, "image": "a.png"}, {**GOOD, "image": str(outside / "a.png")}))
    assert len(read(path, image_root=outside)) == 2


@pytest.mark.parametrize(
    ("text", "count"), [("<image> and <image>", 1), ("<image>", 2), ("<image>", 0)]
)
def test_places_and_images_must_be_as_many(picture, text, count):
    row = {"question": text, "answer": "A", "images": [picture()] * count}
    with pytest.raises(DataError, match=rf"{text.count('<')} image place\(s\).*{count} image\(s\)"):
        read([row])


def test_images_without_a_user_turn(picture):
    row = {"messages": [{"role": "assistant", "content": "x"}], "images": [picture()]}
    with pytest.raises(DataError, match="no user turn"):
        read([row])


def test_decoding_says_what_is_wrong(tmp_path, picture):
    from holdfast.data import ImageRef

    rotated = Image.open(io.BytesIO(picture(30, 20)))
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    rotated.save(buffer, format="JPEG", exif=exif)
    assert images.load_image(ImageRef(data=buffer.getvalue())).size == (20, 30)
    with pytest.raises(DataError, match=r"<200 bytes>: .*cut short"):
        images.load_image(ImageRef(data=picture(300, 300)[:200]))
    with pytest.raises(DataError, match=r"no such file"):
        images.load_image(ImageRef(path=str(tmp_path / "x\x1b.png")))


def test_quoted_values_are_escaped_and_short():
    text = problems.shown("\x1b]0;evil\x07" + "x" * 1000)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert len(text) <= 80
    for value in (b"\x00" * 999, {"\x1b": 1}, ["\x1b" * 500], object(), None, 10**50):
        assert len(problems.shown(value)) <= 80
        assert "\x1b" not in problems.shown(value)


FUZZ = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def data_or_error(source, **options) -> None:
    """Reading ends in records whose images and places agree, or in an error of ours."""
    try:
        data = read(source, **options)
    except HoldfastError as error:
        text = str(error)
        assert all(c.isprintable() or c == "\n" for c in text)
        return
    assert isinstance(data, DataSet)
    assert len(data) > 0
    for record in data:
        places = sum(p.kind == "image" for m in record.messages for p in m.parts)
        assert places == len(record.images)


@FUZZ
@given(
    content=st.binary(max_size=300),
    name=st.sampled_from(["d.jsonl", "d.json", "d.csv", "d.parquet", "d.yaml"]),
)
def test_any_bytes(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    data_or_error(tmp_path / name)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["user", "assistant", "gpt", "human", "<image>", "text", "image", "a.png"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["role", "content", "from", "value", "type", "text", "image", "url"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
TURN_FIELDS = ["messages", "conversations", "conversation", "prompt", "completion", "text"]
ROW_FIELDS = ["instruction", "input", "output", "history", "question", "answer", "answers"]
FIELDS = st.sampled_from([*TURN_FIELDS, *ROW_FIELDS, "system", "image", "images", "tools", "id"])


@FUZZ
@given(rows=st.lists(st.dictionaries(FIELDS, JSON, max_size=6), max_size=4))
def test_any_fields(tmp_path, rows):
    (tmp_path / "d.jsonl").write_bytes(lines(*rows))
    data_or_error(tmp_path / "d.jsonl")
    data_or_error(rows)


@FUZZ
@given(source=st.text(max_size=30).filter(lambda s: not s.startswith("lab:")))
def test_any_source(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if os.path.sep not in source and not source.isidentifier():
        data_or_error(source)


@FUZZ
@given(cut=st.integers(0, 400), flip=st.integers(0, 400), value=st.integers(0, 255))
def test_any_damage_to_an_image(cut, flip, value, picture):
    data = bytearray(picture(12, 9, "JPEG"))[: 200 + cut]
    data[flip % len(data)] = value
    data_or_error([{**GOOD, "images": [bytes(data)]}])
