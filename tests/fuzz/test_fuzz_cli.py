"""The command line: whatever is typed, an exit code and a clean sentence; no weights are loaded."""

from __future__ import annotations

import json
import random

import pytest
from fuzz_tools import HOSTILE, NASTY, SEEDS, cases, is_clean, some_text
from hypothesis import strategies as st

from holdfast.cli import main

CODES = (0, 2, 3, 4, 5)
NAMES = ["lab:vml", "./nowhere", "no/such-model", "nowhere.jsonl", "gate-pu", "lab:cuont"]
VERBS = ["tune", "evaluate", "anatomy", "list", "export", "lab", "bench", "demo-", "compare", ""]
OPTIONS = [
    *("--data", "--method", "--tasks", "--set", "--out", "--config", "--seed", "--steps", "--lr"),
    *("--test", "--limit", "--batch-size", "--select", "--text-tokens", "--json", "--dry-run"),
    *("--quiet", "--help", "--allow-pickle", "--no-such-option", "--", "-", "-d", "-m", "-x"),
]


def spoken(capsys, arguments):
    """Exit code and everything that was said; it is clean, and no traceback."""
    code = main(arguments)
    captured = capsys.readouterr()
    said = captured.out + captured.err
    assert code in CODES, said
    assert "Traceback" not in said
    assert is_clean(said), [c for c in said if not is_clean(c)]
    return code, said


def word(rng):
    kind = rng.randrange(4)
    if kind == 0:
        return rng.choice(NAMES)
    return rng.choice([rng.choice(NASTY), some_text(rng)]).replace("lab:vlm", "lab:vml")


@pytest.fixture
def terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    return capsys


@cases(60, rng=SEEDS)
def test_any_words(rng, terminal):
    verb = rng.choice(VERBS)
    words = [rng.choice([rng.choice(OPTIONS), word(rng)]) for _ in range(rng.randrange(6))]
    if verb == "lab" and "build" in words:
        return
    spoken(terminal, [verb, *words] if verb else words)


@cases(60, rng=SEEDS)
def test_tune_with_one_thing_wrong(rng, terminal):
    """Nothing of this can run: the model, the data or a setting is not there."""
    given = {"model": "lab:vml", "-d": "nowhere.jsonl", "-m": "mlp", "-o": "r"}
    for key in list(given):
        if rng.random() < 0.4:
            given[key] = word(rng)
    arguments = ["tune", given.pop("model")]
    arguments += [w for pair in given.items() for w in pair]
    for _ in range(rng.randrange(3)):
        key = rng.choice(["train.steps", "seed", "data", "train", "x.y", "evaluate.limit", "out"])
        arguments += ["--set", f"{key}={word(rng)}"]
    code, said = spoken(terminal, arguments)
    assert code != 0
    assert said.strip()


@cases(20, value=HOSTILE)
def test_hostile_names(value, terminal, tmp_path_factory):
    folder = tmp_path_factory.mktemp("h")
    for arguments in (
        ["anatomy", value],
        ["evaluate", value, "-t", value],
        ["export", value, "-o", str(folder / "o")],
        ["tune", "lab:vml", "-d", value, "-m", value, "-t", value, "-o", str(folder / "r")],
        ["anatomy", "nowhere", "--select", value],
    ):
        if "lab:vlm" not in arguments:
            spoken(terminal, arguments)


@cases(10, rng=SEEDS, value=HOSTILE)
def test_a_config_file(rng, value, terminal, tmp_path_factory):
    file = tmp_path_factory.mktemp("c") / "run.yaml"
    values = {"model": "lab:vml", "data": "x.jsonl", "methods": ["mlp"], "out": "r"}
    values[rng.choice(list(values))] = value
    file.write_text(json.dumps(values), encoding="utf-8", errors="surrogatepass")
    code, _ = spoken(terminal, ["tune", "--config", str(file)])
    assert code != 0


@cases(10, number=st.integers(-(10**30), 10**30), option=st.sampled_from(["--steps", "--seed"]))
def test_numbers(number, option, terminal):
    code, said = spoken(
        terminal, ["tune", "lab:vml", "-d", "x.jsonl", "-m", "mlp", option, str(number)]
    )
    assert code != 0
    if number < 0:
        assert str(number) in said.replace("\n", "") or "model" in said


def test_bytes_that_are_no_text(terminal):
    raw = "\udcff\udc80" + random.Random(0).choice("ab")  # what Python makes of such an argument
    spoken(terminal, ["anatomy", raw])
    spoken(terminal, ["tune", raw, "-d", raw, "-m", "mlp"])
