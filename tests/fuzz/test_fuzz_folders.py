"""What Holdfast wrote itself, torn or foreign: tuned models, runs, measurements, safetensors."""

from __future__ import annotations

import json
from functools import cache

import pytest
from fuzz_tools import SEEDS, cases, ours, some_value

from holdfast.errors import HoldfastError
from holdfast.models.saving import read_delta, tensors_of
from holdfast.models.source import fingerprint, resolve
from holdfast.runs import Run
from holdfast.runs.files import Lines, read_json

FACTS = {
    "format": 1,
    "base": "lab:lm",
    "base_folder": None,
    "base_hash": "0" * 64,
    "base_dtype": "float32",
    "structure": None,
    "tensors": 1,
    "parameters": 4,
}


@pytest.fixture
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("m")


@cache
def weights():
    import torch
    from safetensors.torch import save

    return save({"a.weight": torch.ones(2, 2), "b": torch.zeros(3)}, metadata={"format": "pt"})


def damaged(rng, content):
    content = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(content))
        if rng.random() < 0.4:
            del content[at:]
        else:
            content[at] = rng.randrange(256)
        content = content or bytearray(b"\0")
    return bytes(content)


@cases(60, rng=SEEDS)
def test_delta_folders(rng, folder):
    facts = dict(FACTS)
    for _ in range(rng.randrange(3)):
        facts[rng.choice(list(facts))] = some_value(rng)
    text = json.dumps(facts).encode()
    text = damaged(rng, text) if rng.random() < 0.3 else text
    (folder / "delta.json").write_bytes(text)
    (folder / "delta.safetensors").write_bytes(
        damaged(rng, weights()) if rng.random() < 0.7 else weights()
    )
    ours(resolve, str(folder))
    found = ours(read_delta, folder)
    if text == json.dumps(FACTS).encode():
        assert found == FACTS
    ours(tensors_of, folder)


@cases(60, rng=SEEDS)
def test_safetensors(rng, folder):
    file = folder / "model.safetensors"
    file.write_bytes(weights())
    whole = fingerprint(folder)
    content = damaged(rng, weights())
    file.write_bytes(content)
    found = ours(fingerprint, folder)
    size = int.from_bytes(weights()[:8], "little")
    if found == whole:  # only what carries no meaning may have changed
        assert content[8 + size :] == weights()[8 + size :]


@cases(40, rng=SEEDS)
def test_a_header_that_lies(rng, folder):
    header = {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}
    place = header["a"]
    place[rng.choice(list(place))] = rng.choice(
        [some_value(rng), [-1, 5], [9, 3], [0, 10**15], [0, 16, 3], "x", [True, False]]
    )
    if rng.random() < 0.2:
        header = some_value(rng)
    text = json.dumps(header).encode()
    size = rng.choice([len(text)] * 4 + [0, 2**62, len(text) + 5])
    (folder / "model.safetensors").write_bytes(size.to_bytes(8, "little") + text + bytes(16))
    ours(fingerprint, folder)


@cases(40, rng=SEEDS)
def test_an_index_that_lies(rng, folder):
    (folder / "x.safetensors").write_bytes(weights())
    index = {"weight_map": rng.choice([some_value(rng), {"a": some_value(rng)}, {"a": "../x"}])}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    ours(fingerprint, folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../x"}}))
    with pytest.raises(HoldfastError, match="outside its folder"):
        fingerprint(folder)


RUN = "model: lab:lm\ndata: [{data: lab:copy}]\nmethods: [mlp]\nout: r\n"


@cases(60, rng=SEEDS)
def test_measurements(rng, folder):
    """What was written is read; a torn last line is left out, a broken one is named."""
    file = folder / "measurements.jsonl"
    file.unlink(missing_ok=True)
    lines = Lines(file)
    rows = [{"kind": "score", "x": some_value(rng)} for _ in range(rng.randint(1, 5))]
    for row in rows:
        lines.append(row)
    assert lines.read() == rows
    whole = file.read_bytes()
    with file.open("ab") as handle:
        handle.write(b'{"kind": "sc')
    assert lines.read() == rows
    lines.append(rows[0])
    assert lines.read() == [*rows, rows[0]]
    file.write_bytes(whole)
    bad = rng.randrange(len(rows))
    cut = whole.split(b"\n")
    cut[bad] = rng.choice([b"{", b"\xff", b"[" * 3000, b"5", b"null", b'"x"'])
    file.write_bytes(b"\n".join(cut))
    with pytest.raises(HoldfastError, match=f"line {bad + 1}"):
        lines.read()


@cases(40, rng=SEEDS)
def test_run_folders(rng, folder):
    (folder / "run.yaml").write_bytes(
        damaged(rng, RUN.encode()) if rng.random() < 0.7 else RUN.encode()
    )
    run = ours(Run.read, folder)
    if run is not None:
        (folder / "measurements.jsonl").write_text(
            "".join(json.dumps(some_value(rng)) + "\n" for _ in range(3))
        )
        ours(run.scores)
        ours(run.tasks, "target")
        (folder / "examples" / "00").mkdir(parents=True, exist_ok=True)
        (folder / "examples" / "00" / "t.jsonl").write_text(json.dumps(some_value(rng)) + "\n")
        ours(run.answers, 0, "t")


@cases(30, rng=SEEDS)
def test_json_files(rng, folder):
    value = some_value(rng)
    (folder / "a.json").write_text(json.dumps(value))
    assert read_json(folder / "a.json") == value
    (folder / "a.json").write_bytes(damaged(rng, json.dumps(value).encode() + b"[" * 2000))
    ours(read_json, folder / "a.json")
