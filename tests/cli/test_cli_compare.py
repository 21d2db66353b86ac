"""The command that compares two models: its words, its JSON and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast.cli import main

ASKED = ["--tasks", "lab:sums", "--limit", "6", "--quiet"]


def test_a_model_with_itself_passes_any_gate(capsys, tmp_path: Path) -> None:
    out = tmp_path / "c"
    code = main(
        ["compare", "lab:lm", "lab:lm", *ASKED, "--max-forgetting", "0%", "--out", str(out)]
    )
    assert code == 0
    said = capsys.readouterr().out
    assert "Nothing changed on 1 task" in said
    assert "gate: pass" in said
    assert json.loads((out / "compare.json").read_text())["tasks"][0]["verdict"] == "unchanged"
    assert len((out / "examples" / "lab%3Asums.jsonl").read_text().splitlines()) == 6


def test_json_is_all_there_is_on_standard_output(capsys) -> None:
    assert main(["compare", "lab:lm", "lab:lm", *ASKED, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["gate"] is None
    assert found["facts"]["repeat with"].startswith("holdfast compare lab:lm lab:lm")


@pytest.mark.parametrize("limit", ["a lot", "-1%", "101"])
def test_a_limit_that_is_no_share_is_refused(capsys, limit: str) -> None:
    assert main(["compare", "lab:lm", "lab:lm", *ASKED, "--max-forgetting", limit]) == 2
    assert "between 0 and 100" in capsys.readouterr().err


def test_an_unknown_model_is_refused_before_anything_loads(capsys) -> None:
    assert main(["compare", "lab:lm", "nosuch-folder/x", *ASKED]) in (2, 4)
    assert "nosuch-folder/x" in capsys.readouterr().err
