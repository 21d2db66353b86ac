"""What is said about a pair as a whole."""

from __future__ import annotations

import numpy as np
import pytest

from holdfast.changes.compare import Comparison, compare_answers, keep
from holdfast.changes.kept import read_comparison
from holdfast.tasks.base import Answer, TaskResult


def result(task: str, scores: np.ndarray) -> TaskResult:
    answers = [
        Answer(task, f"{task} {i}", "a" if s else "b", ("a",), float(s), "a" if s else "b")
        for i, s in enumerate(scores)
    ]
    return TaskResult(task, tuple(answers))


def pair(changes: dict[str, tuple[int, int]], n: int = 200, **more: object) -> Comparison:
    """Tasks of ``n`` examples with so many lost and gained."""
    before, after = [], []
    for task, (lost, gained) in changes.items():
        one, two = np.ones(n), np.ones(n)
        two[:lost] = 0
        one[lost : lost + gained] = 0
        before.append(result(task, one))
        after.append(result(task, two))
    return compare_answers(before, after, **more)  # type: ignore[arg-type]


def test_equal_answers() -> None:
    found = pair({"a": (0, 0), "b": (0, 0)})
    assert found.overall == "unchanged"
    assert found.verdict == "Nothing changed on 2 tasks that can be told from chance."


def test_one_task_is_enough_to_be_worse() -> None:
    found = pair({"a": (0, 0), "b": (40, 1), "c": (3, 40)})
    assert found.overall == "worse"
    assert found.verdict.startswith("Worse on b; better on c; unchanged on 1 task: ")


def test_what_no_task_shows_alone_the_mean_may() -> None:
    """Each of ten tasks is too small for a verdict; that their mean stayed is certain."""
    tasks = {str(k): (8 - k % 2, 7 + k % 2) for k in range(10)}
    few = pair({k: tasks[k] for k in ("0", "1")})
    assert few.overall == "undecided"
    assert few.verdict.startswith("Undecided on 0, 1: ")
    many = pair(tasks, n=400)
    assert {j.verdict for j in many.tasks} == {"undecided"}
    assert many.overall == "unchanged"
    assert "points on the mean, undecided alone on 0, 1, 2, 3 and 6 more" in many.verdict
    assert pair(tasks, n=400, margin=0.1).overall == "undecided"


def test_the_margin_is_kept_with_the_answers(tmp_path) -> None:
    found = pair({"a": (1, 2)}, margin=2.5)
    keep(found, tmp_path)
    back = read_comparison(tmp_path)
    assert (back.margin, back.overall, back.verdict) == (2.5, found.overall, found.verdict)
    assert back.to_json() == found.to_json()


def test_rows_are_a_frame_in_one_call() -> None:
    pytest.importorskip("pandas")
    found = pair({"a": (40, 1), "b": (0, 0)})
    frame = found.frame()
    assert list(frame["task"]) == ["a", "b"]
    assert frame.set_index("task").loc["a", "lost"] == 40
    examples = found.frame("examples")
    assert len(examples) == 400
    assert (examples["became"] == "lost").sum() == 40
