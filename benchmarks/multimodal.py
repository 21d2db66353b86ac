"""An epoch of narrow tuning on ``lab:vlm``, ours against TRL's with its vision collator."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from benchmarks._measure import one_thread, take_turns
from benchmarks._rows import Check, Goal, Row, Section
from benchmarks._sides import Side, freeze_but, ours, sft
from benchmarks._steps import first_step

RECIPES = ("sa-proj", "gate-up")
BATCH, EPOCH = 32, 8
"""Examples a step; steps an epoch."""
SKILL = "lab:count"
GOAL = 0.5
TOLERANCE = 1e-4


def run(quick: bool = False) -> list[Section]:
    """Equality on one batch; FLOPs and time of epochs after the first."""
    one_thread()
    batch, epoch = (4, 2) if quick else (BATCH, EPOCH)
    checks, rows = [], []
    for recipe in RECIPES[: 1 if quick else None]:
        checks += _same_step(recipe, batch)
        rows += _epochs(recipe, batch, epoch)
    setting = (
        f"`lab:vlm` (a LLaVA of 1.4 million weights), {SKILL}, {batch * epoch} examples, "
        f"{batch} a step, float32, only answers supervised. A turn is one whole epoch after the "
        f"first. Baseline: TRL's `SFTTrainer` with its vision collator, `requires_grad` set as "
        "the recipe does, without gradient checkpointing ('tuned') and with ('defaults')."
    )
    return [Section("A multimodal epoch", setting, checks, rows, _remarks(rows))]


def _same_step(recipe: str, batch: int) -> list[Check]:
    """One step on one batch: the same examples whatever the order."""
    mine, theirs = _ours(recipe, batch, 1, "auto"), _theirs(recipe, batch, 1, tuned=True)
    a, b = first_step(mine), first_step(theirs)
    assert a.keys() == b.keys(), "the two sides train other weights"
    names = sorted(b)
    checks = [
        Check.close(
            f"gradients of {recipe} on lab:vlm, TRL's", [a[n] for n in names],
            [b[n] for n in names], TOLERANCE,
        )
    ]  # fmt: skip
    for side in (mine, theirs):
        side.steps()
        side.steps.close()
    checks.append(
        Check.close(f"loss of {recipe} on lab:vlm, TRL's", mine.losses[0], theirs.losses[0], 1e-3)
    )
    return checks


def _epochs(recipe: str, batch: int, epoch: int) -> list[Row]:
    sides = {
        "ours": _ours(recipe, batch, epoch, "auto"),
        "ours, nothing cached": _ours(recipe, batch, epoch, "off"),
        "TRL tuned": _theirs(recipe, batch, epoch, tuned=True),
        "TRL defaults": _theirs(recipe, batch, epoch, tuned=False),
    }
    for side in sides.values():  # the first epoch, in which ours looks nothing up
        _turn(side, epoch)()
    flops = {name: _flops(side, epoch) for name, side in sides.items()}
    timing = take_turns(
        {name: _turn(side, epoch) for name, side in sides.items()}, warm_up=0, repeats=6
    )
    for side in sides.values():
        side.steps.close()
    what = f"{recipe}, an epoch after the first"
    rows = [
        Row.counted(what, "TRL tuned", "FLOPs", flops["ours"], flops["TRL tuned"], "FLOP"),
        Row.timed(what, "TRL tuned", timing, "ours", "TRL tuned", goal=Goal(GOAL)),
        Row.timed(what, "TRL defaults", timing, "ours", "TRL defaults"),
        Row.timed(f"{what}, nothing cached", "TRL tuned", timing, "ours, nothing cached",
                  "TRL tuned"),
    ]  # fmt: skip
    return rows


def _turn(side: Side, epoch: int) -> Callable[[], None]:
    def whole_epoch() -> None:
        for _ in range(epoch):
            side.steps()

    return whole_epoch


def _flops(side: Side, epoch: int) -> int:
    return sum(side.steps.flops() for _ in range(epoch))


STEPS = 25
"""Epochs that a side is given, more than are run."""


def _model(recipe: str) -> Any:
    from transformers import LlavaForConditionalGeneration

    from holdfast import lab

    model = LlavaForConditionalGeneration.from_pretrained(lab.path("lab:vlm"))
    return freeze_but(model, recipe)


def _processor() -> Any:
    from holdfast import lab
    from holdfast.models.loading import load_processor

    return load_processor(lab.path("lab:vlm"))


def _ours(recipe: str, batch: int, epoch: int, cache: str) -> Side:
    from holdfast import lab
    from holdfast.data import Encoder, collate, survey

    processor = _processor()
    encoder = Encoder(processor)
    examples = survey(lab.records(SKILL, n=batch * epoch), encoder).encoded
    return ours(
        _model(recipe), examples, [recipe], batch=batch, cache=cache, steps=STEPS * epoch,
        collate=lambda rows: collate(rows, pad_id=encoder.pad_id),
    )  # fmt: skip


def _theirs(recipe: str, batch: int, epoch: int, *, tuned: bool) -> Side:
    import datasets
    from PIL import Image

    from holdfast import lab

    rows: dict[str, list[Any]] = {"images": [], "prompt": [], "completion": []}
    for record in lab.records(SKILL, n=batch * epoch):
        question, answer = record.prompt().messages[-1], record.messages[-1]
        rows["images"].append([Image.open(io.BytesIO(i.data or b"")) for i in record.images])
        rows["prompt"].append([{"role": "user", "content": question.text}])
        rows["completion"].append([{"role": "assistant", "content": answer.text}])
    data = datasets.Dataset.from_dict(rows)
    data = data.cast_column("images", datasets.List(datasets.Image()))
    return sft(_model(recipe), data, _processor(), batch=batch, tuned=tuned, steps=STEPS * epoch)


def _remarks(rows: list[Row]) -> list[str]:
    """Where the time of an epoch goes, as far as these numbers tell."""
    remarks = []
    for row in rows:
        if row.goal is None or row.verdict == "met" or not row.steady:
            continue
        work = next(r for r in rows if r.what == row.what and r.quantity == "FLOPs")
        remarks.append(
            f"{row.what}: {row.ratio:.2f} of TRL's time with {work.ratio:.2f} of its FLOPs. The "
            "language model's forward and backward pass is the same on both sides and stays."
        )
    remarks.append(
        "TRL's collator decodes, scales and tokenises every picture and text again in every "
        "epoch; ours encodes a record once and, where the tower is frozen, looks its features up. "
        "The row 'nothing cached' has the first without the second."
    )
    return remarks
