"""The model card: what a hub reads, and the table of what was forgotten."""

from __future__ import annotations

import os

import pytest
import yaml
from report_samples import HOSTILE, make_run

from holdfast.config import resolve
from holdfast.report.card import card, forgetting_table, write_card
from holdfast.report.run import row_of, summary_of


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def parts(text: str) -> tuple[dict, str]:
    """The metadata and the page."""
    _, head, page = text.split("---\n", 2)
    return yaml.safe_load(head), page


def test_the_card_holds_the_forgetting_table(tmp_path) -> None:
    run = make_run(tmp_path / "run", ["count", "clock"], ["colour", "shape"])
    file = write_card(run, tmp_path)
    assert file.name == "README.md"
    told, page = parts(file.read_text(encoding="utf-8"))
    summary = summary_of(run)
    for task in ("count", "clock", "colour", "shape"):
        before, after = summary.cell(0, task), summary.cell(2, task)
        row = next(line for line in page.splitlines() if line.startswith(f"| {task} "))
        assert f"{before.score.value:.1f} | {after.score.value:.1f} |" in row.replace("  ", " ")
    assert "mean of held-out tasks" in page
    assert told["library_name"] == "transformers"
    assert "base_model" not in told, "lab:vlm is on no hub"
    scores = {
        r["dataset"]["name"]: r["metrics"][0]["value"] for r in told["model-index"][0]["results"]
    }
    assert scores["shape"] == pytest.approx(summary.cell(2, "shape").score.value, abs=0.01)


def test_its_configuration_repeats_the_run(tmp_path) -> None:
    run = make_run(tmp_path / "run", ["count"], ["colour"])
    text = write_card(run, tmp_path).read_text(encoding="utf-8")
    written = text.split("```yaml\n")[1].split("\n```")[0]
    assert resolve(yaml.safe_load(written)) == run.config


def test_one_held_out_task_has_no_mean_and_none_has_no_row(tmp_path) -> None:
    one = forgetting_table(summary_of(make_run(tmp_path / "one", ["count"], ["colour"])))
    assert [row[0] for row in one.rows] == ["count", "colour"]
    none = forgetting_table(summary_of(make_run(tmp_path / "none", ["count"], [])))
    assert [row[0] for row in none.rows] == ["count"]


def test_a_hub_id_is_the_base_model(tmp_path) -> None:
    run = make_run(tmp_path / "run", ["count"], ["colour"])
    run.config = run.config.model_copy(update={"model": "someone/a-model"})
    summary = summary_of(run)
    told, page = parts(card(run, summary, row_of(run, summary), "peft"))
    assert told["base_model"] == "someone/a-model"
    assert told["library_name"] == "peft"
    assert page.lstrip().startswith("# someone/a-model, taught count")


@pytest.mark.parametrize("name", [h for h in HOSTILE if len(h) < 100 and "\ud800" not in h])
def test_hostile_names_change_neither_metadata_nor_markup(name, tmp_path) -> None:
    run = make_run(tmp_path / "run", ["count"], [name])
    told, page = parts(write_card(run, tmp_path).read_text(encoding="utf-8"))
    assert set(told) == {"library_name", "tags", "model-index"}
    text = page.split("```yaml")[0]
    assert "<script" not in text
    assert "<img" not in text
    assert "\x1b" not in text
