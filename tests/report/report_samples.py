"""Runs and comparisons made up for the pages: whole folders, without a model."""

from __future__ import annotations

import io
import json

import numpy as np
from PIL import Image

from holdfast.changes.compare import compare_answers
from holdfast.config import resolve
from holdfast.data.records import ImageRef, Record, say
from holdfast.runs import Run
from holdfast.runs.files import Lines
from holdfast.tasks.base import Answer, Example, TaskResult

HOSTILE = (
    "<script>window.hacked=1</script>",
    "</script><img src=x onerror=window.hacked=1>",
    "javascript:window.hacked=1",
    '" onmouseover="window.hacked=1',
    "{{ 7 * 7 }} {% raw %}",
    "\u202eright to left\u202c \u2066isolated",
    "bell\x07 escape\x1b[31m null\x00",
    "half \ud800 of a pair",
    "مرحبا بالعالم",
    "w" * 2_000,
    "z\u0335\u0321\u0322\u0327" * 40,
    "]]><!-- -->",
)


def replies(task, rate, n, rng, reply=None):
    return tuple(
        Answer(
            task,
            f"{task}-{i}",
            reply(i) if reply else ("yes" if right else "no"),
            ("yes",),
            float(right),
            "yes" if right else (None if i % 3 == 0 else "no"),
        )
        for i, right in enumerate(rng.random(n) < rate)
    )


def make_run(folder, targets, held_out, *, n=24, data=None, curve=False, seed=0, reply=None):
    """A finished run that taught ``targets`` one after another, in ``folder``."""
    rng = np.random.default_rng(seed)
    stages = [{"data": f"/nowhere/{k}.jsonl", "name": t} for k, t in enumerate(targets)]
    told = {"model": "lab:vlm", "data": data or stages, "methods": ["gate-up"], "out": str(folder)}
    run = Run.start(resolve(told))
    run.begin()
    for stage in range(len(targets) + 1):
        for k, task in enumerate(targets):
            rate = 0.05 if stage <= k else 0.9 - 0.15 * (stage - k - 1)
            run.record(stage, "target", TaskResult(task, replies(task, rate, n, rng, reply)))
        for task in held_out:
            found = replies(task, 0.9 - 0.12 * stage, n, rng, reply)
            run.record(stage, "held-out", TaskResult(task, found))
        if stage:
            run.finish_stage(
                stage,
                {
                    "skill": targets[stage - 1],
                    "steps": 20,
                    "seconds": 61.5,
                    "trained_parameters": 9,
                },
            )
            for step in range(1, 21):
                row = {"kind": "train", "stage": stage, "step": step, "loss": 3 / step}
                run.measurements.append(row)
    if curve:
        lines = Lines(folder / "curve.jsonl")
        for stage in range(1, len(targets) + 1):
            for step in (0, 5, 10, 15, 20):
                tasks = [*targets[:stage], *held_out]
                scores = {t: float(rng.uniform(20, 100)) for t in tasks}
                lines.append({"stage": stage, "step": step, "scores": scores, "examples": {}})
    run.provenance({"base": "lab:vlm", "base_hash": "ab" * 32, "parameters": 1396960,
                    "plan": "gate-up", "learning_rate": 1e-3, "device": "cpu",
                    "versions": {"holdfast": "0.1.0"}})  # fmt: skip
    run.finish()
    run.unlock()
    return Run.read(folder)


def picture(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (640, 480), colour).save(buffer, "png")
    return ImageRef(data=buffer.getvalue())


def questions(task, n, text="Is it there?"):
    """Examples of a task, two of them for each image."""
    return {
        f"{task}-{i}": Example(
            f"{task}-{i}",
            Record((say("user", None, f"{text} {i}"),), (picture((i // 2 * 9 % 256, 90, 160)),)),
            ("yes",),
        )
        for i in range(n)
    }


def make_comparison(tasks, *, n=30, seed=0, reply=None, base="base", tuned="tuned"):
    rng = np.random.default_rng(seed)
    before = [TaskResult(t, replies(t, 0.9, n, rng)) for t in tasks]
    after = [TaskResult(t, replies(t, 0.6, n, rng, reply)) for t in tasks]
    facts = {"repeat with": f"holdfast compare {base} {tuned} --tasks x", "tasks": ["x"]}
    return compare_answers(before, after, base=base, tuned=tuned, again=before, facts=facts)


def drift(folder):
    """What ``holdfast probe --out`` leaves."""
    row = {"probe": "divergence", "measure": "KL", "side": "pair", "unit": "nats", "neutral": 0.0,
           "data": "captions", "token_class": "", "tower": "", "block": None, "part": "",
           "note": "", "value": 0.25, "low": 0.2, "high": 0.31, "n": 64, "level": 0.95,
           "method": "bootstrap"}  # fmt: skip
    results = [{"probe": "divergence", "facts": {}, "rows": [row]}]
    (folder / "drift.json").write_text(json.dumps({"results": results}))
