"""What is reached by name, and what is said when a name does not exist."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from holdfast import lab
from holdfast.errors import UnknownName, UsageError


def test_importing_the_lab_brings_no_heavy_library() -> None:
    code = (
        "import sys, holdfast.lab as lab; lab.models(); lab.suites();"
        "print([m for m in ('torch', 'transformers', 'numpy', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_data_set_is_a_task_with_a_summary() -> None:
    for name, summary in lab.datasets().items():
        assert name.startswith("lab:")
        assert summary
        task = lab.task(name, 3)
        assert task.name == name
        for example, record in zip(task.examples, lab.records(name, "test", 3), strict=True):
            assert example.references == (record.answer(),)
            assert example.prompt.messages[-1].role == "user"


def test_tasks_are_large_enough_to_measure() -> None:
    for name in lab.suite("lab:held-out", "lab:lm"):
        assert len(lab.task(name).examples) > 100


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        (lambda: lab.records("lab:cuont"), "did you mean 'lab:count'"),
        (lambda: lab.task("lab:birds"), "lab:species"),
        (lambda: lab.path("lab:vml"), "lab:vlm"),
        (lambda: lab.suite("lab:heldout", "lab:vlm"), "lab:held-out"),
        (lambda: lab.suite("lab:held-out", "lab:gpt"), "lab:lm"),
        (lambda: lab.records("lab:count", "dev"), "train"),  # type: ignore[arg-type]
    ],
)
def test_unknown_names_say_what_exists(call: object, hint: str) -> None:
    with pytest.raises(UnknownName, match=hint):
        call()  # type: ignore[operator]


def test_no_records_is_an_error() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        lab.records("lab:count", "train", 0)


def test_suite_of_a_folder_is_that_of_its_card(tmp_path: Path) -> None:
    (tmp_path / "lab.json").write_text(json.dumps({"model": "lab:lm"}))
    assert lab.suite("lab:held-out", tmp_path) == lab.suite("lab:held-out", "lab:lm")
    assert lab.suite("lab:targets", "lab:vlm")[1] == "lab:count"


def test_suite_of_a_stranger_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name the tasks instead"):
        lab.suite("lab:held-out", tmp_path)


@pytest.mark.parametrize("name", ["lab:count", "lab:initial"])
def test_contact_sheet_is_a_picture(name: str, tmp_path: Path) -> None:
    out = lab.show(name, tmp_path / "deep" / "sheet.png", n=7)
    with Image.open(out) as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 900
        assert len(sheet.convert("L").getcolors() or []) > 5
