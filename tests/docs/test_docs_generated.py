"""The pages that are computed: up to date, and never without what they promise."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = (ROOT / "docs" / "reproduced.toml").read_text(encoding="utf-8")


@pytest.fixture
def generated() -> Any:
    """A module of its own for each test, so that what one replaces the next does not see."""
    spec = importlib.util.spec_from_file_location("generated", ROOT / "docs" / "generated.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def told(generated: Any, tmp_path: Path, old: str, new: str) -> str:
    """The page of what was reproduced, from a source in which ``old`` reads ``new``."""
    assert SOURCE.count(old) >= 1, f"the source has no {old!r} any more"
    source = tmp_path / "reproduced.toml"
    source.write_text(SOURCE.replace(old, new), encoding="utf-8")
    generated.SOURCE = source
    return str(generated.reproduced())


def test_the_pages_are_what_would_be_written(
    generated: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generated.main(["--check"]) == 0, capsys.readouterr().out


def test_a_page_that_is_old_is_said_and_not_changed(
    generated: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generated.DOCS, generated.PAGES = tmp_path, {"one.md": lambda: "new\n"}
    page = tmp_path / "one.md"
    page.write_text("old\n", encoding="utf-8")
    assert generated.main(["--check"]) == 1
    assert "one.md" in capsys.readouterr().out
    assert page.read_text(encoding="utf-8") == "old\n"
    assert generated.main([]) == 0
    assert page.read_text(encoding="utf-8") == "new\n"
    assert generated.main(["--check"]) == 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("::test_published_counts", "::test_publshed_counts", "a test that does not exist.*publsh"),
        ("tests/probes/test_layers.py", "tests/probes/test_gone.py", "does not exist: .*test_gone"),
        ("tests/methods/test_battery.py::test_method", "docs/generated.py::main", "not exist"),
        ('methods = ["hft"]', "", "says nothing of these methods: hft"),
        ('probes = ["weights"]', "", "says nothing of these probes: weights"),
        ('orders = ["ppl"]', "", "says nothing of these orders: ppl"),
        ('measures = ["forgetting_mammoth"]', "", "nothing of these measures: forgetting_mammoth"),
        ('methods = ["hft"]', 'methods = ["hft", "hfft"]', "methods that do not exist: .*'hfft'"),
        ("arXiv 2404.18466", "arXiv 2404.18467", "no paper that names hft is arXiv 2404.18466"),
        ('["full", 0.001, "learning"]', '["full", 0.1, "learning"]', "no learning of full at 0.1"),
        ('"full", 0.001, "learning"', '"full", 0.001, "charm"', "no charm of full at 0.001"),
    ],
)  # fmt: skip
def test_nothing_is_listed_that_no_test_or_run_shows(
    generated: Any, tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        told(generated, tmp_path, old, new)


def test_a_paper_that_nothing_shows_is_refused(generated: Any) -> None:
    with pytest.raises(ValueError, match="neither a test nor a run shows anything of: Air"):
        generated._paper({"title": "Air", "source": "Nobody", "claim": "x", "open": "y"})


def test_tests_that_not_every_run_has_are_marked(generated: Any) -> None:
    slow = "tests/e2e/test_kill.py::test_killed_at_a_checkpoint_between_tasks_and_between_stages"
    assert generated._test(slow).endswith("in the slow suite")
    merged = generated._test("tests/pieces/test_pieces_merging.py::test_as_mergekit")
    assert merged.endswith("where mergekit is installed")
    here = "tests/docs/test_docs_generated.py::test_tests_that_not_every_run_has_are_marked"
    assert generated._test(here) == f"`{here}`"


def test_figures_are_read_from_their_file(generated: Any, tmp_path: Path) -> None:
    (tmp_path / "found.json").write_text(
        '{"settings": [{"recipe": "full", "lr": 0.1, "lost": '
        '{"value": -3.25, "low": -4, "high": 1}}, '
        '{"recipe": "lora", "lr": 0.1, "lost": {"value": 2, "low": null}}]}',
        encoding="utf-8",
    )
    generated.ROOT = tmp_path
    found = generated._figures(
        {
            "file": "found.json",
            "numbers": {"a": ["full", 0.1, "lost"], "b": ["lora", 0.1, "lost"]},
        }
    )
    assert found == {"a": r"-3.2 \[-4.0, 1.0\]", "b": "+2.0"}
