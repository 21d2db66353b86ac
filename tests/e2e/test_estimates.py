"""What a dry run says a run will take, and what it takes."""

import json
import os
import subprocess
import sys

import pytest

from holdfast.engine.trial import step_and_save

ON_CPU_TIME = (
    "import sys, time; time.perf_counter = time.process_time;"
    "from holdfast.cli import main; sys.exit(main(sys.argv[1:]))"
)
"""The command with the time that the process itself takes: others may load the machine."""


def run(*arguments):
    done = subprocess.run(
        [sys.executable, "-c", ON_CPU_TIME, *map(str, arguments), "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def within(share, said, measured):
    assert abs(said / measured - 1) <= share, f"{said:.4g} was said, {measured:.4g} measured"


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["full", "gate-up", "sa-proj", "lora"])
def test_time_and_memory_are_within_a_fifth(recipe, tmp_path):
    arguments = [
        "tune", "lab:vlm", "-d", "lab:count", "-m", recipe, "-t", "lab:colour", "-t", "lab:shape",
        "--lr", "1e-3", "--steps", "60", "--set", "evaluate.limit=100", "--out", tmp_path / "r",
    ]  # fmt: skip
    said = run(*arguments, "--dry-run")
    run(*arguments)
    took = json.loads((tmp_path / "r" / "provenance.json").read_text())["measured"]
    within(0.2, said["memory_bytes"], took["peak_memory_bytes"])
    within(0.2, said["seconds"], took["seconds"])
    assert said["memory_of"] == took["peak_memory_of"]


def test_a_step_and_a_checkpoint_are_told_apart():
    ends, now = [], 10.0
    for step in range(1, 8):
        now += 0.5 + (0.125 if step > 1 and step % 2 else 0.0)
        ends.append(now)
    assert step_and_save(ends) == (0.5, 0.125)
