"""Rows of uneven length: padded to a fixed length, to the longest, bucketed, packed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from benchmarks._measure import one_thread, take_turns
from benchmarks._models import Shape, reference_model, token_rows
from benchmarks._rows import Check, Row, Section
from benchmarks._sides import Side, ours, pad, trainer
from benchmarks._steps import first_step

SHAPE = Shape(blocks=2, rows=16, length=256)
SMALL = Shape(width=32, inner=48, blocks=2, heads=4, vocabulary=64, rows=8, length=64)
EPOCH = 2
"""Optimizer steps of an epoch, which is a turn."""
MEAN, SIGMA = 63.0, 0.6
"""Of the lengths, which are lognormal, at most 176 of 256."""
STEPS = 40
TOLERANCE = 1e-4


def run(quick: bool = False) -> list[Section]:
    """Equality of one step; FLOPs and time of an epoch."""
    one_thread()
    shape = SMALL if quick else SHAPE
    lengths = _lengths(shape, shape.rows * EPOCH)
    checks = _equal(shape, lengths[: shape.rows])
    sides = _sides(shape, lengths, EPOCH * STEPS)
    for side in sides.values():
        _turn(side)()
    flops = {n: sum(s.steps.flops() for _ in range(EPOCH)) for n, s in sides.items()}
    timing = take_turns({name: _turn(side) for name, side in sides.items()}, warm_up=0)
    for side in sides.values():
        side.steps.close()
    rows = []
    for mine in MINE:
        for other in THEIRS:
            rows.append(Row.counted(mine, other, "FLOPs", flops[mine], flops[other], "FLOP"))
            rows.append(Row.timed(mine, other, timing, mine, other))
    real = sum(lengths)
    setting = (
        f"Llama, width {shape.width}, {shape.blocks} blocks, vocabulary {shape.vocabulary}; "
        f"{len(lengths)} rows of {min(lengths)} to {max(lengths)} tokens ({real} in all, mean "
        f"{real / len(lengths):.0f}), {shape.rows} rows an optimizer step on every side; full "
        "tuning in float32, all tokens supervised. A turn is an epoch. Baselines: `Trainer` with "
        f"every row padded to {shape.length}, to the longest of its batch (the default), and with "
        "`group_by_length`, which also puts rows of like length into one step. Ours keeps the "
        "rows of a step and cuts it into passes of like length; with `bucket_steps` it sorts over "
        "several steps; packed, it reads a step as one row."
    )
    return [Section("Padding", setting, checks, rows, _remarks(shape, lengths, flops))]


FIXED, DYNAMIC, GROUPED = "Trainer, fixed length", "Trainer, dynamic", "Trainer, group_by_length"
CUT, BUCKETED, PACKED = "ours, default", "ours, bucket_steps=2", "ours, packed"
MINE, THEIRS = (CUT, BUCKETED, PACKED), (FIXED, DYNAMIC, GROUPED)
SETTINGS: dict[str, dict[str, Any]] = {
    CUT: {"packing": "off"},
    BUCKETED: {"packing": "off", "bucket_steps": EPOCH},
    PACKED: {"packing": "on"},
}


def _lengths(shape: Shape, count: int) -> list[int]:
    """Lognormal, scaled with the shape's longest row; the same for a shape."""
    scale = shape.length / 256
    drawn = np.random.default_rng(0).lognormal(math.log(MEAN) - SIGMA**2 / 2, SIGMA, count)
    return [int(n) for n in np.clip(drawn * scale, 4, 176 * scale)]


def _sides(shape: Shape, lengths: list[int], steps: int) -> dict[str, Side]:
    rows = token_rows(len(lengths), shape, lengths=lengths)

    def model() -> Any:
        return reference_model(shape)

    sides = {
        name: ours(
            model(), rows, ["full:vision_lr_scale=1"], batch=shape.rows, steps=steps, **settings
        )
        for name, settings in SETTINGS.items()
    }
    more = {"batch": shape.rows, "steps": steps}
    sides[FIXED] = trainer(model(), rows, collate=_fixed(shape.length), **more)
    sides[DYNAMIC] = trainer(model(), rows, **more)
    sides[GROUPED] = trainer(model(), rows, train_sampling_strategy="group_by_length", **more)
    return sides


def _fixed(length: int) -> Callable[[list[Any]], Mapping[str, Tensor]]:
    from holdfast.data import collate

    return lambda rows: collate(rows, pad_id=0, pad_to_multiple_of=length)


def _equal(shape: Shape, lengths: list[int]) -> list[Check]:
    """With as many rows as a step has, every side reads the same rows at its first step."""
    sides = _sides(shape, lengths, STEPS)
    found = {name: first_step(side) for name, side in sides.items()}
    for side in sides.values():
        side.steps.close()
    slow = found[DYNAMIC]
    return [
        Check.close(
            f"gradients, {name} and {DYNAMIC}", [found[name][n] for n in slow],
            list(slow.values()), TOLERANCE,
        )
        for name in (*MINE, FIXED, GROUPED)
    ]  # fmt: skip


def _turn(side: Side) -> Callable[[], None]:
    def epoch() -> None:
        for _ in range(EPOCH):
            side.steps()

    return epoch


def _remarks(shape: Shape, lengths: list[int], flops: Mapping[str, int]) -> list[str]:
    least = pad(token_rows(len(lengths), shape, lengths=lengths))["input_ids"].numel()
    fixed = shape.length * len(lengths)
    return [
        f"Real tokens are {sum(lengths) / fixed:.2f} of those padded to {shape.length}, and "
        f"{sum(lengths) / least:.2f} of those padded to the longest row of all: no side can do "
        "better than these shares of the products.",
        "On a processor, attention over a packed row computes the blocks between examples and "
        "throws them away, so packing is not the default there; with a flash or flex kernel it is.",
        "TRL's own packing is not in the table: without a flash kernel its packed examples "
        "attend to each other, so that its numbers are not those of unpacked rows.",
    ]
