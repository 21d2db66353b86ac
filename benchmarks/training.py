"""Recipes on the CPU reference shape, ours against transformers, TRL and PEFT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks._measure import Kept, Timing, one_thread, optimizer_bytes, take_turns
from benchmarks._models import REFERENCE, TINY, Shape, prefix_flops, reference_model, token_rows
from benchmarks._rows import Check, Goal, Row, Section
from benchmarks._sides import Side, freeze_but, ours, sft, trainer
from benchmarks._steps import first_step

RANK = 16
RECIPES = {
    "full": "full:vision_lr_scale=1",
    "sa-proj": "sa-proj",
    "gate-up": "gate-up",
    "mlp": "mlp",
    "last-2": "last-2",
}
"""Name of a row, and of the selector, to the method."""
TIME_GOALS = {"sa-proj": 0.80, "gate-up": 0.82, "last-2": 0.50}
CACHED = "last-2, cached prefix"
LORA = f"LoRA r{RANK}"
UNTIMED = ("Trainer, gate-up", "Trainer, mlp")
"""Slow sides of an equality alone; their time says what that of the other recipes says."""
TOLERANCE = 1e-4
"""Of gradients in float32, relative to the largest: kernels of other shapes round otherwise."""


def run(quick: bool = False) -> list[Section]:
    """Equality, FLOPs, saved bytes and time of one optimizer step."""
    one_thread()
    shape = TINY if quick else REFERENCE
    sides = _sides(shape)
    checks = _first_steps(sides)
    for name in UNTIMED:
        sides.pop(name).steps.close()
    flops = {name: side.steps.flops() for name, side in sides.items()}
    kept = {name: side.steps.saved(side.model) for name, side in sides.items()}
    timing = take_turns({n: s.steps for n, s in sides.items()}, warm_up=0, repeats=6)
    rows = [*_flops(shape, flops), *_bytes(kept), *_times(shape, timing)]
    states = [*_states(sides), _masters()]
    for side in sides.values():
        side.steps.close()
    setting = (
        f"{shape}, all tokens but the first supervised, float32, PyTorch's fused attention. "
        "Baselines: transformers' `Trainer` at its defaults; TRL's `SFTTrainer` tuned, which is "
        "its defaults without gradient checkpointing, since everything fits (fused AdamW and a "
        "tiled head are its defaults already); TRL at its defaults, but in float32: this "
        "processor has no bfloat16 units. `best` is the faster, or smaller, of the first two; "
        "'same recipe' means that the user has set `requires_grad` as the recipe does."
    )
    return [Section("One training step", setting, checks, [*rows, *states], _remarks(rows, kept))]


def _sides(shape: Shape) -> dict[str, Side]:
    """Every trainer that is timed. Names of baselines say whose they are."""
    from peft import LoraConfig

    from holdfast import lab
    from holdfast.models.loading import load_processor

    rows, processor = token_rows(shape.rows, shape), load_processor(lab.path("lab:lm"))
    batch = shape.rows

    def model(recipe: str | None = None) -> Any:
        made = reference_model(shape)
        return freeze_but(made, recipe) if recipe else made

    sides = {n: ours(model(), rows, [m], batch=batch) for n, m in RECIPES.items()}
    sides[CACHED] = ours(model(), rows, ["last-2"], batch=batch, cache="auto")
    sides[LORA] = ours(model(), rows, [f"lora:rank={RANK}"], batch=batch)
    for name in RECIPES:
        sides[f"Trainer, {name}"] = trainer(model(name), rows, batch=batch)
    for name in ("full", "sa-proj"):
        sides[f"TRL, {name}"] = sft(model(name), rows, processor, batch=batch, tuned=True)
    sides["TRL defaults"] = sft(model(), rows, processor, batch=batch, tuned=False)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=targets, lora_dropout=0.0)
    sides[f"TRL and PEFT, {LORA}"] = sft(
        model(), rows, processor, batch=batch, tuned=True, peft_config=lora
    )
    return sides


def _first_steps(sides: Mapping[str, Side]) -> list[Check]:
    """The first step of every side: same loss, and the same gradients where the same trains."""
    found = {name: first_step(side) for name, side in sides.items()}
    checks = []
    for name in (*RECIPES, CACHED):
        slow = found[f"Trainer, {'last-2' if name == CACHED else name}"]
        assert found[name].keys() == slow.keys()
        pairs = [(found[name][k], slow[k]) for k in slow]
        mine, theirs = [a for a, _ in pairs], [b for _, b in pairs]
        checks.append(Check.close(f"gradients of {name}, Trainer's", mine, theirs, TOLERANCE))
    for name in ("TRL, full", "TRL defaults"):
        slow = found["Trainer, full"]
        theirs = [found[name][k] for k in slow]
        checks.append(
            Check.close(f"gradients of {name}, Trainer's", theirs, list(slow.values()), TOLERANCE)
        )
    for side in sides.values():
        side.steps()  # a loss is logged once its step has ended
    for name, side in sides.items():
        loss, slow_loss = side.losses[0], sides["Trainer, full"].losses[0]
        checks.append(Check.close(f"first loss of {name}", loss, slow_loss, 1e-4))
    return checks


@dataclass(frozen=True)
class Predicted:
    """FLOPs that :mod:`holdfast.anatomy` counts for a step, without running it."""

    flops: float
    ratio: float
    """To full tuning's."""


def predict(shape: Shape, name: str) -> Predicted:
    """From the flow of ``requires_grad`` through the weights; :data:`CACHED` and LoRA by hand."""
    from holdfast.anatomy import anatomy
    from holdfast.anatomy.flow import Load, flops

    model = reference_model(shape)
    found = anatomy(model)
    load = Load(language=shape.length, head=shape.length - 1, scores=True)

    def count(selector: str) -> float:
        names = frozenset(found.select(selector).parameters)
        return flops(found, names, load).total * shape.rows

    full = count("full")
    if name == LORA:
        result = _lora_flops(found, load) * shape.rows
    elif name == CACHED:
        last = flops(found, frozenset(found.select("last-2").parameters), load)
        result = (last.total - prefix_flops(shape, shape.blocks - 2)) * shape.rows
    else:
        result = count(name)
    return Predicted(result, result / full)


def _lora_flops(found: Any, load: Any) -> float:
    """Forward and activation gradients of the frozen matrices, and the adapters' products."""
    from holdfast.anatomy.flow import flops

    matrices = [p for p in found.select("language[:].attn + language[:].mlp").parameters]
    frozen = flops(found, frozenset(matrices), load)
    shapes = [p.shape for p in found.parts if p.parameter in matrices and len(p.shape) == 2]
    adapters = sum(RANK * (rows + columns) for rows, columns in shapes)
    # the lowest q, k and v read the embedding, which needs no gradient
    lowest = 3 * RANK * found.config.hidden_size
    products = (3 * adapters - lowest) * load.language
    return 2 * (frozen.forward + frozen.activation + products)


BEST = ("Trainer, full", "TRL, full")


def _flops(shape: Shape, flops: Mapping[str, int]) -> list[Row]:
    rows = []
    full = min(flops[n] for n in BEST)
    for name in (*RECIPES, CACHED, LORA):
        told = predict(shape, name)
        rows.append(
            Row.counted(
                name, "the formula", "FLOPs", flops[name], told.flops, "FLOP",
                goal=Goal(0.01, "within"), predicted=1.0,
            )
        )  # fmt: skip
        if name != "full":
            rows.append(
                Row.counted(
                    name, "best full tuning", "FLOPs", flops[name], full, "FLOP",
                    predicted=told.ratio,
                )
            )  # fmt: skip
    rows.append(
        Row.counted("full", "TRL defaults, full", "FLOPs", flops["full"], flops["TRL defaults"],
                    "FLOP")
    )  # fmt: skip
    return rows


def _bytes(kept: Mapping[str, Kept]) -> list[Row]:
    full = min(kept[n].activations for n in BEST)
    rows = []
    for name in (*RECIPES, CACHED, LORA):
        goal = Goal(0.6) if name == "sa-proj" else None
        rows.append(
            Row.counted(
                name,
                "best full tuning",
                "saved bytes",
                kept[name].activations,
                full,
                "B",
                goal=goal,
            )
        )
    mine, theirs = kept["sa-proj"].activations, kept["TRL, sa-proj"].activations
    rows.append(Row.counted("sa-proj", "TRL, same recipe", "saved bytes", mine, theirs, "B"))
    mine, theirs = kept[LORA].activations, kept[f"TRL and PEFT, {LORA}"].activations
    rows.append(Row.counted(LORA, "TRL and PEFT", "saved bytes", mine, theirs, "B"))
    return rows


def _times(shape: Shape, timing: Timing) -> list[Row]:
    full = min(BEST, key=timing.median)
    rows = []
    for name in (*RECIPES, CACHED, LORA):
        goal = Goal(0.35) if name == CACHED else None
        goal = Goal(TIME_GOALS[name]) if name in TIME_GOALS else goal
        rows.append(
            Row.timed(
                name, "best full tuning", timing, name, full,
                predicted=predict(shape, name).ratio, goal=goal,
            )
        )  # fmt: skip
    pairs = [
        (n, f"Trainer, {n}", "Trainer, same recipe")
        for n in RECIPES
        if f"Trainer, {n}" not in UNTIMED
    ]
    pairs += [
        ("sa-proj", "TRL, sa-proj", "TRL tuned, same recipe"),
        ("full", "TRL, full", "TRL tuned, same recipe"),
        ("full", "TRL defaults", "TRL defaults, same recipe"),
        (LORA, f"TRL and PEFT, {LORA}", "TRL and PEFT, same adapter"),
        (CACHED, "Trainer, last-2", "Trainer, same recipe"),
    ]
    for name, side, label in pairs:
        rows.append(Row.timed(name, label, timing, name, side))
    return rows


def _states(sides: Mapping[str, Side]) -> list[Row]:
    """Bytes of AdamW's state per trained weight."""
    rows = []
    for name in (*RECIPES, LORA):
        side = sides[name]
        held = optimizer_bytes(side.optimizer)
        rows.append(
            Row.counted(
                f"{name}, optimizer state", "8 bytes per trained weight", "bytes",
                held, 8 * side.trained, "B", goal=Goal(0.0, "within"), predicted=1.0,
            )
        )  # fmt: skip
    return rows


def _masters() -> Row:
    """The same in bfloat16, where the optimizer's weights are float32 copies: 4 bytes more."""
    side = ours(
        reference_model(TINY).bfloat16(), token_rows(TINY.rows, TINY), ["sa-proj"],
        batch=TINY.rows, precision="bf16",
    )  # fmt: skip
    first_step(side)
    trained = [p for p in side.model.parameters() if p.requires_grad]
    masters = sum(p.numel() * p.element_size() for p in trained)
    held = optimizer_bytes(side.optimizer) + masters
    side.steps.close()
    return Row.counted(
        "sa-proj in bfloat16, optimizer state and float32 weights", "12 bytes per trained weight",
        "bytes", held, 12 * side.trained, "B", goal=Goal(0.0, "within"), predicted=1.0,
    )  # fmt: skip


def _remarks(rows: list[Row], kept: Mapping[str, Kept]) -> list[str]:
    """What the numbers say about the goals that they miss, and about the limit of the idea."""
    remarks = [
        "A recipe that chooses matrices in every block saves their weight gradients alone: the "
        "forward pass and the gradients of activations remain, two thirds of full tuning. Only "
        "depth (`last-2`) and what is looked up (`cached prefix`) go below."
    ]
    timed = [r for r in rows if r.quantity == "time" and r.baseline == "best full tuning"]
    for r in timed:
        if r.predicted is None or not r.steady:
            continue
        gap = r.ratio / r.predicted - 1
        if abs(gap) > 0.1 or r.verdict.startswith("missed"):
            told = f"{r.what}: the formula says {r.predicted:.3f} and the clock {r.ratio:.3f}"
            told += f" (goal {r.goal})." if r.goal else "."
            remarks.append(f"{told} {_why(r)}")
    size = next(r for r in rows if r.what == "sa-proj" and r.quantity == "saved bytes")
    mine, theirs = kept["sa-proj"].activations, kept["TRL, sa-proj"].activations
    if size.verdict.startswith("missed"):
        remarks.append(
            f"sa-proj keeps {size.ratio:.3f} of what full tuning keeps, goal {size.goal}: the "
            "residual stream, queries, keys, values and the MLP's two inner activations are "
            "needed on the way back although the MLP is frozen."
        )
    remarks.append(
        f"With the same recipe TRL keeps {theirs / mine:.2f} times as many bytes as ours."
    )
    return remarks


def _why(row: Row) -> str:
    assert row.predicted is not None
    if row.what == LORA:
        return (
            "Each adapter adds two thin products forward and four backward, and small products "
            f"run at a fraction of a large one's speed: at width {REFERENCE.width} they eat what "
            "the missing weight gradients save."
        )
    if row.ratio < row.predicted:
        return "The optimizer's work and what autograd keeps shrink too; FLOPs do not count them."
    return (
        "What is no matrix product (norms, rotations, activation functions, softmax, the data) is "
        "the same on both sides and not in the formula."
    )
