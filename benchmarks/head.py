"""The loss's head: positions without a label left out, and the gradient of a frozen head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks._measure import one_thread, take_turns
from benchmarks._models import TINY, Shape, reference_model, token_rows
from benchmarks._rows import Check, Row, Section
from benchmarks._sides import Side, freeze_but, ours, sft, trainer
from benchmarks._steps import first_step

SHARES = (0.3, 1.0)
"""Of the tokens that are supervised."""
WIDE = Shape(vocabulary=32000, blocks=2)
"""A vocabulary of a real tokenizer under few blocks, so that the head is most of the step."""
RECIPES = {"full": "full:vision_lr_scale=1", "sa-proj": "sa-proj"}
TOLERANCE = 1e-4


def run(quick: bool = False) -> list[Section]:
    """Equality, FLOPs, saved bytes and time against ``Trainer`` and TRL's tiled head."""
    one_thread()
    shape = TINY if quick else WIDE
    checks: list[Check] = []
    rows: list[Row] = []
    for share in SHARES:
        for recipe in RECIPES if share == 0.3 else ("full",):
            sides = _sides(shape, recipe, share)
            checks += _equal(sides, f"{recipe}, {share:.0%} supervised")
            rows += _compare(sides, f"{recipe}, {share:.0%} supervised", shape, recipe, share)
    setting = (
        f"{shape}, float32. Baselines: transformers' `Trainer`, which forms every logit; TRL's "
        "`SFTTrainer` without gradient checkpointing, whose head leaves out positions without a "
        "label and works in tiles. The same weights train on all sides."
    )
    return [Section("The loss's head", setting, checks, rows)]


def _sides(shape: Shape, recipe: str, share: float) -> dict[str, Side]:
    from holdfast import lab
    from holdfast.models.loading import load_processor

    rows = token_rows(shape.rows, shape, supervised=share)
    processor = load_processor(lab.path("lab:lm"))

    def model() -> Any:
        return freeze_but(reference_model(shape), recipe)

    return {
        "ours": ours(model(), rows, [RECIPES[recipe]], batch=shape.rows),
        "Trainer": trainer(model(), rows, batch=shape.rows),
        "TRL tuned": sft(model(), rows, processor, batch=shape.rows, tuned=True),
    }


def _equal(sides: Mapping[str, Side], what: str) -> list[Check]:
    found = {name: first_step(side) for name, side in sides.items()}
    names = sorted(found["Trainer"])
    slow = [found["Trainer"][n] for n in names]
    return [
        Check.close(
            f"gradients, {what}, {name} and Trainer", [found[name][n] for n in names], slow,
            TOLERANCE,
        )
        for name in ("ours", "TRL tuned")
    ]  # fmt: skip


def _compare(
    sides: Mapping[str, Side], what: str, shape: Shape, recipe: str, share: float
) -> list[Row]:
    flops = {name: side.steps.flops() for name, side in sides.items()}
    kept = {name: side.steps.saved(side.model).activations for name, side in sides.items()}
    timing = take_turns({name: side.steps for name, side in sides.items()}, warm_up=0)
    for side in sides.values():
        side.steps.close()
    told = predict(shape, recipe, share)
    rows = [Row.counted(what, "Trainer", "FLOPs", flops["ours"], flops["Trainer"], "FLOP",
                        predicted=told)]  # fmt: skip
    for other in ("Trainer", "TRL tuned"):
        rows.append(Row.counted(what, other, "saved bytes", kept["ours"], kept[other], "B"))
        told_here = told if other == "Trainer" else None
        rows.append(Row.timed(what, other, timing, "ours", other, predicted=told_here))
    return rows


def predict(shape: Shape, recipe: str, share: float) -> float:
    """FLOPs with the head at supervised positions only, over those with it everywhere."""
    from holdfast.anatomy import anatomy
    from holdfast.anatomy.flow import Load, flops

    found = anatomy(reference_model(shape))
    chosen = frozenset(found.select(recipe).parameters)
    scored = min(shape.length - round((1 - share) * shape.length), shape.length - 1)
    few, every = (
        flops(found, chosen, Load(language=shape.length, head=n, scores=True)).total
        for n in (scored, None)
    )
    return few / every
