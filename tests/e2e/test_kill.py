"""SIGKILL at a moment of its choosing, the same command again, the same numbers.

``make kill`` does what the first test here does a hundred times.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from e2e_tools import own_data

import holdfast

HERE = Path(__file__).parent


def test_ten_kills_at_random_moments_change_no_bit():
    done = subprocess.run(
        [sys.executable, str(HERE / "kills.py"), "--kills", "10", "--seed", "1"],
        capture_output=True,
        text=True,
        timeout=570,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "every run ended bit for bit as the uncut one" in done.stdout


def command(data, more, out):
    return [
        sys.executable, "-m", "holdfast", "tune", "lab:vlm", "-d", str(data), "-d", str(more),
        "-m", "mlp", "-m", "lwf", "-t", "lab:colour", "--lr", "1e-3", "--steps", "6",
        "--set", "train.batch_size=4", "--set", "train.save_every=2",
        "--set", "evaluate.limit=6", "--out", str(out), "--quiet",
    ]  # fmt: skip


def run_until(arguments, is_time):
    """Start; SIGKILL as soon as ``is_time()``; True if it got to its end before."""
    process = subprocess.Popen(arguments, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while process.poll() is None:
        if is_time():
            process.send_signal(signal.SIGKILL)
            process.wait()
            return False
        time.sleep(0.01)
    assert process.returncode == 0
    return True


def same(one, other):
    a, b = holdfast.Run.read(one), holdfast.Run.read(other)
    assert a.finished
    assert b.finished
    weights = "model/delta.safetensors"
    assert (one / weights).read_bytes() == (other / weights).read_bytes()
    assert a.all_answers() == b.all_answers()
    losses = [
        {
            (r["stage"], r["step"]): r["loss"]
            for r in run.measurements.read(lambda r: r["kind"] == "train")
        }
        for run in (a, b)
    ]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_killed_at_a_checkpoint_between_tasks_and_between_stages(tmp_path):
    """The command itself, on a model that reads images."""
    data, _ = own_data(tmp_path, 12)
    more = tmp_path / "more.jsonl"
    more.write_text("".join(reversed(data.read_text().splitlines(keepends=True))))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run_until(command(data, more, whole), lambda: False)
    moments = [
        lambda: any((cut / "examples" / "00").glob("*.jsonl")),
        lambda: (cut / "stages" / "01" / "checkpoints" / "checkpoint-4").exists(),
        lambda: any((cut / "examples" / "01").glob("*.jsonl")),
        lambda: (cut / "stages" / "02" / "delta.safetensors").exists(),
    ]
    for moment in moments:
        run_until(command(data, more, cut), moment)
    assert run_until(command(data, more, cut), lambda: False)
    same(whole, cut)
    assert json.loads((cut / "finished.json").read_text())
