"""Kill a run again and again, let it go on, and see that it ends as one that was never killed.

    python tests/e2e/kills.py --kills 100

Everything heavy is imported once; each try is a fork of this process, so that the time goes to the
run and not to its start. A try dies of SIGKILL, at a moment drawn at random from three kinds:

``clock``  after a random time;
``event``  at a random file operation of its own (opening, renaming, removing, making a folder);
``write``  as soon as a random one of its unfinished files appears: ``.x.part`` beside a file, or a
           checkpoint that is not sealed yet.

When a run has reached its end in spite of it, it is compared with the uncut one, and the next
begins in a new folder.
"""

import argparse
import gc
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).parent))

KINDS = ("clock", "event", "write")
EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree")
MOST_SECONDS = 120


def work(values, out, dies_at=None):
    """In a fork: the whole run. ``dies_at``: at which file operation in ``out`` it kills itself."""
    from holdfast.config import resolve
    from holdfast.engine.tune import tune

    seen = 0

    def die(event, arguments):
        nonlocal seen
        if event in EVENTS and str(out) in str(arguments[0]):
            seen += 1
            if seen == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)

    if dies_at is not None:
        sys.addaudithook(die)
    tune(resolve({**values, "out": str(out)}))


def start(values, out, log, dies_at=None):
    """The process id of a fork that works on the run in ``out``."""
    pid = os.fork()
    if pid:
        return pid
    try:
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            work(values, out, dies_at)
        code = 0
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def watch(pid, kill_when):
    """Wait for a process, and SIGKILL it once ``kill_when()``. True if it was killed."""
    limit = time.monotonic() + MOST_SECONDS
    sent = False
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
            if not killed and os.waitstatus_to_exitcode(status) != 0:
                raise SystemExit("a try failed by itself; see its log")
            return killed
        if not sent and (time.monotonic() > limit or kill_when()):
            os.kill(pid, signal.SIGKILL)
            sent = True
        time.sleep(0.0005)


def unfinished(out):
    """Files and folders that are being written."""
    found = set(out.rglob(".*.part"))
    for checkpoint in out.glob("stages/*/checkpoints/checkpoint-*"):
        if not (checkpoint / "sealed.json").exists():
            found.add(checkpoint)
            found |= set(checkpoint.glob("*"))
    return found


def moment(kind, chance, seconds, out):
    """When to kill: a function that says now."""
    if kind == "clock":
        end = time.monotonic() + chance.uniform(0.02, 1.0) * seconds
        return lambda: time.monotonic() > end
    left = chance.randrange(1, 25)
    seen = unfinished(out) if out.exists() else set()

    def appeared():
        nonlocal left
        try:
            new = unfinished(out) - seen
        except OSError:  # what is looked at goes away while it is looked at
            return False
        left -= len(new)
        seen.update(new)
        return left <= 0

    return appeared


def result(out):
    """All that a run measured and made: scores, losses, answers, weights."""
    rows = [json.loads(line) for line in (out / "measurements.jsonl").read_text().splitlines()]
    scores = {
        (r["stage"], r["task"]): (r["role"], r["score"], r["unparsed"], r["n"])
        for r in rows
        if r["kind"] == "score"
    }
    losses = {
        (r["stage"], r["step"]): (r["loss"], r["grad_norm"], r["learning_rate"])
        for r in rows
        if r["kind"] == "train"
    }
    kept = [*out.glob("examples/*/*"), *out.rglob("delta.safetensors")]
    return {
        "scores": scores,
        "losses": losses,
        "files": {str(f.relative_to(out)): f.read_bytes() for f in sorted(kept)},
        "config": (out / "run.yaml").read_text().replace(str(out), "OUT"),
        "left": sorted(str(p.relative_to(out)) for p in unfinished(out)),
        "finished": (out / "finished.json").exists(),
    }


def compare(uncut, cut):
    for name, value in uncut.items():
        if cut[name] == value:
            continue
        if isinstance(value, dict):
            differ = [k for k in {**value, **cut[name]} if value.get(k) != cut[name].get(k)]
            raise SystemExit(f"{name} differ from the uncut run's: {differ[:5]}")
        raise SystemExit(f"{name}: {cut[name]} and not {value}")


def harness(kills, seed, folder):
    """Kill ``kills`` times. Returns how many kills were of each kind, runs and tries."""
    import torch

    torch.set_num_threads(1)
    import safetensors.torch  # noqa: F401
    from tiny_world import make_world

    import holdfast.engine.tune
    import holdfast.models.saving  # noqa: F401

    gc.collect()
    gc.freeze()  # the forks need not look through all that was imported
    values, log = make_world(folder / "world"), folder / "log.txt"
    began = time.monotonic()
    assert not watch(start(values, folder / "uncut", log), lambda: False)
    seconds = time.monotonic() - began
    uncut = result(folder / "uncut")
    assert uncut["finished"]
    chance, counts, number = random.Random(seed), Counter(), 0
    while sum(counts[k] for k in KINDS) < kills:
        out = folder / f"cut-{number}"
        number += 1
        while True:
            last = sum(counts[k] for k in KINDS) >= kills
            kind = KINDS[sum(counts[k] for k in KINDS) % len(KINDS)]
            counts["tries"] += 1
            dies_at = 1 + int(chance.expovariate(1 / 40)) if kind == "event" and not last else None
            pid = start(values, out, log, dies_at)
            never = last or kind == "event"
            when = (lambda: False) if never else moment(kind, chance, seconds, out)
            if not watch(pid, when):
                break
            counts[kind] += 1
        compare(uncut, result(out))
        shutil.rmtree(out)
        counts["runs"] += 1
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    began = time.monotonic()
    try:
        counts = harness(options.kills, options.seed, folder)
    except BaseException:
        print(f"seed {options.seed}; what is left lies in {folder}", file=sys.stderr)
        raise
    shutil.rmtree(folder)
    kinds = ", ".join(f"{counts[k]} {k}" for k in KINDS)
    print(
        f"{options.kills} kills ({kinds}) in {counts['runs']} runs and {counts['tries']} tries: "
        f"every run ended bit for bit as the uncut one ({time.monotonic() - began:.0f} s)"
    )


if __name__ == "__main__":
    main()
