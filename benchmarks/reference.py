"""Learning without Forgetting: a step that looks its reference up, and one that runs it live."""

from __future__ import annotations

from typing import Any

from benchmarks._measure import one_thread, take_turns
from benchmarks._models import REFERENCE, TINY, Shape, prefix_flops, reference_model, token_rows
from benchmarks._rows import Check, Goal, Row, Section
from benchmarks._sides import Side, ours
from benchmarks._steps import first_step

GOAL = 0.70
RECIPES = {
    "full": "full:vision_lr_scale=1",
    "mlp": "mlp",
    "sa-proj": "sa-proj",
    "last-2": "last-2",
}
SUPERVISED = 0.3
TOLERANCE = 1e-4


def run(quick: bool = False) -> list[Section]:
    """Equality of gradients; FLOPs and time of a step with and without the live reference."""
    one_thread()
    shape = TINY if quick else REFERENCE
    sides = {
        (recipe, cache): _side(shape, method, cache)
        for recipe, method in RECIPES.items()
        for cache in ("off", "auto")
    }
    checks = _equal(sides)
    rows = []
    counted = {key: side.steps.flops() for key, side in sides.items()}
    timing = take_turns({f"{r}, {c}": s.steps for (r, c), s in sides.items()}, warm_up=0, repeats=6)
    for side in sides.values():
        side.steps.close()
    for recipe in RECIPES:
        what, live = f"{recipe} + LwF step", "the live reference"
        told = predict(shape, recipe)
        rows += [
            Row.counted(what, live, "FLOPs", counted[recipe, "auto"], counted[recipe, "off"],
                        "FLOP", predicted=told),
            Row.timed(what, live, timing, f"{recipe}, auto", f"{recipe}, off", predicted=told,
                      goal=Goal(GOAL)),
        ]  # fmt: skip
    setting = (
        f"{shape}; {SUPERVISED:.0%} of the tokens supervised, which are also the positions of the "
        "distillation term (temperature 2); float32, caches in memory. Both sides are Holdfast's: "
        "neither transformers nor TRL's `SFTTrainer` has such a term. The live side runs the "
        "reference forward in every step, as published code does; the other has kept what its "
        "head reads and computes its logits anew, so that the divergence is exact."
    )
    return [Section("A reference term", setting, checks, rows, _remarks(shape, rows))]


def _side(shape: Shape, method: str, cache: str) -> Side:
    rows = token_rows(shape.rows, shape, supervised=SUPERVISED)
    return ours(reference_model(shape), rows, [method, "lwf"], batch=shape.rows, cache=cache)


def _equal(sides: dict[tuple[str, str], Side]) -> list[Check]:
    """At the first step the divergence is 0 everywhere; the third has moved away from it."""
    for side in sides.values():
        side.steps()
        side.steps()
    found = {key: first_step(side) for key, side in sides.items()}
    checks = []
    for recipe in RECIPES:
        live, kept = found[recipe, "off"], found[recipe, "auto"]
        names = sorted(live)
        checks.append(
            Check.close(
                f"gradients of {recipe} + LwF at the third step, the live reference's",
                [kept[n] for n in names], [live[n] for n in names], TOLERANCE,
            )
        )  # fmt: skip
    return checks


def predict(shape: Shape, recipe: str) -> float:
    """A step with the reference's head alone, over one with its whole forward pass.

    S - P + H over S + F, with S the step's FLOPs, P those below the lowest block that trains,
    which are looked up too, F a forward pass and H its head.
    """
    from holdfast.anatomy import anatomy
    from holdfast.anatomy.flow import Load, flops

    found = anatomy(reference_model(shape))
    scored = shape.length - round((1 - SUPERVISED) * shape.length)
    load = Load(language=shape.length, head=scored, scores=True)
    step = flops(found, frozenset(found.select(recipe).parameters), load)
    head = 2.0 * scored * shape.width * shape.vocabulary
    below = prefix_flops(shape, shape.blocks - 2) if recipe == "last-2" else 0.0
    return (step.total - below + head) / (step.total + 2 * step.forward)


def _remarks(shape: Shape, rows: list[Row]) -> list[str]:
    missed = [r for r in rows if r.goal is not None and r.steady and r.verdict != "met"]
    if not missed:
        return []
    told = ", ".join(f"{r.what} {r.predicted:.2f}" for r in missed if r.predicted is not None)
    full: Any = predict(shape, "full")
    return [
        f"The goal of {GOAL:.2f} is below what arithmetic allows for {told}. A step of full tuning "
        "costs three forward passes and the live reference a fourth, so that leaving it out "
        f"gives 3/4, and {full:.2f} with the reference's head, which has to run. A narrow step "
        "costs less than three passes, so the share of the fourth is larger there."
    ]
