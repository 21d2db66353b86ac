"""``holdfast anatomy`` through its command function."""

from __future__ import annotations

import json

import pytest
import typer
from tiny_families import CONFIGS
from typer.testing import CliRunner

from holdfast.errors import ModelError, SelectorError

command = pytest.importorskip("holdfast.cli.anatomy").command


def run(*arguments):
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def folder(tmp_path):
    CONFIGS["llava"]().save_pretrained(tmp_path)
    return tmp_path


def test_json(folder):
    result = run(folder, "--select", "gate-up", "--json")
    said = json.loads(result.stdout)
    assert said["selected_parameters"] == 3 * 2 * 16 * 24
    assert said["total_parameters"] == sum(p["count"] for p in said["parts"])
    assert sum(p["count"] for p in said["parts"] if p["selected"]) == said["selected_parameters"]
    assert 1 / 3 < said["flops_ratio"] < 1
    assert said["memory"]["optimizer"] == 8 * said["selected_parameters"]


def test_json_without_a_selector_is_about_everything(folder):
    said = json.loads(run(folder, "--json").stdout)
    assert said["selected_parameters"] == said["total_parameters"]
    assert said["flops_ratio"] == 1.0


def test_a_table_for_people(folder):
    result = run(folder, "--select", "language.attn + projector")
    assert result.exit_code == 0
    for word in ("language", "vision", "projector", "attn.q", "selects", "Training FLOPs left"):
        assert word in result.stdout


def test_recipes_without_a_selector(folder):
    shown = run(folder).stdout
    assert "sa-proj" in shown
    assert "gate-up" in shown
    assert "projector" in shown


def test_rows_are_shown(tmp_path):
    CONFIGS["gpt_neox"]().save_pretrained(tmp_path)
    said = json.loads(run(tmp_path, "--select", "language.attn.k", "--json").stdout)
    rows = {p["rows"] for p in said["parts"] if p["selected"]}
    assert rows == {"dim 0, 4:8 of every 12"}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [(["--select", "sa-prj"], SelectorError), (["--select", "language.router"], SelectorError)],
)
def test_mistakes_are_errors_for_people(folder, arguments, error):
    assert isinstance(run(folder, *arguments).exception, error)


def test_a_missing_folder(tmp_path):
    assert isinstance(run(tmp_path / "nothing").exception, ModelError)
