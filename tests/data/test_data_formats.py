"""Raw rows of each format, and the records that they mean."""

from __future__ import annotations

import csv
import json

import pytest

from holdfast.data import ImageRef, Message, Part, Record, read, say
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
