"""Grids: one failed member spoils no other, and what is finished is not done again."""

import json
import os
import signal
import sys
import types
from concurrent.futures import Future
from pathlib import Path

import pytest

from holdfast.benchmarks import executors, narrow
from holdfast.benchmarks.collect import collect, points, rows
from holdfast.benchmarks.grid import Member, run_grid
from holdfast.config import resolve
from holdfast.engine.tune import measure_base
from holdfast.errors import MissingExtra, UnknownName
from holdfast.models.saving import tensors_of
from holdfast.runs import Run
from holdfast.runs.lock import LOCK


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
    assert {r["task"]: r["score"] for r in Run.read(tmp_path / "good").scores(0)} == scores


def test_a_process_that_ran_before_gives_the_same_bits(tmp_path):
    """Also what it reads is what a new process reads."""
    first, second = member(tmp_path, "first"), member(tmp_path, "second", rate=2e-3)
    alone = member(tmp_path, "alone", rate=2e-3)
    assert run_grid([first, second], workers=1) == []
    assert run_grid([alone], workers=1) == []
    assert process_of(first) == process_of(second) != process_of(alone)
    assert steps(second) == steps(alone)
    assert weights(second) == weights(alone) != weights(first)


def process_of(m):
    return json.loads((Path(m.config.out) / LOCK).read_text())["pid"]


def steps(m):
    rows = Run.read(Path(m.config.out)).measurements.read(lambda r: r["kind"] == "train")
    return [(r["step"], r["loss"]) for r in rows]


def weights(m):
    return {n: v.tolist() for n, v in tensors_of(Path(m.config.out) / "model").items()}


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


def test_a_member_that_is_killed_spoils_no_other(tmp_path, monkeypatch):
    """By its own hand here: the child that finds its name in the variable ends by SIGKILL."""
    good, bad = member(tmp_path, "good"), member(tmp_path, "bad")
    monkeypatch.setenv("HOLDFAST_TEST_KILL", bad.config.out)
    monkeypatch.setattr(executors, "work", killed_or_done)
    failures = run_grid([bad, good], workers=1)
    assert [f.member.name for f in failures] == ["bad"]
    assert "SIGKILL" in failures[0].reason
    assert (tmp_path / "good" / "worked").exists()


def test_a_defects_traceback_is_kept_beside_the_run(tmp_path, monkeypatch):
    bad = member(tmp_path, "bad")
    (tmp_path / "bad").mkdir()
    monkeypatch.setattr(executors, "work", broken)
    [failure] = run_grid([bad], workers=1)
    assert failure.reason == f"ValueError: no (see {bad.config.out}/error.txt)"
    assert "Traceback" in (tmp_path / "bad" / "error.txt").read_text()


def test_ray_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install 'holdfast\[ray\]'"):
        run_grid([member(tmp_path, "one")], on="ray")
    with pytest.raises(UnknownName, match="local, ray"):
        executors.known_executor("rey")


def test_ray_runs_each_member_as_a_task_of_its_own(tmp_path, monkeypatch):
    """At the boundary: what is asked of Ray, and that one crashed task is one failure."""
    monkeypatch.setitem(sys.modules, "ray", FakeRay())
    monkeypatch.setattr(executors, "work", killed_or_done)
    good, bad = member(tmp_path, "good"), member(tmp_path, "bad")
    failures = run_grid([bad, good], on="ray")
    assert [f.member.name for f in failures] == ["bad"]
    assert "WorkerCrashedError" in failures[0].reason
    assert (tmp_path / "good" / "worked").exists()
    assert sys.modules["ray"].asked == {"num_cpus": 1, "max_retries": 0}
    assert not sys.modules["ray"].up


@pytest.mark.slow
def test_on_a_real_ray(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    good, bad = member(Path(), "good"), member(Path(), "bad", "nowhere.jsonl")
    failures = run_grid([bad, good], on="ray", workers=1)
    assert [f.member.name for f in failures] == ["bad"]
    assert "nowhere.jsonl" in failures[0].reason
    assert [f.member for f in collect([bad, good])] == [good]
    assert [f.member.name for f in run_grid([bad, good], on="ray", workers=1)] == ["bad"]


def killed_or_done(config, known, folder=None):
    if config.out == os.environ.get("HOLDFAST_TEST_KILL"):
        os.kill(os.getpid(), signal.SIGKILL)
    Path(config.out).mkdir(parents=True)
    (Path(config.out) / "worked").touch()


def broken(config, known):
    return "ValueError: no\nTraceback (most recent call last): ..."


class FakeRay(types.ModuleType):
    """The calls that are made of Ray, done on the spot."""

    def __init__(self):
        super().__init__("ray")
        self.up, self.asked = False, None

    def is_initialized(self):
        return self.up

    def init(self, **settings):
        self.up = True

    def shutdown(self):
        self.up = False

    def cluster_resources(self):
        return {"CPU": 2.0}

    def cancel(self, reference, force):
        raise AssertionError("nothing is to be cancelled")

    def remote(self, **asked):
        self.asked = asked

        def make(work):
            def remote(config, known, folder):
                done = Future()
                if config.out.endswith("bad"):
                    done.set_exception(RuntimeError("WorkerCrashedError"))
                else:
                    done.set_result(work(config, known, folder))
                return types.SimpleNamespace(future=lambda: done)

            return types.SimpleNamespace(remote=remote)

        return make
