"""Raw rows of each format, and the records that they mean."""

from __future__ import annotations

import base64
import csv
import io
import json

import pytest
from PIL import Image

from holdfast.data import DataSet, ImageRef, Message, Part, Record, read, say
from holdfast.errors import DataError, HoldfastError, UnknownName, UsageError

HELLO = (say("user", "Hi"), say("assistant", "Hello"))
TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]

TABLE = [
    (
        "messages",
        {
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello"},
            ]
        },
        HELLO,
    ),
    (
        "messages",
        {
            "messages": [
                {"role": "developer", "content": "Be kind."},
                {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
                {"role": "assistant", "content": "Hello", "train": False},
                {"role": "tool", "content": "42"},
                {"role": "assistant", "content": "Hello", "weight": 1},
            ]
        },
        (
            say("system", "Be kind."),
            HELLO[0],
            Message("assistant", (Part("text", "Hello"),), train=False),
            say("tool", "42"),
            HELLO[1],
        ),
    ),
    (
        "messages",
        {
            "conversation": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello"},
            ]
        },
        HELLO,
    ),
    ("prompt-completion", {"prompt": "Hi", "completion": "Hello"}, HELLO),
    (
        "prompt-completion",
        {
            "prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": "Hi"}],
            "completion": [{"role": "assistant", "content": "Hello"}],
        },
        (say("system", "S"), *HELLO),
    ),
    (
        "prompt-completion",  # turns of the prompt are context, not something to learn
        {
            "prompt": [
                {"role": "user", "content": "A"},
                {"role": "assistant", "content": "B"},
                {"role": "user", "content": "Hi"},
            ],
            "completion": [{"role": "assistant", "content": "Hello"}],
        },
        (say("user", "A"), Message("assistant", (Part("text", "B"),), train=False), *HELLO),
    ),
    ("text", {"text": "Hello <image> world"}, (say("assistant", "Hello <image> world"),)),
    ("alpaca", {"instruction": "Hi", "input": "", "output": "Hello"}, HELLO),
    (
        "alpaca",
        {
            "instruction": "Add",
            "input": "1 2",
            "output": "3",
            "system": "S",
            "history": [["Hi", "Hello"]],
            "text": "a rendered copy",
        },
        (say("system", "S"), *HELLO, say("user", "Add\n1 2"), say("assistant", "3")),
    ),
    (
        "sharegpt",
        {
            "system": "S",
            "conversations": [
                {"from": "human", "value": "Hi"},
                {"from": "function_call", "value": "f()"},
                {"from": "observation", "value": "1"},
                {"from": "gpt", "value": "Hello"},
            ],
        },
        (
            say("system", "S"),
            say("user", "Hi"),
            say("assistant", "f()"),
            say("tool", "1"),
            say("assistant", "Hello"),
        ),
    ),
    ("question-answer", {"question": "Hi", "answer": "Hello"}, HELLO),
    ("question-answer", {"question": "Hi", "answers": ["Hello", "Hallo"]}, HELLO),
    (
        "question-answer",
        {"question": "1+1", "answer": 2},
        (say("user", "1+1"), say("assistant", "2")),
    ),
]


@pytest.mark.parametrize(("name", "row", "messages"), TABLE)
def test_rows_to_records(tmp_path, name, row, messages):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(row) + "\n")
    data = read(path)
    assert data.format == name
    assert data[0].messages == messages
    assert data[0].id == "data.jsonl:1"
    assert data[0].raw == (name == "text")
    assert read([row], format=name)[0].messages == messages


def test_other_columns_go_to_meta():
    row = {"question": "Q", "answers": ["A", "B"], "choices": ["A", "C"], "id": 7, "cluster": "x"}
    record = read([row])[0]
    assert record.id == "7"
    assert record.meta == {"answers": ["A", "B"], "choices": ["A", "C"], "id": 7, "cluster": "x"}
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert read([{"messages": TURNS, "tools": tools}])[0].meta["tools"] == tools


def test_ids_are_distinct():
    row = {"question": "Q", "answer": "A", "id": "same"}
    ids = [r.id for r in read([row, row, row])]
    assert ids[0] == "same"
    assert len(set(ids)) == 3


def test_detection_looks_past_the_first_row():
    """The first rows have an empty field that later ones fill."""
    rows = [{"prompt": "a", "completion": None, "text": "t"}] + [
        {"prompt": "a", "completion": "b", "text": "t"}
    ] * 5
    with pytest.raises(DataError, match="row 1, completion: nothing"):
        read(rows)
    assert read(rows[1:]).format == "prompt-completion"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "a", "completion": "b", "question": "a", "answer": "b"}, "format='prompt-comp"),
        ({"chosen": "a", "rejected": "b"}, "Preference pairs"),
        ({"a": 1, "b\x1b[31m": 2}, r"fit no known format.*messages: \[\{role, content\}\]"),
    ],
)
def test_unclear_formats_are_said(row, words):
    with pytest.raises(DataError, match=words) as error:
        read([row])
    assert "\x1b" not in str(error.value)


def test_a_format_can_be_forced():
    row = {"prompt": "a", "completion": "b", "question": "c", "answer": "d"}
    assert read([row], format="question-answer")[0].messages[0].text == "c"
    with pytest.raises(UnknownName, match="did you mean 'alpaca'"):
        read([row], format="alpacca")


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


def test_json_may_be_lines_or_hold_its_list(tmp_path):
    row = {"question": "Q", "answer": "A"}
    for text in (
        json.dumps([row, row]),
        json.dumps({"version": 1, "data": [row, row]}),
        "\ufeff" + json.dumps(row) + "\n\n" + json.dumps(row) + "\n",
    ):
        path = tmp_path / "d.json"
        path.write_text(text, encoding="utf-8")
        assert len(read(path)) == 2
    (tmp_path / "d.json").write_text(json.dumps(row, indent=2))
    assert len(read(tmp_path / "d.json")) == 1


def test_csv(tmp_path):
    path = tmp_path / "d.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "answer", "choices", "note"])
        writer.writerow(["two\nlines", "A", '["A", "B"]', ""])
    record = read(path)[0]
    assert record.messages == (say("user", "two\nlines"), say("assistant", "A"))
    assert record.meta == {"choices": ["A", "B"]}


def test_parquet_and_saved_data_sets(tmp_path, picture):
    datasets = pytest.importorskip("datasets")
    rows = {
        "question": ["<image>Q", "<image>R"],
        "answer": ["A", "B"],
        "image": [{"bytes": picture(5, 5), "path": None}, {"bytes": picture(6, 6), "path": None}],
    }
    features = datasets.Features(
        {
            "question": datasets.Value("string"),
            "answer": datasets.Value("string"),
            "image": datasets.Image(),
        }
    )
    made = datasets.Dataset.from_dict(rows, features=features)
    made.to_parquet(str(tmp_path / "d.parquet"))
    made.save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"train": made, "test": made.select([1])}).save_to_disk(
        str(tmp_path / "two")
    )
    wanted = [
        (say("user", None, "Q"), say("assistant", "A")),
        (say("user", None, "R"), say("assistant", "B")),
    ]
    images = [ImageRef(data=row["bytes"]) for row in rows["image"]]
    for source in (tmp_path / "d.parquet", tmp_path / "saved", made, tmp_path / "two"):
        data = read(source)
        assert [r.messages for r in data] == wanted
        assert [r.images[0] for r in data] == images
    assert [r.answer() for r in read(tmp_path / "two", split="test")] == ["B"]
    with pytest.raises(DataError, match="splits train, test"):
        read(tmp_path / "two", split="dev")


def test_folders_and_splits(tmp_path):
    row = {"question": "Q", "answer": "A"}
    (tmp_path / "b.jsonl").write_text(json.dumps({**row, "answer": "2"}))
    (tmp_path / "a.jsonl").write_text(json.dumps({**row, "answer": "1"}))
    (tmp_path / "README.md").write_text("no data")
    assert [r.answer() for r in read(tmp_path)] == ["1", "2"]
    (tmp_path / "train-0.jsonl").write_text(json.dumps({**row, "answer": "3"}))
    (tmp_path / "test.jsonl").write_text(json.dumps({**row, "answer": "4"}))
    assert [r.answer() for r in read(tmp_path)] == ["3"]
    assert "only the files of the split train" in read(tmp_path).notices[0]
    assert [r.answer() for r in read(tmp_path, split="test")] == ["4"]
    with pytest.raises(DataError, match="there is: test, train"):
        read(tmp_path, split="dev")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no data files"):
        read(tmp_path / "empty")


def test_hub_ids_offline(monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match=r"HF_HUB_OFFLINE is set.*give their folder"):
        read("nobody/nothing")


@pytest.mark.parametrize(
    "source", ["/no/such/thing", "no/such/file.jsonl", "./x", "a b", "x\0y", ""]
)
def test_sources_that_do_not_exist(source):
    with pytest.raises(DataError) as error:
        read(source)
    assert "\0" not in str(error.value)


def test_options_are_checked(tmp_path):
    for options in ({"limit": 0}, {"image_root": tmp_path / "no"}):
        with pytest.raises(UsageError):
            read([{"text": "a"}], **options)
    with pytest.raises(UsageError, match="is not a data set"):
        read({"text": "a"})
    assert issubclass(DataError, HoldfastError)


def test_records_pass_through():
    record = Record(HELLO, id="x")
    assert list(read([record])) == [record]
    assert read(read([record]), limit=1)[0] is record
