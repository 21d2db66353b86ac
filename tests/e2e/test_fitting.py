"""What does not fit the model is found before its weights load."""

import json
import re
from importlib import import_module

import pytest
from e2e_tools import run
from tiny_world import WORDS, make_data, make_model


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    def load(*args, **kwargs):
        pytest.fail("the weights were loaded")

    monkeypatch.setattr(import_module("holdfast.engine.tune"), "load_model", load)
    return make_model(tmp_path / "tiny", positions=24), make_data(tmp_path / "next.jsonl", "next")


def refused(capsys, code, patterns, model, data, out, *more):
    got, stdout, err = run(
        capsys, "tune", model, "-d", data, "-m", "mlp", "--lr", "1e-3", "--steps", "2",
        "--set", "train.batch_size=4", "--out", out, *more,
    )  # fmt: skip
    text = " ".join(err.split())
    assert got == code, err
    assert "Traceback" not in err + stdout
    for pattern in patterns:
        assert re.search(pattern, text), text
    assert not out.exists()


def test_a_tokenizer_that_is_larger_than_the_model(tiny, tmp_path, capsys):
    model, data = tiny
    file = model / "tokenizer.json"
    held = json.loads(file.read_text())
    held["model"]["vocab"]["next"] = 10_000
    file.write_text(json.dumps(held))
    refused(
        capsys, 4, ["tokenizer does not go with the model", "'next' has number 10000", "0 to 43"],
        model, data, tmp_path / "r",
    )  # fmt: skip


def test_a_larger_tokenizer_whose_other_tokens_are_not_used_is_no_fault(tiny, tmp_path, capsys):
    model, data = tiny
    file = model / "tokenizer.json"
    held = json.loads(file.read_text())
    held["model"]["vocab"]["unheard"] = 10_000
    file.write_text(json.dumps(held))
    code, _, err = run(
        capsys, "tune", model, "-d", data, "-m", "mlp", "--lr", "1e-3", "--steps", "2",
        "--set", "train.batch_size=4", "--out", tmp_path / "r", "--dry-run",
    )  # fmt: skip
    assert code == 0, err


def test_a_model_without_a_tokenizer(tiny, tmp_path, capsys):
    model, data = tiny
    for file in model.glob("tokenizer*"):
        file.unlink()
    (model / "chat_template.jinja").unlink()
    refused(
        capsys, 4, ["has no tokenizer", r"tokenizer\.json", "config.json", "save_pretrained"],
        model, data, tmp_path / "r",
    )  # fmt: skip


def test_questions_that_do_not_fit_are_all_named(tiny, tmp_path, capsys):
    model, data = tiny
    rows = [
        {"id": f"q{i}", "prompt": " ".join(WORDS[:n]), "completion": "a"}
        for i, n in enumerate([2, 20, 3, 25])
    ]
    task = tmp_path / "long.jsonl"
    task.write_text("".join(json.dumps(r) + "\n" for r in rows))
    refused(
        capsys, 3,
        ["questions do not fit", "long, q1: 23 tokens", "long, q3: 28 tokens", "24 positions"],
        model, data, tmp_path / "r", "-t", task,
    )  # fmt: skip


def test_a_model_that_is_nowhere(capsys):
    for verb in (["evaluate", "nosuch/x", "-t", "lab:facts"], ["tune", "nosuch/x", "-d", "x"]):
        code, _, err = run(capsys, *verb, *(["-m", "mlp"] if verb[0] == "tune" else []))
        text = " ".join(err.split())
        assert code == 4, text
        assert "there is no folder 'nosuch/x'" in text
        assert "because HF_HUB_OFFLINE is set" in text
        assert "LocalEntryNotFound" not in text
