"""A model's own samples: seeded, in the form that data are read in, and nothing left changed."""

import copy
import json

import pytest
import torch

import holdfast
from holdfast.cli import main
from holdfast.data import read
from holdfast.errors import UsageError
from holdfast.lab import records
from holdfast.tasks.own_texts import own_texts

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def lab():
    return holdfast.load("lab:lm")


def test_a_chat_model_writes_questions_and_answers(lab):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    settings = {"seed": 1, "max_new_tokens": 8, "batch_size": 32}
    rows = own_texts(*lab, 2, **settings)
    assert torch.equal(torch.get_rng_state(), state)
    assert rows == own_texts(*lab, 2, **settings)
    assert rows != own_texts(*lab, 2, **{**settings, "seed": 2})
    assert len(rows) == 2
    for row in rows:
        assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"]
        assert all(turn["content"].strip() for turn in row["messages"])


def test_prompts_are_answered_in_turn(lab):
    asked = [r.prompt() for r in records("lab:opposites", n=3)]
    rows = own_texts(*lab, 5, prompts=asked, max_new_tokens=4, batch_size=5)
    said = [row["messages"][0]["content"] for row in rows]
    assert said == [asked[k % 3].messages[0].text for k in range(5)]


def test_without_a_template_it_writes_plain_text(lab):
    model, tokenizer = lab
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = None
    rows = own_texts(model, plain, 3, max_new_tokens=8, batch_size=3)
    assert all(set(row) == {"text"} for row in rows)


def test_numbers_out_of_range(lab):
    with pytest.raises(UsageError, match="temperature=0"):
        own_texts(*lab, 2, temperature=0)


def test_from_the_command_line_to_a_source_of_data(tmp_path):
    out = tmp_path / "own.jsonl"
    command = ["prepare", "texts", "lab:lm", "--out", str(out), "--n", "3", "--max-new-tokens", "6"]
    assert main(command) == 0
    assert len(read(str(out))) == 3
    row = json.loads(out.read_text().splitlines()[0])
    assert row["written_by"]["model"] == "lab:lm"
    assert len(row["written_by"]["hash"]) >= 16


def test_styles_from_the_command_line(tmp_path):
    out = tmp_path / "styled.jsonl"
    given = tmp_path / "given.jsonl"
    rows = [
        {"question": f"Colour {i}?", "answer": ["red", "blue", "green", "pink"][i % 4]}
        for i in range(20)
    ]
    given.write_text("".join(json.dumps(r) + "\n" for r in rows))
    command = [
        "prepare",
        "styles",
        str(given),
        "--out",
        str(out),
        "--style",
        "choice",
        "--share",
        "0.5",
    ]
    assert main(command) == 0
    after = read(str(out))
    assert [r.meta.get("style") for r in after].count("choice") == 10
    assert main([*command[:-4], "--style", "loud"]) == 2
