"""Readers of data: right records come back field for field, broken ones by their line."""

from __future__ import annotations

import csv
import io
import json

import pytest
from fuzz_rows import BREAKS, KINDS, line, row, rows
from fuzz_tools import SEEDS, cases, is_clean, ours, some_text, some_value
from hypothesis import strategies as st
from PIL import Image

from holdfast.data import read
from holdfast.errors import DataError
from holdfast.tasks import load_task

KIND = st.sampled_from(KINDS)
OWN = ("source", "number")


def same(data, values, turns):
    """Every record says its row's turns, and holds its other columns as they were."""
    assert [[(m.role, m.text) for m in r.messages] for r in data] == turns
    for record, value in zip(data, values, strict=True):
        assert {k: record.meta[k] for k in OWN} == {k: value[k] for k in OWN}


@pytest.fixture
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("d")


@cases(60, rng=SEEDS, kind=KIND)
def test_json_lines(rng, kind, folder):
    values, turns = rows(rng, kind)
    end = rng.choice([b"\n", b"\r\n", b"\n\n", b" \n"])
    head = rng.choice([b"", b"\xef\xbb\xbf"])
    path = folder / f"d.{rng.choice(['jsonl', 'ndjson', 'JSONL'])}"
    path.write_bytes(head + end.join(line(v, rng) for v in values) + rng.choice([b"", end]))
    data = read(path, format=kind)
    same(data, values, turns)
    assert len({r.id for r in data}) == len(data)
    path.unlink()


@cases(40, rng=SEEDS, kind=KIND)
def test_json_and_python(rng, kind, folder):
    values, turns = rows(rng, kind)
    path = folder / "d.json"
    whole = rng.choice([values, {"data": values}, {"version": 1, "rows": values}])
    path.write_text(json.dumps(whole, indent=rng.choice([None, 2])), encoding="utf-8")
    same(read(path, format=kind), values, turns)
    same(read(values, format=kind), values, turns)


@cases(40, rng=SEEDS)
def test_csv(rng, folder):
    cells = [(some_text(rng), some_text(rng)) for _ in range(rng.randint(1, 5))]
    cells = [(q.replace("[", "("), a.replace("[", "(")) for q, a in cells]
    cells = [(q.replace("{", "("), a.replace("{", "(")) for q, a in cells]
    buffer = io.StringIO()
    out = csv.writer(buffer, lineterminator=rng.choice(["\n", "\r\n"]), quoting=csv.QUOTE_ALL)
    out.writerows([("question", "answer", "source"), *((q, a, "s") for q, a in cells)])
    path = folder / "d.csv"
    path.write_bytes(rng.choice([b"", b"\xef\xbb\xbf"]) + buffer.getvalue().encode())
    found = [tuple(m.text for m in r.messages) for r in read(path)]
    assert found == cells


@cases(15, rng=SEEDS, kind=KIND)
def test_parquet(rng, kind, folder):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    values, turns = rows(rng, kind)
    path = folder / "d.parquet"
    columns = dict.fromkeys(key for value in values for key in value)
    table = arrow.Table.from_pylist([{k: v.get(k) for k in columns} for v in values])
    parquet.write_table(table, path, row_group_size=2)
    same(read(path, format=kind), values, turns)
    whole = path.read_bytes()
    path.write_bytes(whole[: rng.randrange(len(whole))])
    with pytest.raises(DataError):
        read(path, format=kind)
    torn = bytearray(whole)
    torn[rng.randrange(len(torn))] ^= 1 << rng.randrange(8)
    path.write_bytes(torn)
    ours(read, path, format=kind)


@cases(30, rng=SEEDS)
def test_llava(rng, folder):
    values, expected = [], []
    for number in range(rng.randint(1, 3)):
        name = f"p {number}é.png"
        Image.new("RGB", (2 + number, 3)).save(folder / name)
        value, turns = row(rng, "sharegpt")
        asked = value["conversations"][0]
        asked["value"] = f"<image>\n{turns[-2][1] if len(turns) == 2 else asked['value']}"
        values.append({**value, "image": name, "source": "s", "number": number})
        expected.append((turns, str((folder / name).resolve())))
    (folder / "d.json").write_text(json.dumps(values), encoding="utf-8")
    data = read(folder / "d.json")
    assert data.format == "llava"
    for record, (turns, place) in zip(data, expected, strict=True):
        assert [i.path for i in record.images] == [place]
        said = [(m.role, m.text.strip()) for m in record.messages]
        assert said == [(r, t.strip()) for r, t in turns]


@cases(20, rng=SEEDS, kind=KIND)
def test_folders_and_lists(rng, kind, folder):
    parts = [rows(rng, kind, 3) for _ in range(2)]
    for number, (values, _) in enumerate(parts):
        text = b"\n".join(line(v, rng) for v in values)
        (folder / f"part-{number}.jsonl").write_bytes(text)
    values, turns = (parts[0][i] + parts[1][i] for i in (0, 1))
    same(read(folder, format=kind), values, turns)
    listing = folder / "list.yaml"
    listing.write_text("- json_path: part-1.jsonl\n- {json_path: part-0.jsonl}\n")
    same(read(listing, format=kind), *(parts[1][i] + parts[0][i] for i in (0, 1)))
    for file in folder.iterdir():
        file.unlink()


@cases(120, rng=SEEDS, kind=KIND, way=st.sampled_from(sorted(BREAKS)))
def test_a_broken_line_is_named_and_no_other(rng, kind, way, folder):
    values, _ = rows(rng, kind)
    lines = [line(v, rng) for v in values]
    bad = rng.randrange(len(lines) + 1)
    lines.insert(bad, BREAKS[way](line(values[0], rng)))
    (folder / "d.jsonl").write_bytes(b"\n".join(lines))
    with pytest.raises(DataError) as error:
        read(folder / "d.jsonl", format=kind)
    places = {p.split(":")[0].split(",")[0] for p in error.value.problems}
    assert places == {f"line {bad + 1}"}
    assert is_clean(str(error.value))


@cases(40, rng=SEEDS, kind=KIND)
def test_a_broken_field_is_named(rng, kind, folder):
    """The field that holds the answer is made something that no answer is."""
    values, _ = rows(rng, kind)
    bad = rng.randrange(len(values))
    wrong = rng.choice([True, {"a": 1}, [], [[1]], {}, "", " \n"])
    value = values[bad]
    if kind in ("messages", "sharegpt"):
        turn = value["messages" if kind == "messages" else "conversations"][-1]
        turn["content" if kind == "messages" else "value"] = wrong
    else:
        field = {"alpaca": "output", "prompt-completion": "completion", "text": "text"}.get(kind)
        field = field or ("answer" if "answer" in value else "answers")
        value[field] = wrong if field != "answers" else [wrong]
    (folder / "d.jsonl").write_bytes(b"\n".join(line(v, rng) for v in values))
    with pytest.raises(DataError) as error:
        read(folder / "d.jsonl", format=kind)
    assert {p.split(",")[0] for p in error.value.problems} == {f"line {bad + 1}"}


def checked(source, **options):
    """Reading ends in records whose images and places agree, or in a clean sentence."""
    data = ours(read, source, **options)
    for record in data or ():
        places = sum(p.kind == "image" for m in record.messages for p in m.parts)
        assert places == len(record.images)
        assert record.messages


FIELDS = [
    *("messages", "conversations", "conversation", "prompt", "completion", "text", "instruction"),
    *("input", "output", "history", "question", "answer", "answers", "choices", "system", "image"),
    *("images", "id", "tools", "references", "scorer", "cluster", "source", ""),
]


@cases(120, rng=SEEDS)
def test_any_values_in_any_fields(rng, folder):
    values = [
        {rng.choice(FIELDS): some_value(rng) for _ in range(rng.randint(1, 5))}
        for _ in range(rng.randint(1, 4))
    ]
    text = "\n".join(json.dumps(v) for v in values)
    (folder / "d.jsonl").write_text(text)
    checked(folder / "d.jsonl")
    checked(values)
    checked(values, format=rng.choice(KINDS))
    ours(load_task, folder / "d.jsonl")


SUFFIX = st.sampled_from(["jsonl", "json", "csv", "parquet", "yaml", "ndjson"])


@cases(60, content=st.binary(max_size=80), suffix=SUFFIX)
def test_any_bytes(content, suffix, folder):
    path = folder / f"d.{suffix}"
    path.write_bytes(content)
    checked(path)
    ours(load_task, path)


@cases(120, rng=SEEDS, kind=KIND, suffix=st.sampled_from(["jsonl", "json", "csv"]))
def test_damage(rng, kind, suffix, folder):
    """Bytes cut off, put in or changed: refused, or read as records that hold together."""
    values, _ = rows(rng, kind)
    if suffix == "json":
        text = json.dumps(values).encode()
    elif suffix == "csv":
        text = b"question,answer\n" + b"\n".join(line(some_text(rng), rng) for _ in values)
    else:
        text = b"\n".join(line(v, rng) for v in values)
    text = bytearray(text)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(text))
        action = rng.randrange(3)
        if action == 0:
            del text[at : at + rng.randint(1, 20)]
        elif action == 1:
            text[at:at] = rng.choice([b"\0", b"\xff", b"\x1b[2J", b'"', b"\n", b"[" * 300, b",,"])
        else:
            text[at] = rng.randrange(256)
        text = text or bytearray(b" ")
    path = folder / f"d.{suffix}"
    path.write_bytes(text)
    checked(path)


@cases(40, rng=SEEDS)
def test_user_tasks(rng, folder):
    """A task asks what the row asks, and knows the answers that it names."""
    values = [
        {"question": some_text(rng), "answer": some_text(rng), "id": f"n{i}"}
        for i in range(rng.randint(1, 4))
    ]
    path = folder / "t.jsonl"
    path.write_bytes(b"\n".join(line(v, rng) for v in values))
    [task] = load_task(f"{path}:scorer=exact,max_new_tokens=7,name=mine")
    assert (task.name, task.scorer, task.max_new_tokens) == ("mine", "exact", 7)
    assert [e.id for e in task.examples] == [v["id"] for v in values]
    assert [e.prompt.messages[-1].text for e in task.examples] == [v["question"] for v in values]
    assert [e.references for e in task.examples] == [(v["answer"],) for v in values]
    twice = [*values, values[0]]
    path.write_bytes(b"\n".join(line(v, rng) for v in twice))
    with pytest.raises(DataError, match=f"line {len(twice)}"):
        load_task(path)


@cases(40, name=st.text(max_size=12), option=st.text(max_size=12))
def test_any_task_name(name, option):
    if not name.startswith(("lab:", "lm_eval:")):
        ours(load_task, f"{name}.jsonl:{option}")
        ours(load_task, f"{name}:{option}")
