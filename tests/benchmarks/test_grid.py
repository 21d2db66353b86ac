"""Grids: one failed member spoils no other, and what is finished is not done again."""

from pathlib import Path

import pytest

from holdfast.benchmarks import narrow
from holdfast.benchmarks.collect import collect, points, rows
from holdfast.benchmarks.grid import Member, run_grid
from holdfast.config import resolve
from holdfast.engine.tune import measure_base
from holdfast.errors import UnknownName


def member(tmp_path, name, skill="lab:count", rate=1e-3):
    config = resolve(
        {
            "model": "lab:vlm",
            "data": [skill],
            "methods": ["sa-proj"],
            "tasks": ["lab:colour"],
            "out": str(tmp_path / name),
            "train": {"learning_rate": rate, "steps": 2, "batch_size": 4},
            "evaluate": {"limit": 4},
        }
    )
    return Member(name, config, "sa-proj", rate, 0)


def test_a_failed_member_spoils_no_other(tmp_path):
    good, bad = member(tmp_path, "good"), member(tmp_path, "bad", "nowhere.jsonl")
    base = measure_base(good.config, tmp_path / "base")
    failures = run_grid([bad, good], known=base.path, workers=1)
    assert [f.member.name for f in failures] == ["bad"]
    assert "nowhere.jsonl" in failures[0].reason
    [finished] = collect([bad, good])
    assert finished.member is good
    assert finished.summary.stages == 1
    assert rows([finished])[0].trained == points([finished])[0].trained > 0
    before = (tmp_path / "good" / "finished.json").stat().st_mtime_ns
    assert run_grid([good], known=base.path) == []
    assert (tmp_path / "good" / "finished.json").stat().st_mtime_ns == before
    scores = {r["task"]: r["score"] for r in base.scores(0)}
    changed = member(tmp_path, "good", rate=2e-3)
    assert collect([changed]) == []
    [failure] = run_grid([changed], workers=1)
    assert "another run" in failure.reason
    from holdfast.runs import Run

    assert {r["task"]: r["score"] for r in Run.read(tmp_path / "good").scores(0)} == scores


def test_the_comparisons_members_are_distinct_and_resolvable():
    out = Path("x")
    plane = narrow.plane_members(out, tuple(narrow.PLANE), None, 3)
    sequence = narrow.sequence_members(out, narrow.SEQUENCE, (1e-3,), 2, tuple(narrow.ORDERS))
    folders = [m.config.out for m in (*plane, *sequence)]
    assert len(set(folders)) == len(folders)
    assert all(sorted(m.config.data, key=str) for m in sequence)
    assert {len(m.config.data) for m in sequence} == {5}
    from holdfast.methods import plan

    for m in (*plane, *sequence):
        plan(m.config.methods)
    with pytest.raises(UnknownName, match="gate-up"):
        narrow.plane_members(out, ["gateup"], (1e-3,), 1)
