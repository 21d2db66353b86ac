"""Run directories: appended whole, locked, and never another run's."""

import json
import os
import socket
import subprocess
import sys

import pytest

from holdfast.config import resolve
from holdfast.errors import RunError
from holdfast.runs import Run
from holdfast.runs.files import Lines, write_json, writing
from holdfast.tasks.base import Answer, TaskResult


def config(out, **changes):
    return resolve(
        {"model": "lab:lm", "data": "lab:facts", "methods": "mlp", "out": str(out), **changes}
    )


def begun(out, **changes):
    run = Run.start(config(out, **changes))
    run.begin()
    return run


def result(task="lab:facts", score=1.0):
    answers = (
        Answer(task, "a", "7", ("7",), score, "7", "c", (-1.0, -2.0)),
        Answer(task, "b", "\x1b[31mé\u2028", ("8",), 0.0, None),
    )
    return TaskResult(task, answers, 1.5)


def test_answers_come_back_as_they_were(tmp_path):
    run = begun(tmp_path / "r")
    run.record(0, "target", result())
    run.record(0, "held-out", result("odd/name: ../x"))
    read = Run.read(tmp_path / "r")
    assert read.config == run.config
    assert read.answers(0, "lab:facts") == list(result().answers)
    assert read.answers(0, "odd/name: ../x") == list(result("odd/name: ../x").answers)
    assert read.tasks("target") == ["lab:facts"]
    assert [(r["score"], r["unparsed"], r["n"]) for r in read.scores()] == [(50.0, 50.0, 2)] * 2
    assert sorted(p.name for p in (tmp_path / "r" / "examples").iterdir()) == ["00"]


def test_a_line_that_a_kill_cut_off_is_mended(tmp_path):
    run = begun(tmp_path / "r")
    run.record(0, "target", result())
    file = tmp_path / "r" / "measurements.jsonl"
    file.write_bytes(file.read_bytes() + b'{"kind": "sco')
    assert len(Run.read(tmp_path / "r").scores()) == 1
    run.record(1, "target", result())
    assert [r["stage"] for r in run.scores()] == [0, 1]


def test_damage_in_the_middle_is_named(tmp_path):
    lines = Lines(tmp_path / "m.jsonl")
    (tmp_path / "m.jsonl").write_text('{"a": 1}\n{broken\n{"a": 2}\n')
    with pytest.raises(RunError, match=r"m\.jsonl, line 2 is damaged"):
        lines.read()


def test_a_second_process_is_refused(tmp_path):
    first = begun(tmp_path / "r")
    with pytest.raises(RunError, match=f"another process is working on .*process {os.getpid()} on"):
        Run.start(config(tmp_path / "r"))
    first.unlock()
    Run.start(config(tmp_path / "r")).unlock()


def test_a_lock_dies_with_its_process(tmp_path):
    """SIGKILL while the folder is locked: the file that is left locks nothing."""
    started = (
        "import sys, time; from holdfast.config import resolve; from holdfast.runs import Run;"
        "run = Run.start(resolve({'model': 'lab:lm', 'data': 'lab:facts', 'methods': 'mlp', "
        "'out': sys.argv[1]})); run.begin(); print('held', flush=True); time.sleep(60)"
    )
    out = tmp_path / "r"
    child = subprocess.Popen(
        [sys.executable, "-c", started, str(out)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=f"process {child.pid} on {socket.gethostname()}"):
            Run.start(config(out))
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    assert (out / ".lock").exists()
    Run.start(config(out)).unlock()


def test_another_runs_folder_is_refused_with_the_difference(tmp_path):
    run = begun(tmp_path / "r")
    run.record(0, "target", result())
    run.unlock()
    with pytest.raises(RunError, match=r"another run \(seed: 0 there, 1 now\)"):
        Run.start(config(tmp_path / "r", seed=1))
    assert Run.read(tmp_path / "r").config.seed == 0


def test_a_folder_in_which_nothing_was_measured_is_taken_over(tmp_path):
    """A run that died while the base was asked does not keep its folder from a changed command."""
    begun(tmp_path / "r").unlock()
    (tmp_path / "r" / "examples" / "00").mkdir(parents=True)
    (tmp_path / "r" / "examples" / "00" / "x.jsonl").write_text("")
    run = Run.start(config(tmp_path / "r", seed=1))
    assert run.taken_over == ["seed: 0 there, 1 now"]
    assert Run.read(tmp_path / "r").config.seed == 0, "not before the new command was checked"
    run.begin()
    assert Run.read(tmp_path / "r").config.seed == 1
    assert not (tmp_path / "r" / "examples").exists()
    run.unlock()


def test_how_a_run_works_may_change_half_way(tmp_path):
    run = begun(tmp_path / "r")
    run.record(0, "target", result())
    run.unlock()
    changed = config(tmp_path / "r", train={"micro_batch_size": 4, "save_every": 7})
    again = Run.start(changed)
    again.begin()
    again.unlock()
    assert Run.read(tmp_path / "r").config == changed
    with pytest.raises(RunError, match=r"train\.batch_size"):
        Run.start(config(tmp_path / "r", train={"batch_size": 4}))


def test_what_a_killed_process_left_half_written_is_cleared_away(tmp_path):
    begun(tmp_path / "r").unlock()
    torn = tmp_path / "r" / "stages" / "01" / ".delta.safetensors.123.part"
    torn.parent.mkdir(parents=True)
    torn.write_bytes(b"half")
    begun(tmp_path / "r").unlock()
    assert not torn.exists()


def test_torn_answers_are_named(tmp_path):
    run = begun(tmp_path / "r")
    run.record(0, "target", result())
    run.record(0, "held-out", result("b"))
    assert run.kept(0) == ({"lab:facts", "b"}, [])
    file = tmp_path / "r" / "examples" / "00" / "b.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    with pytest.raises(RunError, match=r"b\.jsonl, line 2 is damaged"):
        run.answers(0, "b")
    file.write_bytes(whole.splitlines(keepends=True)[0])
    whole_tasks, [fault] = run.kept(0)
    assert whole_tasks == {"lab:facts"}
    assert "b.jsonl lacks lines" in fault
    run.record(0, "held-out", result("b"))
    assert run.kept(0) == ({"lab:facts", "b"}, [])
    assert [r["task"] for r in run.scores(0)] == ["lab:facts", "b"], "asked twice, counted once"


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="not empty and holds no run"):
        Run.start(config(tmp_path))
    with pytest.raises(RunError, match="is a file"):
        Run.start(config(tmp_path / "thesis.tex"))
    with pytest.raises(RunError, match=r"there is no run\.yaml"):
        Run.read(tmp_path)


def test_the_same_run_elsewhere_is_the_same_run(tmp_path):
    begun(tmp_path / "r").unlock()
    os.rename(tmp_path / "r", tmp_path / "s")
    Run.start(config(tmp_path / "s")).unlock()


def test_a_failed_write_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})

    def cut_off():
        with writing(tmp_path / "a.json") as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cut_off()
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_full_disk_is_said_in_a_sentence(tmp_path):
    with pytest.raises(RunError, match=r"the disk is full.*make room"), writing(tmp_path / "a"):
        raise OSError(28, "No space left on device")
    with pytest.raises(RunError, match="may not be written"), writing(tmp_path / "a"):
        raise OSError(30, "Read-only file system")


def test_stage_notes(tmp_path):
    run = begun(tmp_path / "r")
    (run.stage_folder(1) / "checkpoints").mkdir(parents=True)
    assert run.stage_done(1) is None
    run.finish_stage(1, {"steps": 3})
    assert run.stage_done(1) == {"steps": 3}
    assert not (run.stage_folder(1) / "checkpoints").exists()


def test_a_run_that_never_began_leaves_no_trace(tmp_path):
    Run.start(config(tmp_path / "r")).unlock()
    assert not (tmp_path / "r").exists()


def test_a_damaged_configuration_is_left_alone(tmp_path):
    begun(tmp_path / "r").unlock()
    (tmp_path / "r" / "run.yaml").write_text("name: ci\njobs: {}\n")
    with pytest.raises(RunError, match=r"run\.yaml is damaged.*no setting 'name'"):
        Run.start(config(tmp_path / "r"))
    (tmp_path / "r" / "run.yaml").write_text("model: [broken")
    with pytest.raises(RunError, match=r"run\.yaml, line 1.*choose another --out"):
        Run.start(config(tmp_path / "r"))
    assert (tmp_path / "r" / "run.yaml").read_text() == "model: [broken"
