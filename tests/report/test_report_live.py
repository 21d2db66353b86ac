"""A run as another process sees it while it works: ``holdfast watch``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from report_samples import HOSTILE, make_run
from rich.console import Console

from holdfast.cli import main
from holdfast.errors import RunError
from holdfast.report.live import BARS, look, shown, sparkline


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def at_work(folder: Path, *, curve: bool = False) -> Path:
    """A run of two stages in the middle of the second: 7 of its 20 steps are logged."""
    make_run(folder, ["count", "clock"], ["colour"], curve=curve)
    (folder / "finished.json").unlink()
    (folder / "stages" / "02" / "done.json").unlink()
    rows = [json.loads(line) for line in (folder / "measurements.jsonl").read_text().splitlines()]
    left = [
        r
        for r in rows
        if not (r["kind"] == "score" and r["stage"] == 2)
        and not (r["kind"] == "train" and r["stage"] == 2 and r["step"] > 7)
    ]
    assert len(left) == len(rows) - 3 - 13
    (folder / "measurements.jsonl").write_text("".join(json.dumps(r) + "\n" for r in left))
    return folder


def printed(folder: Path) -> str:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(shown(look(folder)))
    return capture.get()


def test_where_a_run_stands(tmp_path) -> None:
    seen = look(at_work(tmp_path / "run"))
    assert (seen.done, seen.step, seen.finished) == (1, 7, False)
    assert seen.loss == pytest.approx(3 / 7)
    assert len(seen.losses) == 27
    assert set(seen.scores) == {"count", "clock", "colour"}
    assert all(len(values) == 2 for values in seen.scores.values())
    text = printed(tmp_path / "run")
    assert "stage 2 of 2 (clock): step 7" in text
    assert "loss 0.4286" in text


def test_scores_between_the_ends_of_stages_are_shown_where_they_are(tmp_path) -> None:
    seen = look(at_work(tmp_path / "run", curve=True))
    assert len(seen.scores["colour"]) == 10
    assert seen.step == 7


def test_a_stage_that_begins_and_one_whose_scores_are_left(tmp_path) -> None:
    folder = at_work(tmp_path / "run")
    lines = (folder / "measurements.jsonl").read_text().splitlines()
    begun = [x for x in lines if '"kind": "train", "stage": 2' not in x]
    (folder / "measurements.jsonl").write_text("\n".join(begun) + "\n")
    assert "stage 2 of 2 (clock): begins" in printed(folder)
    (folder / "stages" / "02" / "done.json").write_text('{"seconds": 1.0}')
    assert "the last scores are being taken" in printed(folder)


def test_a_finished_run(tmp_path) -> None:
    make_run(tmp_path / "run", ["count"], ["colour"])
    assert "finished: 1 stage in 1 min" in printed(tmp_path / "run")


def test_a_line_that_is_being_written_is_not_read(tmp_path) -> None:
    """The last line of a file that another process appends to may be half there."""
    folder = at_work(tmp_path / "run")
    with (folder / "measurements.jsonl").open("a") as file:
        file.write('{"kind": "train", "stage": 2, "step": 8, "lo')
    assert look(folder).step == 7


def test_there_is_no_run_yet(tmp_path, capsys) -> None:
    with pytest.raises(RunError, match="nothing"):
        look(tmp_path / "nothing")
    assert main(["watch", str(tmp_path / "nothing"), "--once"]) != 0
    assert "nothing" in capsys.readouterr().err


def test_the_command_shows_it_once_where_there_is_no_terminal(tmp_path, capsys) -> None:
    assert main(["watch", str(at_work(tmp_path / "run"))]) == 0
    said = capsys.readouterr().out
    assert "step 7" in said
    assert "colour" in said


def test_hostile_names_are_only_text(tmp_path) -> None:
    name = next(h for h in HOSTILE if "\x1b" in h)
    make_run(tmp_path / "run", ["count"], [name])
    text = printed(tmp_path / "run")
    assert "\x1b[31m" not in text
    assert "\x00" not in text


def test_bars() -> None:
    assert sparkline([0, 50, 100], 0, 100) == BARS[0] + BARS[4] + BARS[-1]
    assert sparkline([], 0, 1) == ""
    assert sparkline([5, 5], 5, 5) == BARS[0] * 2
    assert len(sparkline(range(1000), 0, 999)) == 32
    assert sparkline([float("nan"), 1.0], 0, 1) == BARS[-1]
