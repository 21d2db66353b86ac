"""Whatever stops a run: one sentence that says where and how to go on, and the same command goes on
to the numbers of a run that was never stopped."""

import errno
import os
import re
import signal

import pytest
import torch
from e2e_tools import run
from kills import result
from tiny_world import make_world

from holdfast.engine.stage import StageTrainer
from holdfast.errors import Interrupted
from holdfast.signals import Signals

STEP = 3
"""At which things go wrong."""


@pytest.fixture(autouse=True)
def _signals_as_in_a_terminal():
    """A shell starts what runs in its background with SIGINT ignored, nohup with SIGHUP, and so
    would these tests."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def command(world, out, *more):
    train = {**world["train"], "steps": 4}
    return [
        "tune", world["model"], "-d", world["data"][0], "-m", "mlp", "-t", world["tasks"][0],
        *(f"--set=train.{k}={v}" for k, v in train.items()), "--out", out, *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def uncut(world, tmp_path_factory):
    from holdfast.cli import main

    out = tmp_path_factory.mktemp("uncut") / "r"
    assert main([str(a) for a in command(world, out)]) == 0
    return {**result(out), "config": None}


def goes_on(capsys, world, out, uncut, *more):
    code, _, err = run(capsys, *command(world, out, *more))
    assert code == 0, err
    assert {**result(out), "config": None} == uncut
    return " ".join(err.split())


def at_step(monkeypatch, happens):
    """``happens(trainer)`` when the step's loss is formed."""
    real = StageTrainer.compute_loss

    def patched(self, *args, **kwargs):
        loss = real(self, *args, **kwargs)
        if self.state.global_step + 1 == STEP:
            return happens(loss)
        return loss

    monkeypatch.setattr(StageTrainer, "compute_loss", patched)


def raises(error):
    def happens(loss):
        raise error

    return happens


def no_memory(loss):
    return torch.empty(2**60)


def loses_the_disk(loss):
    raise OSError(errno.ENOSPC, "No space left on device", "cache.bin")


WHERE = (
    r"at step 3 of 4 of stage 1 of 1 \(next\), on the examples (next-\d+, ){2}next-\d+ and 1 more"
)
WAY_ON = r"to go on from the checkpoint of step 2: holdfast tune --config \S+run\.yaml"
STOPS = {
    "nan": (lambda loss: loss * float("nan"), ["the loss became nan", "lower learning rate"]),
    "cpu memory": (no_memory, ["memory ran out", r"4 examples at once", r"micro_batch_size=2"]),
    "gpu memory": (
        raises(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")),
        ["memory ran out", "micro_batch_size=2"],
    ),
    "worker": (
        raises(RuntimeError("DataLoader worker (pid(s) 4242) exited unexpectedly")),
        ["a process that prepares examples died", "4242"],
    ),
    "disk": (loses_the_disk, ["the disk is full", "cache.bin", "make room"]),
}


@pytest.mark.parametrize("name", STOPS)
def test_a_step_that_fails_is_named_and_the_run_goes_on(
    name, world, uncut, tmp_path, capsys, monkeypatch
):
    happens, fragments = STOPS[name]
    out = tmp_path / "r"
    with monkeypatch.context() as patch:
        at_step(patch, happens)
        code, stdout, err = run(capsys, *command(world, out))
    text = " ".join(err.split())
    assert code == 5, err
    assert "Traceback" not in err + stdout
    assert re.search(WHERE, text), text
    for fragment in fragments:
        assert re.search(fragment, text), text
    if name == "nan":
        assert re.search(r"goes on from there \(holdfast tune --config", text), text
    else:
        assert "What was measured is kept" in text
        assert re.search(WAY_ON, text), text
    assert len(result(out)["scores"]) == 2, "the base's scores are kept"
    goes_on(capsys, world, out, uncut)


def test_memory_that_ran_out_is_helped_by_what_the_message_says(
    world, uncut, tmp_path, capsys, monkeypatch
):
    """The run goes on in smaller pieces, though it was told something else before."""
    out = tmp_path / "r"
    with monkeypatch.context() as patch:
        at_step(patch, no_memory)
        _, _, err = run(capsys, *command(world, out))
    said = " ".join(err.split()).split("holdfast tune ", 1)[1].split()
    code, _, err = run(capsys, "tune", *said)
    assert code == 0, err
    ended = result(out)
    assert ended["losses"].keys() == uncut["losses"].keys()
    for step, (loss, *_) in uncut["losses"].items():
        assert ended["losses"][step][0] == pytest.approx(loss, abs=1e-4)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
)
def test_a_signal_saves_the_step_before_it_leaves(
    number, code, world, uncut, tmp_path, capsys, monkeypatch
):
    def happens(loss):
        os.kill(os.getpid(), number)
        return loss

    out = tmp_path / "r"
    with monkeypatch.context() as patch:
        at_step(patch, happens)
        got, stdout, err = run(capsys, *command(world, out))
    text = " ".join(err.split())
    assert got == code, err
    assert "Traceback" not in err + stdout
    assert (out / "stages/01/checkpoints/checkpoint-3/sealed.json").exists()
    assert "interrupted at step 4 of 4 of stage 1 of 1 (next), on the examples next-" in text
    assert re.search(WAY_ON.replace("step 2", "step 3"), text), text
    goes_on(capsys, world, out, uncut)


def test_a_signal_between_tasks_keeps_what_was_asked(world, uncut, tmp_path, capsys, monkeypatch):
    from holdfast.runs import Run

    real = Run.record

    def record(self, *args):
        real(self, *args)
        os.kill(os.getpid(), signal.SIGTERM)

    out = tmp_path / "r"
    with monkeypatch.context() as patch:
        patch.setattr(Run, "record", record)
        code, _, err = run(capsys, *command(world, out))
    assert code == 143
    assert "before the first stage" in " ".join(err.split()), err
    assert len(result(out)["scores"]) == 1
    goes_on(capsys, world, out, uncut)


def test_a_second_signal_does_not_wait():
    with Signals() as signals:
        with pytest.raises(Interrupted) as stop, signals.held():
            _twice(signals)
        assert stop.value.code == 130


def _twice(signals):
    os.kill(os.getpid(), signal.SIGTERM)
    assert signals.received == signal.SIGTERM
    os.kill(os.getpid(), signal.SIGINT)
    pytest.fail("the second signal was held back too")


def test_ignored_signals_stay_ignored_and_handlers_come_back():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    mine = signal.getsignal(signal.SIGTERM)
    try:
        with Signals():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGTERM) is not mine
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_checkpoint_that_cannot_be_written(number, world, uncut, tmp_path, capsys, monkeypatch):
    import safetensors.torch

    real = safetensors.torch.save_file

    def save_file(tensors, path, **kwargs):
        if "checkpoint-4" in str(path):
            raise OSError(number, os.strerror(number), str(path))
        real(tensors, path, **kwargs)

    out = tmp_path / "r"
    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", save_file)
        code, _, err = run(capsys, *command(world, out))
    text = " ".join(err.split())
    assert code == 5, err
    assert {errno.ENOSPC: "the disk is full", errno.EROFS: "may not be written"}[number] in text
    assert "at step 4 of 4 of stage 1" in text
    assert re.search(WAY_ON, text), text
    goes_on(capsys, world, out, uncut)


def stopped_after(world, out, capsys, monkeypatch, stage_file):
    """A run that was cut off once ``stage_file`` had been written."""
    from holdfast.engine import tune

    class Cut(BaseException):
        pass

    def score(self, stage, real=tune._Tuning.score):
        if stage == 1:
            raise Cut
        real(self, stage)

    with monkeypatch.context() as patch:
        patch.setattr(tune._Tuning, "score", score)
        with pytest.raises(Cut):
            run(capsys, *command(world, out))
    assert (out / stage_file).exists()


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("stages/01/delta.safetensors", "stages/01/delta.safetensors is damaged"),
        ("stages/01/delta.json", "stages/01/delta.json is damaged"),
        ("stages/01/done.json", "stages/01/done.json is damaged"),
        ("examples/00/next.jsonl", "examples/00/next.jsonl, line 2 is damaged"),
        ("provenance.json", ""),
    ],
)
def test_torn_files_of_a_run_are_named_and_made_again(
    file, said, world, uncut, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "r"
    stopped_after(world, out, capsys, monkeypatch, file)
    whole = (out / file).read_bytes()
    (out / file).write_bytes(whole[: len(whole) - 20])
    assert said.replace(" ", "") in goes_on(capsys, world, out, uncut).replace(" ", "")


def test_another_process_is_named(world, tmp_path, capsys):
    from holdfast.runs.lock import Lock

    lock = Lock(tmp_path / "r")
    lock.take()
    code, _, err = run(capsys, *command(world, tmp_path / "r"))
    lock.drop()
    assert code == 5
    assert f"process {os.getpid()} on {os.uname().nodename}" in " ".join(err.split())
