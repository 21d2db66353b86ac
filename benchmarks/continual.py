"""What it costs to ask eight tasks again after a stage, as a share of the stage's training."""

from __future__ import annotations

from typing import Any

from benchmarks._measure import UNSTEADY, one_thread, take_turns
from benchmarks._rows import Goal, Row, Section
from benchmarks._sides import ours

TASKS, QUESTIONS = 8, 100
SKILL, BATCH = "lab:count", 32
GOAL = 0.10
FEW = 10
"""Training steps that are timed; a stage's are that many times as long."""


def run(quick: bool = False) -> list[Section]:
    """Time of asking and of training, in turns."""
    from holdfast import lab
    from holdfast.data import Encoder, collate, survey
    from holdfast.models.loading import load_model, load_processor
    from holdfast.tasks import evaluate

    one_thread()
    folder = lab.path("lab:vlm")
    questions, few, batch = (4, 2, 4) if quick else (QUESTIONS, FEW, BATCH)
    tasks = [lab.task(n, questions) for n in lab.suite("lab:held-out", "lab:vlm")[:TASKS]]
    processor = load_processor(folder)
    encoder = Encoder(processor)
    whole = lab.TRAIN_SIZE
    examples = survey(lab.records(SKILL, n=batch * few), encoder).encoded
    model: Any = load_model(folder, None)
    side = ours(
        load_model(folder, None), examples, ["full:vision_lr_scale=1"], batch=batch, steps=200,
        collate=lambda rows: collate(rows, pad_id=encoder.pad_id),
    )  # fmt: skip

    def train() -> None:
        for _ in range(few):
            side.steps()

    timing = take_turns({"ask": lambda: evaluate(model.eval(), processor, tasks), "train": train})
    side.steps.close()
    steps = whole // batch
    share, low, high = timing.ratio("ask", "train")
    scale = few / steps
    training = timing.median("train") / scale
    row = Row(
        f"asking {len(tasks)} tasks of {questions} questions after a stage",
        "training the stage", "share", timing.median("ask"), training, "s", share * scale,
        (low * scale, high * scale), goal=Goal(GOAL),
        steady=timing.spread("ask", "train") <= UNSTEADY,
    )  # fmt: skip
    setting = (
        f"`lab:vlm`, {SKILL}, full tuning in float32, nothing cached. Training: one epoch, "
        f"{whole} examples in {steps} steps of {batch}, reckoned from {few} timed steps. Asking: "
        f"the lab's {len(tasks)} held-out tasks of {questions} questions each, by generation."
    )
    remark = (
        f"Asking costs the same whatever is trained and for however long. It is {GOAL:.0%} of "
        f"training from {timing.median('ask') / GOAL / (training / steps):.0f} steps of {batch} "
        "examples on."
    )
    return [Section("Evaluation after each stage", setting, [], [row], [remark])]
