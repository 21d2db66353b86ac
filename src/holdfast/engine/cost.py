"""What a run will cost, before it starts: weights that move, FLOPs, memory, time.

Time and memory are measured, not guessed, where the model is small enough: in a short trial
(:mod:`holdfast.engine.trial`). For a larger model they come from the counted FLOPs and the
speed of a matrix product on this machine, and say so.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from holdfast.anatomy import load_meta
from holdfast.anatomy.cost import default_load
from holdfast.anatomy.flow import flops
from holdfast.engine import memory
from holdfast.engine.bound import Bound, bind
from holdfast.engine.trial import Trial, try_out
from holdfast.models.loading import load_config, pick_device

if TYPE_CHECKING:
    from holdfast.anatomy import Anatomy
    from holdfast.engine.preflight import Preflight
    from holdfast.plan import Plan

SMALL = 60_000_000
"""Parameters up to which a trial is cheap."""


def estimate(checked: Preflight) -> dict[str, Any]:
    """Trained weights, FLOPs ratio, bytes and seconds of a run."""
    meta = load_meta(str(checked.folder))
    bound = bind(checked.plan, meta)
    device = pick_device(None)
    small = checked.found.count <= SMALL
    found = try_out(checked) if small else _reckon(checked, bound)
    questions = sum(len(t.examples) for t in _tasks(checked)) * (len(checked.skills) + 1)
    return {
        "trained_parameters": bound.count,
        "flops_ratio": flops_ratio(checked, bound),
        "memory_bytes": found.peak,
        "memory_of": memory.MEANING[device.type],
        "seconds": found.training + found.asking,
        "seconds_asking": found.asking,
        "questions": questions,
        "estimated_by": "a trial" if small else "counted FLOPs",
    }


def flops_ratio(checked: Preflight, bound: Bound) -> float:
    """Training FLOPs over those of full tuning. An adapter's own small products are left out."""
    return flops_share(checked.found, checked.plan, bound)


def flops_share(found: Anatomy, plan: Plan, bound: Bound) -> float:
    """:func:`flops_ratio` of a plan that is bound to a model's shape."""
    load = default_load(found)
    everything = flops(found, frozenset(p.parameter for p in found.parts), load).total
    names = frozenset(bound.touched) & {p.parameter for p in found.parts}
    if not names:
        names = frozenset(p.parameter for p in found.select("language").parts)
    work = flops(found, names, load)
    spared = 2 * work.weight if plan.adapt is not None else 0.0
    return float((work.total - spared) / everything)


def _tasks(checked: Preflight) -> list[Any]:
    return [*(s.task for s in checked.skills), *checked.held_out]


def _states(bound: Bound, checked: Preflight) -> int:
    """As :func:`states`, in the dtypes that the run will use."""
    fp32 = checked.train.precision == "fp32" or pick_device(None).type == "cpu"
    return states(bound, frozen_bytes=4 if fp32 else 2)


def states(bound: Bound, *, frozen_bytes: int = 2) -> int:
    """Bytes of weights, gradients, AdamW's moments and the copies that terms compare with."""
    frozen = sum(p.numel() for p in bound.model.parameters()) - bound.count
    kept = sum(len(r.weights) > 0 for r in bound.references.values())
    return 16 * bound.count + frozen_bytes * frozen + 4 * bound.count * kept


def _reckon(checked: Preflight, bound: Bound) -> Trial:
    """The same from counted FLOPs and the speed of a matrix product."""
    rate = _speed()
    active = 2.0 * sum(p.count for p in checked.found.parts if p.unit != "embed")
    steps = zip(checked.surveys, checked.steps(), strict=True)
    tokens = sum(s.tokens / s.records * n * checked.train.batch_size for s, n in steps)
    training = 3 * active * tokens * flops_ratio(checked, bound) / rate
    text = checked.surveys[0].tokens / checked.surveys[0].records
    asked = sum((text + t.max_new_tokens) * len(t.examples) for t in _tasks(checked))
    size = checked.train.micro_batch_size or checked.train.batch_size
    config = load_config(checked.folder)
    inner = getattr(config, "text_config", config)
    width, depth = int(inner.hidden_size), int(inner.num_hidden_layers)
    per_token = 2 * width * depth * (2 if checked.train.gradient_checkpointing is True else 34)
    activations = int(per_token * size * max(s.longest for s in checked.surveys))
    device = pick_device(None)
    already = memory.peak(device) if device.type == "cpu" else 0
    return Trial(
        training,
        active * asked * (len(checked.skills) + 1) / rate,
        already + _states(bound, checked) + activations,
    )


def _speed() -> float:
    """FLOPs per second of a matrix product in the dtype that training will compute in."""
    device = pick_device(None)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    a = torch.randn(1024, 1024, device=device, dtype=dtype)
    for _ in range(3):
        a @ a
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(10):
        a @ a
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 10 * 2 * 1024**3 / (time.perf_counter() - began) * 0.5
