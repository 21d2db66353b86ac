"""Pages, their JSON twins and their pictures."""

import json
import math
import re

import numpy as np
import pytest

from holdfast.errors import RunError, UsageError
from holdfast.measures.interval import Estimate
from holdfast.measures.pareto import Point
from holdfast.measures.summary import Summary, summarise
from holdfast.report import page, plots
from holdfast.report.page import write_comparison, write_run_report
from holdfast.report.rows import RecipeRow, row_of_run
from holdfast.tasks.base import Answer

EVIL = "<b>evil</b>|x"


@pytest.fixture(scope="module")
def summary():
    rng = np.random.default_rng(0)
    rates = {"count": (0.1, 0.9, 0.6), EVIL: (0.1, 0.1, 0.8), "digits": (0.9, 0.5, 0.7)}
    answers = {
        (k, task): [
            Answer(task, str(i), "", ("x",), float(s), "x" if s else None)
            for i, s in enumerate(rng.binomial(1, p[k], 40))
        ]
        for task, p in rates.items()
        for k in range(3)
    }
    return summarise(answers, ["count", EVIL], ["digits"], resamples=100)


def pictures_of(text, folder):
    names = re.findall(r"\]\(([^)]+\.png)\)", text)
    assert all((folder / n).read_bytes()[:4] == b"\x89PNG" for n in names)
    return names


def test_a_runs_report(summary, tmp_path):
    path = write_run_report(
        tmp_path / "report",
        summary,
        recipe="gate-up",
        facts={"model": tmp_path, "learning rate": 1e-3, "loss": math.nan},
        notes=["# not a heading"],
    )
    text = path.read_text()
    assert "**gate-up learned +" in text
    assert "<b>" not in text
    assert "\n# not" not in text
    assert "Mammoth 2026-05" in text
    names = ["accuracy.png", "learned-and-lost.png", "figure1.png"]
    assert pictures_of(text, path.parent) == names
    assert len(set(re.findall(r"(?m)^\|.*\|$", text))) > 20
    twin = json.loads(path.with_suffix(".json").read_text())
    assert twin["facts"] == {"model": str(tmp_path), "learning rate": 1e-3, "loss": None}
    fields = {k: twin[k] for k in summary.to_json()}
    assert Summary.from_json(fields).to_json() == summary.to_json()
    assert {r["measure"] for r in twin["rows"]} >= {"score", "unparsed", "recovery"}


def test_a_comparison(summary, tmp_path):
    rows = [row_of_run("full", summary), row_of_run(EVIL, summary, trained=7, seconds=3)]
    points = [
        Point(r, lr, 0, 1e4 * lr * (i + 1), -i)
        for i, r in enumerate(["full", "gate-up"])
        for lr in (1e-4, 1e-3)
    ]
    path = write_comparison(
        tmp_path,
        rows,
        "Count | clock",
        ["A note."],
        points=points,
        sections={"What *agrees*": ["- no"]},
    )
    text = path.read_text()
    assert text.startswith("# Count \\| clock\n")
    assert "<b>" not in text
    assert text.endswith("## What \\*agrees\\*\n\n\\- no\n")
    assert "## Every recipe at every learning rate" in text
    assert pictures_of(text, tmp_path) == ["learned-and-lost.png", "figure1.png", "plane.png"]
    twin = json.loads((tmp_path / "comparison.json").read_text())
    assert [r["recipe"] for r in twin["rows"]] == ["full", EVIL]
    assert twin["front"] == ["full @ 0.001", "gate-up @ 0.001"]
    assert {(m["recipe"], m["level"]) for m in twin["matched"]} >= {("full", 2.0)}
    assert twin["dominated_area"]["full"] == pytest.approx(10 * 100)
    assert set(twin["pictures"]) == {p.name for p in tmp_path.iterdir()} - {
        "comparison.html",
        "comparison.md",
        "comparison.json",
    }


def test_writing_again_gives_the_same_bytes(summary, tmp_path):
    for name in ("1", "2"):
        write_comparison(tmp_path / name, [row_of_run("full", summary)], "t")
    files = sorted(p.name for p in (tmp_path / "1").iterdir())
    assert files
    for name in files:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


def test_a_sweep_without_overlap_says_so(tmp_path):
    rows = [RecipeRow("a", Estimate(1.0), Estimate(-1.0))]
    points = [
        Point("a", 1e-3, 0, 1, 0),
        Point("b", 1e-3, 0, 9, 0),
        Point("c", 1e-3, 0, math.nan, 0),
    ]
    text = write_comparison(tmp_path, rows, "t", points=points).read_text()
    assert "cannot be compared" in text


def test_without_matplotlib_the_page_is_still_written(summary, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "available", lambda: False)
    text = write_run_report(tmp_path, summary, recipe="full").read_text()
    assert "pip install" in text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.json", "report.md"]
    text = write_comparison(tmp_path, [row_of_run("full", summary)], "t").read_text()
    assert page.NO_PICTURES in text


def test_what_cannot_be_written_is_said(summary, tmp_path):
    with pytest.raises(UsageError, match="not one recipe"):
        write_comparison(tmp_path, [], "t")
    (tmp_path / "report.md").mkdir()
    with pytest.raises(RunError, match=r"report\.md could not be written"):
        write_run_report(tmp_path, summary, recipe="full", pictures=False)


def test_importing_the_package_is_light():
    import subprocess
    import sys

    code = (
        "import sys, holdfast.measures, holdfast.report; "
        "print([m for m in ('numpy', 'matplotlib', 'scipy', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
